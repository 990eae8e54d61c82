"""Scratch of threads and streams: shared by none, released with them, and what a failed launch leaves behind."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import launch_heuristics, recurrence
from capgpu.kernels.cuda.workspace import workspace
from oracles.kernel_cases import EXTENTS, KERNEL_CASES, example
from oracles.snapshots import frozen
from simulators.emulator.runner import KernelFaultError

CASE = next(case for case in KERNEL_CASES if case.operation == "lstm_forward")


def forward():
    arguments, _ = example(CASE, EXTENTS[1], "float32")
    dev_arguments = {
        name: capgpu.asarray(value) if isinstance(value, np.ndarray) and name != "batch_sizes" else value
        for name, value in arguments.items()
    }
    return frozen(recurrence.lstm_forward(**dev_arguments))


def address(array):
    return array.data.ptr


def in_threads(*works):
    """Run functions in threads of their own, all alive until the last has ended; return their results."""
    results, all_done = [None] * len(works), threading.Barrier(len(works) + 1)

    def run(k):
        try:
            results[k] = works[k]()
        finally:
            all_done.wait(60)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(works))]
    for thread in threads:
        thread.start()
    all_done.wait(60)
    for thread in threads:
        thread.join()
    return results


def test_per_thread_default_streams_have_their_own_memory_though_they_share_a_pointer(device):
    def run_in_thread():
        with device.cuda.Stream.ptds as stream:
            space = workspace()
            return stream.ptr, address(space.counters(4)), address(space.take("x", (4,), np.float32))

    (first, *first_addresses), (second, *second_addresses) = in_threads(run_in_thread, run_in_thread)
    assert first == second
    assert len({*first_addresses, *second_addresses}) == 4


def test_memory_of_a_stream_is_reused_only_by_that_stream(device):
    one, two = device.cuda.Stream(non_blocking=True), device.cuda.Stream(non_blocking=True)
    with one:
        counters = workspace().counters(64)
    with two:
        assert address(workspace().counters(64)) != address(counters)
    with one:
        assert workspace().counters(32) is counters
        assert not capgpu.to_numpy(counters).any()


def test_a_new_stream_with_the_pointer_of_an_old_one_has_a_workspace_of_its_own(device, standin):
    old = device.cuda.Stream(non_blocking=True)
    with old:
        space = workspace()
    pointer = old.ptr
    del old
    gc.collect()
    new = device.cuda.Stream(non_blocking=True)
    new.ptr = pointer
    with new:
        assert workspace() is not space


def test_workspaces_of_destroyed_streams_are_freed(device):
    pool = device.get_default_memory_pool()

    def one_stream():
        with device.cuda.Stream(non_blocking=True):
            forward()
            workspace().take("x", (1000,), np.float32)
        gc.collect()
        return pool.used_bytes()

    first = one_stream()
    assert {one_stream() for _ in range(5)} == {first}


def test_workspaces_of_finished_threads_are_freed(device):
    pool = device.get_default_memory_pool()

    def one_thread():
        in_threads(lambda: workspace().take("x", (1000,), np.float32).size, lambda: workspace().counters(64).size)
        gc.collect()
        return pool.used_bytes()

    first = one_thread()
    assert {one_thread() for _ in range(5)} == {first}


def test_counters_are_ready_for_the_next_launch_after_each(device):
    forward()
    counters = workspace().counters(1)
    assert counters.size > 1
    # the highest bit only tells one barrier from the next
    assert not (capgpu.to_numpy(counters) & 0x7FFFFFFF).any()


def test_counters_of_a_failed_launch_are_not_reused(device, emulator, monkeypatch):
    expected = forward()
    space = workspace()
    dirty = space.counters(1)
    compute = launch_heuristics._shared_bytes
    launch_heuristics.forget()
    with monkeypatch.context() as broken:
        broken.setattr(launch_heuristics, "_shared_bytes", lambda *shape: compute(*shape) + 16)
        with pytest.raises(KernelFaultError):
            forward()
    dirty += 12345  # as a kernel that ends between two barriers leaves them
    launch_heuristics.forget()
    assert forward() == expected
    assert space.counters(1) is not dirty
