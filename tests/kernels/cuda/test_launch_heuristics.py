"""The choice between the algorithms: what fits which device, the rule, and stored measurements."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import compile, cost, launch_heuristics, recurrence, tuning, tuning_cache
from capgpu.kernels.cuda.device_calls import counting
from oracles.kernel_cases import EXTENTS, KERNEL_CASES, example, present
from oracles.numbers import TOLERANCE, distance
from simulators.cupy_standin.architecture import ARCHITECTURES
from simulators.cupy_standin.driver import CUDADriverError
from simulators.cupy_standin.state import STATE


def forget_everything():
    compile.forget()
    launch_heuristics.forget()
    tuning_cache.forget()


@pytest.fixture
def device(standin, monkeypatch, tmp_path):
    """Make the stand-in a device of an architecture, with no choices stored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    capgpu.set_backend("cuda")
    forget_everything()

    def become(name):
        STATE.architecture = ARCHITECTURES[name]
        forget_everything()
        return compile.device_limits()

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


@pytest.mark.nightly(unless=lambda p: p.dtype == "float32")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", launch_heuristics.PASSES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_blocks_of_a_persistent_configuration_are_resident(device, architecture, name, dtype):
    limits = device(architecture)
    for H, N in ((1, 1), (7, 3), (33, 33), (512, 64), (1024, 128)):
        for config in launch_heuristics.candidates(name, dtype, H, N):
            if config.algorithm == "persistent":
                assert config.grid == config.groups * -(-H // config.units) <= limits.multiprocessors
                assert config.shared <= limits.shared_per_block
                assert 1 <= config.groups <= N


@pytest.mark.parametrize(
    ("architecture", "forward", "backward"),
    [
        ("sm_75", "step", "step"),
        ("sm_80", *["persistent"] * 2),
        ("sm_89", *["persistent"] * 2),
        ("sm_90", *["persistent"] * 2),
    ],
)
def test_512_units_are_persistent_on_devices_with_enough_shared_memory(device, architecture, forward, backward):
    # 4 MiB of recurrent weights: a T4 has 40 x 64 KiB
    device(architecture)
    assert launch_heuristics.choose("lstm_forward", "float32", 512, 64, 16).algorithm == forward
    assert launch_heuristics.choose("lstm_backward", "float32", 512, 64, 16).algorithm == backward


def test_a_kernel_that_the_driver_finds_no_room_for_is_not_launched(cuda, monkeypatch):
    real = compile.Kernel.max_blocks_per_multiprocessor
    monkeypatch.setattr(
        compile.Kernel,
        "max_blocks_per_multiprocessor",
        lambda kernel, block, shared=0: 0 if kernel.cooperative else real(kernel, block, shared),
    )
    assert launch_heuristics.choose("lstm_forward", "float32", 64, 8, 5).algorithm == "step"
    monkeypatch.setattr(compile.Kernel, "max_blocks_per_multiprocessor", lambda kernel, block, shared=0: 0)
    launch_heuristics.forget()
    assert launch_heuristics.choose("lstm_forward", "float32", 64, 8, 5).algorithm == "matmul"


def test_one_step_uses_no_persistent_kernel_and_large_steps_use_cublas(device):
    assert launch_heuristics.choose("rnn_forward", "float32", 64, 8, 1).algorithm == "step"
    assert launch_heuristics.choose("rnn_forward", "float32", 64, 8, 2).algorithm == "persistent"
    assert launch_heuristics.choose("lstm_forward", "float32", 2048, 64, 16) == launch_heuristics.LaunchConfig("matmul")


def test_a_device_without_cooperative_launches_takes_a_launch_a_step(cuda, monkeypatch):
    real = compile.device_limits()
    monkeypatch.setattr(compile, "device_limits", lambda: compile.Limits(**{**vars(real), "cooperative": False}))
    assert launch_heuristics.choose("lstm_backward", "float32", 64, 8, 5).algorithm == "step"


def test_the_persistent_tier_is_one_launch_and_the_step_tier_one_a_step(cuda):
    steps, H = recurrence.Steps.of(np.array([3, 2, 2])), 8
    wide, narrow = cuda.zeros((7, 4 * H)), cuda.zeros((7, H))
    for algorithm, forward, backward in (("persistent", 1, 1), ("step", 3, 4)):
        configs = {
            name: next(p for p in launch_heuristics.candidates(name, "float64", H, 3) if p.algorithm == algorithm)
            for name in ("lstm_forward", "lstm_backward")
        }
        h0, Wh = cuda.zeros((3, H)), cuda.zeros((H, 4 * H))
        inputs = recurrence.ForwardInputs(wide, None, h0, None, Wh)
        outputs = recurrence.ForwardOutputs(narrow.copy(), narrow.copy(), wide.copy())
        with counting() as launches:
            recurrence.forward_into(recurrence.CELLS["lstm"], inputs, steps, outputs, configs["lstm_forward"])
        assert len(launches) == forward
        gradients = recurrence.BackwardInputs(narrow, None, wide, narrow, None, Wh)
        results = recurrence.BackwardOutputs(wide.copy(), h0.copy(), h0.copy())
        with counting() as launches:
            recurrence.backward_into(recurrence.CELLS["lstm"], gradients, steps, results, configs["lstm_backward"])
        assert len(launches) == backward


@pytest.mark.parametrize(
    ("setting", "architecture", "uses_tensor_cores"),
    [
        (
            None,
            "sm_80",
            {
                "float16": launch_heuristics.ROUNDED,
                "bfloat16": launch_heuristics.ROUNDED,
                "float32": launch_heuristics.SPLIT,
            },
        ),
        (
            "",
            "sm_90",
            {
                "float16": launch_heuristics.ROUNDED,
                "bfloat16": launch_heuristics.ROUNDED,
                "float32": launch_heuristics.SPLIT,
            },
        ),
        (
            "1",
            "sm_80",
            {
                "float16": launch_heuristics.ROUNDED,
                "bfloat16": launch_heuristics.ROUNDED,
                "float32": launch_heuristics.ROUNDED,
            },
        ),
        # three products of TF32 take longer there than one of float32
        (
            "",
            "sm_89",
            {
                "float16": launch_heuristics.ROUNDED,
                "bfloat16": launch_heuristics.ROUNDED,
                "float32": launch_heuristics.PLAIN,
            },
        ),
        (
            "1",
            "sm_89",
            {
                "float16": launch_heuristics.ROUNDED,
                "bfloat16": launch_heuristics.ROUNDED,
                "float32": launch_heuristics.ROUNDED,
            },
        ),
        ("0", "sm_90", {}),
        (None, "sm_75", {}),
        ("1", "sm_75", {}),
    ],
)
def test_tensor_cores_are_used_if_enabled_and_available(device, monkeypatch, setting, architecture, uses_tensor_cores):
    if setting is None:
        monkeypatch.delenv("CAPGPU_TENSOR_CORES", raising=False)
    else:
        monkeypatch.setenv("CAPGPU_TENSOR_CORES", setting)
    device(architecture)
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        config = launch_heuristics.choose("lstm_forward", dtype, 64, 8, 5)
        assert config.algorithm == "persistent"
        assert config.tensor_cores == uses_tensor_cores.get(dtype, launch_heuristics.PLAIN)


def test_a_change_of_the_setting_holds_at_once(device, monkeypatch):
    for setting in ("0", "1", "0"):
        monkeypatch.setenv("CAPGPU_TENSOR_CORES", setting)
        for dtype in ("float16", "float32"):
            assert launch_heuristics.choose("lstm_forward", dtype, 64, 8, 5).tensor_cores == (setting == "1")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_another_setting_of_the_tensor_cores_is_refused(device, monkeypatch, dtype):
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", "yes")
    with pytest.raises(ValueError, match="CAPGPU_TENSOR_CORES: expected 1, 0 or unset, got 'yes'"):
        launch_heuristics.choose("lstm_forward", dtype, 64, 8, 5)


# --- estimated times --------------------------------------------------------------------------------

#: At H = 512, 64 and 128 sequences (S1 and S3 of bench/workloads.py): algorithm, units of a block, groups.
CHOICES = {
    ("sm_90", "float32"): {
        "lstm_forward": [("persistent", 16, 4)] * 2,
        "lstm_backward": [("persistent", 16, 4)] * 2,
        "gru_forward": [("persistent", 16, 4)] * 2,
        "gru_backward": [("persistent", 16, 4)] * 2,
        "rnn_forward": [("persistent", 16, 4), ("persistent", 32, 8)],
        "rnn_backward": [("persistent", 16, 4), ("persistent", 32, 8)],
    },
    ("sm_90", "float16"): {
        "lstm_forward": [("persistent", 16, 4)] * 2,
        "lstm_backward": [("persistent", 32, 8)] * 2,
        "gru_forward": [("persistent", 16, 4)] * 2,
        "gru_backward": [("persistent", 16, 4), ("persistent", 32, 8)],
        "rnn_forward": [("persistent", 16, 4), ("persistent", 32, 8)],
        "rnn_backward": [("persistent", 16, 4), ("persistent", 32, 8)],
    },
    ("sm_89", "float32"): {
        "lstm_forward": [("persistent", 8, 2)] * 2,
        "lstm_backward": [("persistent", 8, 2), ("step", 16, 0)],
        "gru_forward": [("persistent", 8, 2)] * 2,
        "gru_backward": [("persistent", 8, 2), ("step", 16, 0)],
        "rnn_forward": [("persistent", 32, 8)] * 2,
        "rnn_backward": [("persistent", 32, 8)] * 2,
    },
    ("sm_80", "float32"): {
        "lstm_forward": [("persistent", 16, 3)] * 2,
        "lstm_backward": [("persistent", 16, 3)] * 2,
        "gru_forward": [("persistent", 16, 3)] * 2,
        "gru_backward": [("persistent", 16, 3)] * 2,
        "rnn_forward": [("persistent", 32, 6)] * 2,
        "rnn_backward": [("persistent", 32, 6)] * 2,
    },
    ("sm_80", "float16"): {
        "lstm_forward": [("persistent", 16, 3)] * 2,
        "lstm_backward": [("persistent", 32, 6)] * 2,
        "gru_forward": [("persistent", 16, 3)] * 2,
        "gru_backward": [("persistent", 32, 6)] * 2,
        "rnn_forward": [("persistent", 32, 6)] * 2,
        "rnn_backward": [("persistent", 32, 6)] * 2,
    },
    ("sm_75", "float32"): {
        "lstm_forward": [("step", 8, 0)] * 2,
        "lstm_backward": [("step", 16, 0)] * 2,
        "gru_forward": [("step", 8, 0)] * 2,
        "gru_backward": [("step", 16, 0)] * 2,
        "rnn_forward": [("persistent", 16, 1), ("matmul", 0, 0)],
        "rnn_backward": [("persistent", 16, 1)] * 2,
    },
    ("sm_75", "float16"): {
        "lstm_forward": [("step", 8, 0), ("matmul", 0, 0)],
        "lstm_backward": [("step", 16, 0)] * 2,
        "gru_forward": [("step", 8, 0)] * 2,
        "gru_backward": [("step", 16, 0)] * 2,
        "rnn_forward": [("matmul", 0, 0)] * 2,
        "rnn_backward": [("persistent", 32, 2)] * 2,
    },
}


@pytest.mark.parametrize("name", launch_heuristics.PASSES)
@pytest.mark.parametrize(("architecture", "dtype"), CHOICES)
def test_the_heuristics_choices_on_four_devices(device, architecture, dtype, name):
    device(architecture)
    chosen = [launch_heuristics.choose(name, dtype, 512, N, 16) for N in (64, 128)]
    assert [(config.algorithm, config.units, config.groups) for config in chosen] == CHOICES[architecture, dtype][name]


def every_plan(name, dtype, H, N):
    kind = launch_heuristics.PASSES[name]
    persistent = (
        launch_heuristics.persistent(name, dtype, H, N, units, groups) for units in kind.units for groups in (1, 2)
    )
    return [*persistent, launch_heuristics._step(name, dtype, H, N), launch_heuristics._matmul(name, dtype, H, N)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", launch_heuristics.PASSES)
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_more_rows_and_more_units_never_take_less_time(device, architecture, name, dtype):
    device(architecture)
    by_rows = [
        [config.step_us for config in every_plan(name, dtype, 64, N)] for N in (2, 3, 8, 31, 32, 33, 64, 100, 1000)
    ]
    by_units = [[config.step_us for config in every_plan(name, dtype, H, 40)] for H in (16, 17, 64, 512, 2048)]
    for times in (by_rows, by_units):
        assert np.all(np.diff(times, axis=0) >= 0)
        assert np.all(np.array(times[-1]) > times[0])


@pytest.mark.parametrize("name", launch_heuristics.PASSES)
def test_estimates_do_not_increase_with_a_faster_device(device, monkeypatch, name):
    slow = compile.device_limits()

    def times(**changed):
        limits = dataclasses.replace(slow, **changed)
        monkeypatch.setattr(compile, "device_limits", lambda: limits)
        return np.array([config.step_us for config in every_plan(name, "float32", 512, 64)])

    assert np.all(times(clock_hz=2 * slow.clock_hz) < times())
    assert np.all(times(multiprocessors=2 * slow.multiprocessors) <= times())
    assert np.all(times(compute_capability=(9, 0)) <= times())
    assert np.all(times(clock_hz=0.0) == times(clock_hz=cost._CLOCK_HZ))


@pytest.mark.parametrize("name", launch_heuristics.PASSES)
def test_the_cost_of_a_tiny_step_is_its_fixed_launch_time(device, name):
    for config in every_plan(name, "float32", 1, 2):
        launches = {"persistent": 0, "step": 1, "matmul": launch_heuristics.PASSES[name].launches}[config.algorithm]
        fixed = launches * cost.HOST_LAUNCH_US or cost.STEP_US
        assert fixed < config.step_us < fixed + 1


def test_tensor_cores_take_less_time_where_they_are_faster(device, monkeypatch):
    def time(architecture):
        device(architecture)
        taken = []
        for setting in "01":
            monkeypatch.setenv("CAPGPU_TENSOR_CORES", setting)
            taken.append(launch_heuristics.persistent("lstm_forward", "float32", 512, 64, 16, 4).step_us)
        return taken

    for architecture in ("sm_80", "sm_90"):
        plain, tensor = time(architecture)
        assert tensor < 0.7 * plain
    plain, tensor = time("sm_75")  # which has none for these kernels
    assert tensor == plain


def test_an_unknown_architecture_is_treated_as_the_next_older_one():
    assert cost.rates((8, 7)) == cost.rates((8, 6))
    assert cost.rates((13, 0)) == cost.rates((12, 0))
    assert cost.rates((7, 0)) == cost.rates((7, 5))
    assert {cost.rates(architecture.capability).single for architecture in ARCHITECTURES.values()} == {64, 128}


# --- stored choices ---------------------------------------------------------------------------------


def test_a_stored_measurement_precedes_the_heuristic_on_its_device_only(device):
    assert launch_heuristics.choose("rnn_forward", "float32", 64, 8, 5).algorithm == "persistent"
    name = compile.device_limits().name
    tuning_cache.store(name, {tuning_cache.shape_key("rnn_forward", "float32", 64, 8): ("step", 16)})
    launch_heuristics.forget()
    tuning_cache.forget()
    assert launch_heuristics.choose("rnn_forward", "float32", 64, 8, 5).algorithm == "step"
    assert launch_heuristics.choose("rnn_forward", "float32", 64, 9, 5).algorithm == "persistent"
    device("sm_90")
    assert launch_heuristics.choose("rnn_forward", "float32", 64, 8, 5).algorithm == "persistent"


def test_a_stored_measurement_of_a_missing_variant_is_ignored(cuda):
    tuning_cache.store(
        compile.device_limits().name, {tuning_cache.shape_key("rnn_forward", "float32", 64, 8): ("persistent", 5)}
    )
    assert (
        launch_heuristics.choose("rnn_forward", "float32", 64, 8, 5).units
        in launch_heuristics.PASSES["rnn_forward"].units
    )


def test_measurements_of_other_shapes_and_devices_are_kept(device):
    tuning_cache.store("one", {"a": ("step", 8)})
    tuning_cache.store("two", {"b": ("matmul", 0)})
    tuning_cache.store("one", {"c": ("persistent", 16)})
    content = json.loads(tuning_cache.path().read_text())
    assert {name: set(shapes) for name, shapes in content["devices"].items()} == {"one": {"a", "c"}, "two": {"b"}}
    assert [path.name for path in tuning_cache.path().parent.iterdir()] == ["tuning.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1, "devices": {}}', '{"format": 2, "devices": {"x": {"y": 3}}}']
)
def test_a_file_that_cannot_be_parsed_warns_once_and_counts_as_absent(device, text):
    tuning_cache.path().parent.mkdir(parents=True)
    tuning_cache.path().write_text(text)
    with pytest.warns(RuntimeWarning, match=r"tuning\.json is not used.*capgpu tune writes a new one"):
        assert tuning_cache.lookup("x", "y") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuning_cache.lookup("x", "y") is None


def test_a_measurement_that_cannot_be_stored_warns_and_applies_in_this_process(device, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.warns(RuntimeWarning, match="XDG_CACHE_HOME"):
        assert tuning_cache.store("device", {"shape": ("step", 8)}) is None
    assert tuning_cache.lookup("device", "shape") == ("step", 8)


def test_measurements_are_stored_where_folders_cannot_be_locked(device, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert tuning_cache.store("device", {"shape": ("step", 8)}) == tuning_cache.path()
    tuning_cache.forget()
    assert tuning_cache.lookup("device", "shape") == ("step", 8)


def test_a_relative_cache_folder_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert tuning_cache.path() == tmp_path / ".cache" / "capgpu" / "tuning.json"


# --- measuring --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", recurrence.CELLS)
def test_measuring_times_every_configuration_and_stores_the_fastest(cuda, cell):
    measured = tuning.measure(cell, "float32", 8, 3, 2, repeats=1)
    for direction in ("forward", "backward"):
        name = f"{cell}_{direction}"
        found = [entry.config for entry in measured if entry.name == name]
        assert {(p.algorithm, p.units) for p in found} == {
            (p.algorithm, p.units) for p in launch_heuristics.candidates(name, "float32", 8, 3)
        }
    slowest_first = sorted(measured, key=lambda entry: -entry.milliseconds)
    assert tuning.store(slowest_first, "float32", 8, 3) == tuning_cache.path()
    for name in {entry.name for entry in measured}:
        fastest = min((e for e in measured if e.name == name), key=lambda entry: entry.milliseconds).config
        chosen = launch_heuristics.choose(name, "float32", 8, 3, 2)
        assert (chosen.algorithm, chosen.units) == (fastest.algorithm, fastest.units)


# --- drivers that refuse ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [720, 801])
@pytest.mark.parametrize("name", launch_heuristics.PASSES)
def test_a_refused_cooperative_launch_falls_back_to_step_kernels_with_one_warning(device, name, status):
    case = next(case for case in KERNEL_CASES if case.operation == name)
    arguments, expected = example(case, EXTENTS[1], "float32")

    def run():
        dev_arguments = {
            key: capgpu.asarray(value) if isinstance(value, np.ndarray) and key != "batch_sizes" else value
            for key, value in arguments.items()
        }
        with counting() as launches:
            results = getattr(recurrence, name)(**dev_arguments)
        for actual, expected_array in zip(present(results), present(expected), strict=True):
            assert distance(capgpu.to_numpy(actual), expected_array) < TOLERANCE["float32"]["gradient"]
        return set(launches)

    STATE.cooperative_refusal = status
    with pytest.warns(
        RuntimeWarning, match=rf"kernel {name}_split: the driver refuses a cooperative launch"
    ) as warnings_raised:
        assert run() == {f"{name}_split", f"{name}_step"}
    assert len(warnings_raised) == 1
    assert not compile.device_limits().cooperative
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run() == {f"{name}_step"}
        # what is known of the device holds when stored choices change
        launch_heuristics.forget()
        assert run() == {f"{name}_step"}
        assert "persistent" not in {config.algorithm for config in launch_heuristics.candidates(name, "float32", 64, 8)}


def test_another_error_of_the_driver_is_passed_on(device):
    STATE.cooperative_refusal = 1
    with pytest.raises(CUDADriverError, match="CUDA_ERROR_INVALID_VALUE"):
        recurrence.rnn_forward(
            capgpu.asarray(np.ones((6, 64), np.float32)),
            None,
            capgpu.asarray(np.ones((3, 64), np.float32)),
            None,
            capgpu.asarray(np.ones((64, 64), np.float32)),
            np.array([3, 3]),
        )
    assert compile.device_limits().cooperative


def test_a_configuration_that_the_driver_refuses_is_not_measured(device):
    STATE.cooperative_refusal = 720
    measured = tuning.measure("rnn", "float32", 8, 3, 2, repeats=1)
    assert {entry.config.algorithm for entry in measured} == {"step", "matmul"}
