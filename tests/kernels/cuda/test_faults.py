"""Faults of a user's machine: a clear message, and no other data changed.

The loader's own refusals are in test_compile.py, the training step's in test_training.py, those of the tuning cache in
test_launch_heuristics.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capgpu
from capgpu import layers
from capgpu.kernels.cuda import compile, launch_heuristics, tuning_cache
from capgpu.kernels.cuda.array_checks import DeviceMemoryError
from capgpu.kernels.cuda.device_calls import counting
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from oracles.device_memory import little_memory
from oracles.numbers import TOLERANCE, distance
from oracles.scenes import CAPTIONS, SIZES, WORDS, features_for, parameters
from oracles.snapshots import frozen
from simulators import cupy_standin

ROOT = Path(__file__).resolve().parents[3]
GOOD = CAPTIONS["padded"]


def captioner(cell: str = "lstm", **settings: Any) -> CaptioningRNN:
    model = CaptioningRNN(WORDS, **SIZES, cell_type=cell, dtype="float32", seed=0, **settings)
    for name, array in parameters(cell, dtype="float32").items():
        model.params[name] = capgpu.asarray(array)
    return model


def features() -> Any:
    return capgpu.asarray(features_for(GOOD, "float32"))


# --- token ids, devices, memory layouts, nothing at all ---------------------------------------------------------------


@pytest.mark.parametrize("invalid_captions", [-1, len(WORDS)])
def test_ids_out_of_range_are_refused_before_any_launch(device, invalid_captions):
    model, captions = captioner(), np.where(GOOD == 6, invalid_captions, GOOD)
    snapshot = frozen(model.params)
    for captions_argument in (captions, device.asarray(captions)):
        with (
            counting() as launches,
            pytest.raises(ValueError, match=rf"expected an id in 0\.\.6, got {invalid_captions}"),
        ):
            model.loss(features(), captions_argument)
        assert launches == []
    with pytest.raises(ValueError, match=rf"expected ids in 0\.\.6 for the 7 entries of .*, got {invalid_captions}"):
        layers.word_embedding_forward(device.asarray(captions), model.params["W_embed"])
    assert frozen(model.params) == snapshot


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_arrays_of_another_device_are_refused_in_every_call(emulator, cell):
    forward = {"lstm": layers.lstm_forward, "rnn": layers.rnn_forward}[cell]
    with cupy_standin.installed(device_count=2) as cupy:
        cupy_standin.set_kernel_runner(emulator)
        compile.forget()
        capgpu.set_backend("cuda")
        model = captioner(cell)
        x, h0 = cupy.ones((2, 3, SIZES["wordvec_dim"]), "f"), cupy.ones((2, SIZES["hidden_dim"]), "f")
        weights = [model.params[name] for name in ("Wx", "Wh", "b")]
        forward(x, h0, *weights)
        _, grads = model.loss(features(), GOOD)
        with cupy.cuda.Device(1):
            dev_array = cupy.ones((SIZES["hidden_dim"], weights[1].shape[1]), "f")
        arguments = [x, h0, *weights]
        for index in range(1, len(arguments)):  # x is laid out anew, on the current device
            with cupy.cuda.Device(1):
                other_device_array = cupy.ones(arguments[index].shape, "f")
            with pytest.raises(ValueError, match=r"on device 1, but the current device is 0.*cupy\.cuda\.Device\(1\)"):
                forward(*arguments[:index], other_device_array, *arguments[index + 1 :])
        optimizer, before_call = Optimizer("adam"), frozen(model.params)
        with pytest.raises(ValueError, match=r"is on device 1, but the current device is 0"):
            optimizer.step(model.params, {**grads, "Wh": dev_array})
        assert frozen(model.params) == before_call
        pictures = features()
        with cupy.cuda.Device(1), pytest.raises(ValueError, match=r"is on device 0, but the current device is 1"):
            model.sample(pictures)
    compile.forget()


def test_host_and_device_arrays_in_one_call_are_refused_by_name(device):
    model = captioner()
    with pytest.raises(TypeError, match=r"features is a NumPy array \(host\).*capgpu\.asarray\(features\)"):
        model.loss(features_for(GOOD, "float32"), GOOD)
    model.params["Wx"] = capgpu.to_numpy(model.params["Wx"])
    with pytest.raises(TypeError, match=r"params\['Wx'\] is a NumPy array \(host\)"):
        model.loss(features(), GOOD)


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_noncontiguous_operands_give_the_same_bits(device, cell):
    model = captioner(cell)
    expected = frozen(model.loss(features(), GOOD))
    words = frozen(model.sample(features()))
    wide = device.asarray(np.repeat(features_for(GOOD, "float32"), 2, axis=1))[:, ::2]
    assert not wide.flags.c_contiguous
    for name, array in model.params.items():
        if array.ndim == 2:
            model.params[name] = device.asarray(np.asfortranarray(capgpu.to_numpy(array)), order="F")
            assert not model.params[name].flags.c_contiguous
    assert frozen(model.loss(wide, device.asarray(GOOD.T).T)) == expected
    assert frozen(model.sample(wide)) == words


def test_an_empty_batch_is_refused_by_name(device):
    model = captioner()
    snapshot = frozen(model.params)
    with pytest.raises(ValueError, match=r"features: expected shape .*got \(0, 3\)"):
        model.loss(features()[:0], GOOD[:0])
    with pytest.raises(ValueError, match=r"features: expected shape .*got \(0, 3\)"):
        model.sample(features()[:0])
    with pytest.raises(ValueError, match=r"x: expected a dimension N of at least 1, got shape \(0, 2, 4\)"):
        layers.lstm_forward(
            device.ones((0, 2, 4), "f"),
            device.ones((0, 5), "f"),
            *(model.params[name] for name in ("Wx", "Wh", "b")),
        )
    assert frozen(model.params) == snapshot


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["adam", "sgd_momentum"])
def test_an_update_without_memory_changes_no_parameter_and_can_be_repeated(device, rule):
    model, optimizer = captioner(), Optimizer(rule, {"learning_rate": 0.1})
    _, grads = model.loss(features(), GOOD)
    optimizer.step(model.params, grads)
    params, state = frozen(model.params), frozen(optimizer.state_dict()["configs"])
    message = r"too little memory for the updated parameters: [\d,]+ bytes, shape \("
    with little_memory(device, 512), pytest.raises(DeviceMemoryError, match=message):
        optimizer.step(model.params, grads)
    assert frozen(model.params) == params
    assert frozen(optimizer.state_dict()["configs"]) == state
    optimizer.step(model.params, grads)
    assert frozen(model.params) != params


def test_decoding_without_memory_names_the_array(device):
    model = captioner()
    snapshot, expected = frozen(model.params), frozen(model.sample(features()))
    many_features = device.ones((4096, 3), "f")
    with little_memory(device, 4096), pytest.raises(MemoryError, match=r"[\d,]+ bytes"):
        model.sample(many_features)
    assert frozen(model.params) == snapshot
    assert frozen(model.sample(features())) == expected


# --- compiling, folders, processes ------------------------------------------------------------------------------------


def test_if_kernels_do_not_compile_the_reference_still_computes(device, monkeypatch):
    model = captioner()
    snapshot = frozen(model.params)
    compile.forget()
    launch_heuristics.forget()
    architecture = "sm_{}{}".format(*compile.device_limits().compute_capability)
    message = rf"{architecture}(.|\n)*too old(.|\n)*CAPGPU_KERNELS=reference"
    with monkeypatch.context() as broken:
        broken.setattr(compile, "source", lambda file: "#error this compiler is too old\n")
        with pytest.raises(compile.KernelCompilationError, match=message):
            model.loss(features(), GOOD)
        assert frozen(model.params) == snapshot
        monkeypatch.setenv("CAPGPU_KERNELS", "reference")
        loss, _ = model.loss(features(), GOOD)
    monkeypatch.delenv("CAPGPU_KERNELS")
    again, _ = model.loss(features(), GOOD)
    assert distance(capgpu.to_numpy(again), capgpu.to_numpy(loss)) < TOLERANCE["float32"]["forward"]


PROGRAM = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from simulators.emulator.runner import EmulatorRunner
from simulators import cupy_standin
cupy_standin.install()
cupy_standin.set_kernel_runner(EmulatorRunner(Path({folder!r})))
import numpy as np
import capgpu
capgpu.set_backend("cuda")
model = capgpu.CaptioningRNN({words!r}, 3, 4, 5, "rnn", np.float32, seed=0)
captions = np.array([[1, 4, 2, 0], [1, 6, 5, 2]])
loss, _ = model.loss(capgpu.asarray(np.ones((2, 3), np.float32)), captions)
print(float(loss))
{then}
"""


def start(folder: Path, then: str = "", **variables: str) -> subprocess.Popen[str]:
    code = PROGRAM.format(tests=str(ROOT / "tests"), folder=str(folder), words=WORDS, then=then)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CAPGPU_")}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )


@pytest.mark.nightly
def test_two_processes_can_compile_at_the_same_time(emulator, tmp_path):
    processes = [start(tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=800) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] != ""


def test_an_unwritable_home_folder_prevents_no_computation(emulator, tmp_path):
    # no user can make a folder there, not even root
    nowhere = "/proc/nobody"
    store = (
        "from capgpu.kernels.cuda import tuning_cache\n"
        "print(tuning_cache.store('a device', {'a shape': ('step', 8)}), tuning_cache.lookup('a device', 'a shape'))"
    )
    process = start(
        Path(emulator.build_cache.folder), store, HOME=nowhere, XDG_CACHE_HOME=nowhere, CUPY_CACHE_DIR=nowhere
    )
    out, err = process.communicate(timeout=800)
    assert process.returncode == 0, err
    loss, stored = out.splitlines()
    assert float(loss) > 0
    assert stored == "None ('step', 8)"
    assert "Set CUPY_CACHE_DIR to a folder that can be written" in err
    assert "Set XDG_CACHE_HOME to a writable folder" in err


def test_processes_that_store_measurements_at_once_keep_all_of_them(tmp_path, monkeypatch):
    code = (
        "import sys\nfrom capgpu.kernels.cuda import tuning_cache\n"
        "for i in range(30):\n    tuning_cache.store(sys.argv[1], {f'shape {i}': ('step', i)})\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error:::capgpu.kernels.cuda.tuning_cache", "-c", code]
    writers = [
        subprocess.Popen([*command, name], env=environment, stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    outputs = [writer.communicate(timeout=800)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], outputs
    devices = json.loads((tmp_path / "capgpu" / "tuning.json").read_text(encoding="utf-8"))["devices"]
    assert {device: len(shapes) for device, shapes in devices.items()} == {"one": 30, "two": 30}
    assert [path.name for path in (tmp_path / "capgpu").iterdir()] == ["tuning.json"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning_cache.forget()
    assert tuning_cache.lookup("two", "shape 3") == ("step", 3)
    tuning_cache.forget()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking with threads alive
def test_a_worker_forked_from_a_training_process_gets_an_error_with_a_remedy(standin, device):
    model = captioner()
    model.loss(features(), GOOD)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            model.loss(features(), GOOD)
            words = "nothing"
        except compile.LaunchError as error:
            words = str(error)
        os.write(write, words.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        words = pipe.read()
    os.waitpid(child, 0)
    assert "CUDA does not survive a fork" in words
    assert 'set_start_method("spawn")' in words
    model.loss(features(), GOOD)
