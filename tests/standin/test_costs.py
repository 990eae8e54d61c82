"""What the stand-in counts: waits of the host, copies, allocations, results that vary from run to run."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from simulators import cupy_standin
from simulators.cupy_standin.memory import POOL


def test_computing_neither_waits_nor_copies(cupy):
    x = cupy.asarray(np.ones((4, 5), dtype=np.float32))
    ids = cupy.asarray(np.array([0, 2, 1]))
    cupy_standin.reset_counters()
    with cupy_standin.forbid_synchronisation():
        y = cupy.tanh(x @ x.T) * 0.5 + cupy.maximum(x.sum(), 1)
        y[ids] = 0.0
        y[y > 2] = 1.0
        cupy.where(y > 0, y, cupy.take(y, ids, axis=0)[:1]).argmax(axis=1)
        cupy.argsort(y.ravel())
        cupy.cumsum(y, axis=0)
        copy.deepcopy(y)
    counts = cupy_standin.counters()
    assert counts.synchronisations == 0
    assert counts.host_to_device_copies == counts.device_to_host_copies == 0
    assert counts.nondeterministic == []


WAITS = {
    "get": lambda cp, x: x.get(),
    "item": lambda cp, x: x[0].item(),
    "tolist": lambda cp, x: x.tolist(),
    "float": lambda cp, x: float(x.sum()),
    "int": lambda cp, x: int(x.sum()),
    "bool": lambda cp, x: bool(x.any()),
    "repr": lambda cp, x: repr(x),
    "format": lambda cp, x: f"{x.sum():.2f}",
    "asnumpy": lambda cp, x: cp.asnumpy(x),
    "mask": lambda cp, x: x[x > 0],
    "nonzero": lambda cp, x: x.nonzero(),
    "where": lambda cp, x: cp.where(x > 0),
    "unique": lambda cp, x: cp.unique(x),
    "bincount": lambda cp, x: cp.bincount(x.astype(int)),
    "repeat": lambda cp, x: x.repeat(x.astype(int)),
    "stream": lambda cp, x: cp.cuda.Stream.null.synchronize(),
    "current stream": lambda cp, x: cp.cuda.get_current_stream().synchronize(),
    "device": lambda cp, x: cp.cuda.Device().synchronize(),
    "event": lambda cp, x: cp.cuda.Event().synchronize(),
    "runtime": lambda cp, x: cp.cuda.runtime.deviceSynchronize(),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_every_wait_is_counted_and_can_be_forbidden(cupy, wait):
    x = cupy.asarray([1.0, 2.0])
    wait(cupy, x)
    assert cupy_standin.counters().synchronisations == 1
    with (
        pytest.raises(cupy_standin.SynchronisationForbiddenError, match="wait for the device"),
        cupy_standin.forbid_synchronisation(),
    ):
        wait(cupy, x)
    wait(cupy, x)


def test_copies_are_counted_with_their_bytes(cupy):
    x = cupy.asarray(np.zeros(10, dtype=np.float32))
    x.set(np.ones(10, dtype=np.float32))
    cupy.asarray(2.0)  # a kernel argument, no copy
    cupy.asarray(x)
    x.get(blocking=False)
    counts = cupy_standin.counters()
    assert (counts.host_to_device_copies, counts.host_to_device_bytes) == (2, 80)
    assert (counts.device_to_host_copies, counts.device_to_host_bytes) == (1, 40)
    assert counts.synchronisations == 0


def test_new_arrays_count_as_allocations_and_views_and_in_place_work_do_not(cupy):
    x = cupy.zeros((8, 8))
    out = cupy.empty((8, 8))
    cupy_standin.reset_counters()
    x += 1
    cupy.tanh(x, out=out)
    cupy.matmul(x, x, out=out)
    x[2:4].T.reshape(-1)[...] = 0
    out[...] = x
    x.ravel()[0] = 1.0
    del x
    assert cupy_standin.counters().allocations == 1  # the reshape of a transposed view has to copy
    assert cupy_standin.counters().allocated_bytes == 512
    cupy.tanh(out)
    assert cupy_standin.counters().allocations == 2


def test_float_atomics_are_noted(cupy):
    x = cupy.zeros(3)
    cupy.add.at(x, cupy.asarray([0, 0, 2]), 1.0)
    assert x.tolist() == [2.0, 0.0, 1.0]
    cupy.add.at(cupy.zeros(3, dtype=int), cupy.asarray([0, 0, 2]), 1)
    cupy.bincount(cupy.asarray([0, 1]), weights=cupy.asarray([0.5, 0.5]))
    cupy.bincount(cupy.asarray([0, 1]))
    assert cupy_standin.counters().nondeterministic == ["add.at", "bincount"]


def test_memory_in_use_returns_to_the_pool_when_arrays_die(cupy):
    pool = cupy.get_default_memory_pool()
    before = pool.used_bytes()
    x = cupy.zeros(1000)
    view = x[10:]
    assert pool.used_bytes() == before + 8192
    del x
    assert pool.used_bytes() == before + 8192
    del view
    assert pool.used_bytes() == before
    assert pool.total_bytes() >= before + 8192
    pool.free_all_blocks()
    assert pool.total_bytes() == before


def test_a_full_device_names_the_size_and_keeps_what_it_has():
    # what other tests have left on the device does not count
    size = POOL.used + 2**20
    with cupy_standin.installed(memory_limit=size) as cupy:
        x = cupy.ones(1000)
        for allocate in (
            lambda: cupy.zeros(2**20),
            lambda: cupy.empty((2**10, 2**10)),
            lambda: cupy.asarray(np.zeros(2**18)),
            lambda: cupy.ones(2**40),
            lambda: x[:, None] * x,
        ):
            with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match=r"Out of memory allocating [\d,]+ bytes"):
                allocate()
        assert x.sum().item() == 1000
        free, total = cupy.cuda.runtime.memGetInfo()
        assert total == size
        assert 0 < free < total


def test_the_limit_of_the_pool_is_named(cupy):
    pool = cupy.get_default_memory_pool()
    pool.set_limit(size=pool.used_bytes() + 1024)
    with pytest.raises(MemoryError, match="limit set to"):
        cupy.zeros(1000)
    pool.set_limit(size=0)
    cupy.zeros(1000)


def test_a_pointer_places_an_array_in_memory_that_exists(cupy):
    workspace = cupy.cuda.alloc(1024)
    cupy_standin.reset_counters()
    a = cupy.ndarray((4, 4), np.float32, workspace)
    b = cupy.ndarray((4,), np.float64, workspace + 64)
    a[...] = 1.0
    b[...] = 2.0
    assert b.data.ptr == a.data.ptr + 64
    assert a.sum().item() == 16.0
    assert (a[1:].data.ptr - a.data.ptr, a.T.data.ptr) == (16, a.data.ptr)
    assert cupy_standin.counters().allocations == 1  # the sum
    assert not a.flags.owndata
    assert a.flags.c_contiguous
    assert a.T.flags.f_contiguous
    assert not a[:, 1:].flags.forc
