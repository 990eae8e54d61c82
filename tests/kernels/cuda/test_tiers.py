"""The choice between the tiers: what fits which device, the rule, and stored measurements."""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import choices, module, recurrence, tiers, tuning
from oracles.kernel_cases import EXTENTS, KERNEL_CASES, example
from oracles.numbers import TOLERANCE, distance
from standin.cupy_standin.architecture import ARCHITECTURES
from standin.cupy_standin.driver import CUDADriverError
from standin.cupy_standin.state import STATE


def forget_everything():
    module.forget()
    tiers.forget()
    choices.forget()


@pytest.fixture
def device(standin, monkeypatch, tmp_path):
    """Make the stand-in a device of an architecture, with no choices stored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    capgpu.set_backend("cuda")
    forget_everything()

    def become(name):
        STATE.architecture = ARCHITECTURES[name]
        forget_everything()
        return module.device_limits()

    become("sm_80")
    yield become
    forget_everything()


@pytest.fixture
def cuda(cupy, monkeypatch, tmp_path):
    """The CUDA device at hand, whatever its architecture, with no choices stored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    capgpu.set_backend("cuda")
    forget_everything()
    yield cupy
    forget_everything()


# --- the rule ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", tiers.PASSES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_persistent_plan_is_on_the_device_at_once(device, architecture, name, dtype):
    limits = device(architecture)
    for H, N in ((1, 1), (7, 3), (33, 33), (512, 64), (1024, 128)):
        for plan in tiers.candidates(name, dtype, H, N):
            if plan.tier == "persistent":
                assert plan.grid == plan.groups * -(-H // plan.units) <= limits.multiprocessors
                assert plan.shared <= limits.shared_per_block
                assert 1 <= plan.groups <= N


@pytest.mark.parametrize(
    ("architecture", "forward", "backward"),
    [
        ("sm_75", "step", "step"),
        ("sm_80", *["persistent"] * 2),
        ("sm_89", *["persistent"] * 2),
        ("sm_90", *["persistent"] * 2),
    ],
)
def test_512_units_stay_on_the_devices_that_have_room(device, architecture, forward, backward):
    # 4 MiB of recurrent weights: a T4 has 40 x 64 KiB
    device(architecture)
    assert tiers.plan("lstm_forward", "float32", 512, 64, 16).tier == forward
    assert tiers.plan("lstm_backward", "float32", 512, 64, 16).tier == backward


def test_a_kernel_that_the_driver_finds_no_room_for_is_not_launched(cuda, monkeypatch):
    real = module.Kernel.max_blocks_per_multiprocessor
    monkeypatch.setattr(
        module.Kernel,
        "max_blocks_per_multiprocessor",
        lambda kernel, block, shared=0: 0 if kernel.cooperative else real(kernel, block, shared),
    )
    assert tiers.plan("lstm_forward", "float32", 64, 8, 5).tier == "step"
    monkeypatch.setattr(module.Kernel, "max_blocks_per_multiprocessor", lambda kernel, block, shared=0: 0)
    tiers.forget()
    assert tiers.plan("lstm_forward", "float32", 64, 8, 5).tier == "matmul"


def test_a_single_step_keeps_nothing_and_large_steps_are_left_to_cublas(cuda):
    assert tiers.plan("rnn_forward", "float32", 64, 8, 1).tier == "step"
    assert tiers.plan("rnn_forward", "float32", 64, 8, 2).tier == "persistent"
    assert tiers.plan("lstm_forward", "float32", 2048, 64, 16) == tiers.Plan("matmul")


def test_a_device_without_cooperative_launches_takes_a_launch_a_step(cuda, monkeypatch):
    real = module.device_limits()
    monkeypatch.setattr(module, "device_limits", lambda: module.Limits(**{**vars(real), "cooperative": False}))
    assert tiers.plan("lstm_backward", "float32", 64, 8, 5).tier == "step"


def test_the_persistent_tier_is_one_launch_and_the_step_tier_one_a_step(cuda):
    steps, H = recurrence.Steps.of(np.array([3, 2, 2])), 8
    wide, narrow = cuda.zeros((7, 4 * H)), cuda.zeros((7, H))
    for tier, forward, backward in (("persistent", 1, 1), ("step", 3, 4)):
        plans = {
            name: next(p for p in tiers.candidates(name, "float64", H, 3) if p.tier == tier)
            for name in ("lstm_forward", "lstm_backward")
        }
        args = (cuda.zeros((3, H)), None, cuda.zeros((H, 4 * H)), steps)
        with module.counting() as launches:
            recurrence.lstm_forward_into(
                wide, None, *args, narrow.copy(), narrow.copy(), wide.copy(), plan=plans["lstm_forward"]
            )
        assert len(launches) == forward
        with module.counting() as launches:
            recurrence.lstm_backward_into(
                narrow, None, wide, narrow, None, *args[2:], wide.copy(), args[0].copy(), args[0].copy(),
                plan=plans["lstm_backward"],
            )  # fmt: skip
        assert len(launches) == backward


def test_tensor_cores_are_taken_where_they_are_asked_for_and_there(device, monkeypatch):
    def taken(dtype="float32"):
        return tiers.plan("lstm_forward", dtype, 64, 8, 5).tensor_cores

    assert not taken()
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", "1")
    assert taken()
    assert taken("float16")
    assert not taken("float64")
    device("sm_75")
    assert not taken()
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", "yes")
    with pytest.raises(ValueError, match="set it to 1 or 0"):
        taken()


# --- stored choices ---------------------------------------------------------------------------------


def test_a_stored_choice_comes_before_the_rule_on_its_device_alone(device):
    assert tiers.plan("rnn_forward", "float32", 64, 8, 5).tier == "persistent"
    name = module.device_limits().name
    choices.store(name, {choices.shape_key("rnn_forward", "float32", 64, 8): ("step", 16)})
    tiers.forget()
    choices.forget()
    assert tiers.plan("rnn_forward", "float32", 64, 8, 5).tier == "step"
    assert tiers.plan("rnn_forward", "float32", 64, 9, 5).tier == "persistent"
    device("sm_90")
    assert tiers.plan("rnn_forward", "float32", 64, 8, 5).tier == "persistent"


def test_a_stored_choice_that_does_not_fit_any_more_is_passed_over(cuda):
    choices.store(module.device_limits().name, {choices.shape_key("rnn_forward", "float32", 64, 8): ("persistent", 5)})
    assert tiers.plan("rnn_forward", "float32", 64, 8, 5).units in tiers.PASSES["rnn_forward"].units


def test_choices_of_other_shapes_and_devices_are_kept(device):
    choices.store("one", {"a": ("step", 8)})
    choices.store("two", {"b": ("matmul", 0)})
    choices.store("one", {"c": ("persistent", 16)})
    content = json.loads(choices.path().read_text())
    assert {name: set(shapes) for name, shapes in content["devices"].items()} == {"one": {"a", "c"}, "two": {"b"}}
    assert [path.name for path in choices.path().parent.iterdir()] == ["tuning.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2, "devices": {}}', '{"format": 1, "devices": {"x": {"y": 3}}}']
)
def test_a_file_that_makes_no_sense_is_told_once_and_counts_as_absent(device, text):
    choices.path().parent.mkdir(parents=True)
    choices.path().write_text(text)
    with pytest.warns(RuntimeWarning, match=r"tuning\.json is not used.*capgpu tune writes it anew"):
        assert choices.lookup("x", "y") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choices.lookup("x", "y") is None


def test_a_folder_that_cannot_be_written_is_told_and_the_choice_holds_in_this_process(device, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.warns(RuntimeWarning, match="XDG_CACHE_HOME"):
        assert choices.store("device", {"shape": ("step", 8)}) is None
    assert choices.lookup("device", "shape") == ("step", 8)


def test_choices_are_kept_where_folders_cannot_be_locked(device, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert choices.store("device", {"shape": ("step", 8)}) == choices.path()
    choices.forget()
    assert choices.lookup("device", "shape") == ("step", 8)


def test_a_relative_cache_folder_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert choices.path() == tmp_path / ".cache" / "capgpu" / "tuning.json"


# --- measuring --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_measuring_times_every_plan_that_fits_and_stores_the_fastest(cuda, cell):
    measured = tuning.measure(cell, "float32", 8, 3, 2, repeats=1)
    for direction in ("forward", "backward"):
        name = f"{cell}_{direction}"
        found = [entry.plan for entry in measured if entry.name == name]
        assert {(p.tier, p.units) for p in found} == {
            (p.tier, p.units) for p in tiers.candidates(name, "float32", 8, 3)
        }
    slowest_first = sorted(measured, key=lambda entry: -entry.milliseconds)
    assert tuning.store(slowest_first, "float32", 8, 3) == choices.path()
    for name in {entry.name for entry in measured}:
        fastest = min((e for e in measured if e.name == name), key=lambda entry: entry.milliseconds).plan
        chosen = tiers.plan(name, "float32", 8, 3, 2)
        assert (chosen.tier, chosen.units) == (fastest.tier, fastest.units)


# --- drivers that refuse ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [720, 801])
@pytest.mark.parametrize("name", tiers.PASSES)
def test_where_the_driver_refuses_a_cooperative_launch_steps_are_taken_with_one_warning(device, name, status):
    case = next(case for case in KERNEL_CASES if case.operation == name)
    arguments, wanted = example(case, EXTENTS[1], "float32")

    def run():
        there = {
            key: capgpu.asarray(value) if isinstance(value, np.ndarray) and key != "batch_sizes" else value
            for key, value in arguments.items()
        }
        with module.counting() as launches:
            results = getattr(recurrence, name)(**there)
        results = results if isinstance(results, tuple) else (results,)
        for got, want, kind in zip(results, wanted, case.kinds, strict=True):
            assert distance(capgpu.to_numpy(got), want) < TOLERANCE["float32"][kind]
        return set(launches)

    STATE.cooperative_refusal = status
    with pytest.warns(RuntimeWarning, match=rf"kernel {name}: the driver refuses a cooperative launch") as said:
        assert run() == {name, f"{name}_step"}
    assert len(said) == 1
    assert not module.device_limits().cooperative
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run() == {f"{name}_step"}
        # what is known of the device holds when stored choices change
        tiers.forget()
        assert run() == {f"{name}_step"}
        assert "persistent" not in {plan.tier for plan in tiers.candidates(name, "float32", 64, 8)}


def test_another_error_of_the_driver_is_passed_on(device):
    STATE.cooperative_refusal = 1
    with pytest.raises(CUDADriverError, match="CUDA_ERROR_INVALID_VALUE"):
        recurrence.rnn_forward(
            *(capgpu.asarray(np.ones(shape, np.float32)) for shape in [(6, 64)]),
            None,
            *(capgpu.asarray(np.ones(shape, np.float32)) for shape in [(3, 64), (64, 64)]),
            np.array([3, 3]),
        )
    assert module.device_limits().cooperative


def test_a_plan_that_the_driver_refuses_is_not_measured(device):
    STATE.cooperative_refusal = 720
    measured = tuning.measure("rnn", "float32", 8, 3, 2, repeats=1)
    assert {entry.plan.tier for entry in measured} == {"step", "matmul"}
