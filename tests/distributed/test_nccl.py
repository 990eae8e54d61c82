"""Sums between devices, on the stand-in for CuPy: threads are the ranks, and its NCCL reduces between them."""

from __future__ import annotations

import json
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.util import spec_from_loader
from typing import Any

import numpy as np
import pytest

import capgpu
from capgpu.distributed import ALONE, Communicator
from capgpu.kernels.cuda.device_calls import counting
from capgpu.kernels.cuda.nccl import NcclCollectives, open_nccl
from capgpu.optim import Optimizer
from capgpu.training import distributed
from capgpu.training.distributed import DistributedSteps
from capgpu.training.steps import TrainingSteps
from capgpu.validation import checked_data
from oracles.thread_ranks import run_ranks
from simulators import cupy_standin

pytestmark = pytest.mark.usefixtures("standin")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64"])
@pytest.mark.parametrize("size", [2, 3])
def test_devices_add_and_copy_arrays(size: int, dtype: str) -> None:
    import cupy

    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    values = [np.random.default_rng(rank).integers(-8, 9, (6, 5)).astype(dtype) for rank in range(size)]
    total = np.sum([value.astype(np.float64) for value in values], axis=0)

    def work(ranks: Communicator) -> list[Any]:
        nccl = NcclCollectives(ranks)
        first, second = cupy.asarray(values[ranks.rank]), cupy.asfortranarray(cupy.asarray(values[ranks.rank]))
        started = [nccl.start_all_reduce(first), nccl.start_all_reduce(second)]
        for reduction in started:
            reduction.wait()
        copied = cupy.asarray(values[ranks.rank])
        nccl.broadcast(copied)
        return [array.get().astype(np.float64) for array in (first, second, copied)]

    for first, second, copied in run_ranks(size, work):
        np.testing.assert_array_equal(first, total)
        np.testing.assert_array_equal(second, total)
        np.testing.assert_array_equal(copied, values[0].astype(np.float64))


def test_collectives_run_beside_the_computation_and_the_host_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    log: list[Any] = []
    stream_class = cupy.cuda.Stream
    record, wait = stream_class.record, stream_class.wait_event

    def recorded(stream: Any, event: Any = None) -> Any:
        event = record(stream, event)
        log.append(("record", stream.ptr, event.ptr))
        return event

    def waited(stream: Any, event: Any) -> None:
        log.append(("wait", stream.ptr, event.ptr))
        wait(stream, event)

    monkeypatch.setattr(stream_class, "record", recorded)
    monkeypatch.setattr(stream_class, "wait_event", waited)
    nccl = NcclCollectives(ALONE)
    array = cupy.ones(7, dtype="float32")
    cupy_standin.reset_counters()
    with cupy_standin.forbid_synchronisation():
        reduction = nccl.start_all_reduce(array)
        ((name, size, own_stream),) = cupy_standin.counters().collectives
        assert len(log) == 3, "the computation goes on before `wait`"
        reduction.wait()
    current = cupy.cuda.get_current_stream().ptr
    assert (name, size) == ("allReduce", 28)
    assert own_stream != current
    ready, done = log[0][2], log[2][2]
    assert log == [
        ("record", current, ready),
        ("wait", own_stream, ready),
        ("record", own_stream, done),
        ("wait", current, done),
    ]
    assert cupy_standin.counters().allocations == 0


def test_what_nccl_would_misread_is_refused() -> None:
    import cupy

    nccl = NcclCollectives(ALONE)
    with pytest.raises(ValueError, match="array: expected contiguous memory, got strides"):
        nccl.start_all_reduce(cupy.ones((4, 4))[:, ::2])
    with pytest.raises(ValueError, match="array: expected a dtype that NCCL adds, got complex128"):
        nccl.start_all_reduce(cupy.ones(4, dtype="complex128"))


class MissingNccl(MetaPathFinder, Loader):
    """Imports of ``cupy.cuda.nccl`` on a machine without NCCL, as CuPy makes them: with a warning."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return spec_from_loader(name, self) if name == "cupy.cuda.nccl" else None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        module.available = False
        warnings.warn("nccl library could not be loaded.", stacklevel=2)


def test_a_missing_nccl_is_logged_without_cupys_warning(monkeypatch: Any, caplog: Any) -> None:
    import cupy

    caplog.set_level("INFO", "capgpu")
    with monkeypatch.context() as patch:  # before the stand-in is removed
        patch.setattr(cupy.cuda, "nccl", None, raising=False)
        patch.setitem(sys.modules, "cupy.cuda.nccl", None)
        del sys.modules["cupy.cuda.nccl"]
        patch.setattr(sys, "meta_path", [MissingNccl(), *sys.meta_path])
        assert open_nccl(ALONE) is None
    assert "through the host's memory: NCCL is missing. Install it with: pip install" in caplog.text


DEVICES = """
import json
from simulators import cupy_standin
cupy_standin.install(device_count={devices})
import numpy as np
import capgpu, cupy
from capgpu.distributed import communicator
capgpu.set_backend("cuda")
assert capgpu.xp is not None
ranks = communicator()
array = capgpu.asarray(np.full(3, ranks.rank + 1.0, np.float32))
cupy_standin.reset_counters()
ranks.start_all_reduce(array).wait()
copied = capgpu.asarray(np.full(2, ranks.rank + 5.0))
ranks.broadcast(copied)
names = [name for name, *_ in cupy_standin.counters().collectives]
print(json.dumps([cupy.cuda.runtime.getDevice(), array.get().tolist(), copied.get().tolist(), names]))
"""


@pytest.mark.parametrize("devices", [2, 1])
def test_real_ranks_take_a_device_each_or_go_through_the_host(ranks: Any, devices: int) -> None:
    result = ranks(2, code=DEVICES.format(devices=devices), PYTHONPATH=_path())
    assert result.returncode == 0, result.stderr
    names = ["allReduce", "broadcast"] if devices == 2 else []
    expected = [[rank % devices, [3.0, 3.0, 3.0], [5.0, 5.0], names] for rank in range(2)]
    assert sorted(map(json.loads, result.stdout.splitlines())) == expected


def _path() -> str:
    import os
    from pathlib import Path

    tests = Path(__file__).parents[1]
    return os.pathsep.join((str(tests.parent), str(tests)))


class OneDevice(Communicator):
    """The communicator of one rank that adds by NCCL all the same."""

    def __init__(self) -> None:
        self._nccl = NcclCollectives(ALONE)

    def start_all_reduce(self, array: Any, *, patient: bool = False) -> Any:
        return self._nccl.start_all_reduce(array)


def test_a_step_makes_the_launches_of_one_process_and_its_collectives(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "_SMALL", 20)
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{k}": k for k in range(3, 30)}}
    captions = np.array([[1, 4, 5, 6, 2, 0], [1, 7, 2, 0, 0, 0], [1, 5, 3, 6, 4, 2]])
    features = device.ones((3, 7), "float32")
    made = {}
    for name, ranks in (("one", None), ("rank", OneDevice())):
        model = capgpu.CaptioningRNN(words, 7, 5, 6, "lstm", "float32", seed=3)
        optimizer = Optimizer("adam", {"learning_rate": 1e-2}, model.params)
        steps = (
            TrainingSteps(model, optimizer, 1.0) if ranks is None else DistributedSteps(model, optimizer, 1.0, ranks)
        )
        for _ in range(2):  # memory is there at the second step
            cupy_standin.reset_counters()
            with counting() as launches, cupy_standin.forbid_synchronisation(), checked_data():
                loss = steps.loss(features, captions, 1.0)
                steps.update(1.0)
        made[name] = launches, cupy_standin.counters().collectives, float(loss), model.params
    clipping = made["one"][0].index("square_sums")
    expected = list(made["one"][0])
    expected.insert(clipping, "scatter_rows")  # the summed rows of W_embed
    assert made["rank"][0] == expected
    # W_vocab first, then Wh, Wx, the rows of W_embed for the six words that occur, W_proj, b; last what is small
    assert made["one"][1] == []
    assert [size // 4 for _, size, _ in made["rank"][1]] == [180, 144, 120, 30, 42, 24, 30, 7]
    assert made["rank"][2] == pytest.approx(made["one"][2], abs=1e-6)
    for name, array in made["one"][3].items():
        np.testing.assert_allclose(made["rank"][3][name].get(), array.get(), atol=1e-6)
