"""Capturing launches into a graph: what is allowed meanwhile, and what launching the graph does."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from simulators import cupy_standin


class Runner:
    """Adds a number to an array, in place of a kernel."""

    def compile(self, module):
        pass

    def get_function(self, module, name):
        pass

    def launch(self, kernel, grid, block, args, shared_mem, stream):
        args[0]._host[...] += args[1]


@pytest.fixture
def kernel(cupy):
    cupy_standin.set_kernel_runner(Runner())
    return cupy.RawModule(code="").get_function("add")


def test_each_launch_of_a_graph_repeats_all_captured_launches(cupy, kernel):
    x, stream = cupy.zeros(3), cupy.cuda.Stream(non_blocking=True)
    structure = np.array([2.0])
    with stream:
        stream.begin_capture()
        assert stream.is_capturing()
        kernel((1,), (32,), (x, np.float64(1)))
        kernel((1,), (32,), (x, structure))
        graph = stream.end_capture()
    structure[0] = 100.0  # arguments are those of the capture
    assert not stream.is_capturing()
    assert x.tolist() == [0, 0, 0]
    graph.upload(stream)
    graph.launch(stream)
    graph.launch()
    assert x.tolist() == [6, 6, 6]


def test_other_streams_can_be_used_during_a_capture(cupy, kernel):
    x, stream = cupy.zeros(3), cupy.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    kernel((1,), (32,), (x, np.float64(1)))
    graph = stream.end_capture()
    graph.launch()
    assert x.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "operation",
    [
        lambda cupy, x: cupy.matmul(x, x),
        lambda cupy, x: cupy.matmul(x, x, out=x.copy()),
        lambda cupy, x: x @ x,
        lambda cupy, x: cupy.empty(3),
        lambda cupy, x: cupy.add(x, x, out=x),
        lambda cupy, x: x.__iadd__(x),
        lambda cupy, x: x.fill(0),
        lambda cupy, x: x.__setitem__(0, 1),
        lambda cupy, x: x.sum(),
        lambda cupy, x: x.get(),
        lambda cupy, x: cupy.asarray([1.0]),
        lambda cupy, x: x.set(np.ones((2, 2))),
        lambda cupy, x: cupy.cuda.Stream.null.synchronize(),
    ],
)
def test_all_but_launches_is_refused_while_a_stream_captures(cupy, operation):
    x, stream = cupy.ones((2, 2)), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(cupy_standin.NotCapturableError, match="while a stream captures"):
            operation(cupy, x)
        stream.end_capture()
    operation(cupy, x)


def test_operations_forbidden_during_capture_raise(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureUnsupported"):
        cupy.cuda.Stream.null.begin_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorIllegalState"):
        stream.end_capture()
    stream.begin_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorIllegalState"):
        stream.begin_capture()
    stream.end_capture()


def test_memory_is_set_and_copied_by_a_graph(cupy):
    x, y, stream = cupy.ones(4, "float32"), cupy.zeros(4, "float32"), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        y.data.copy_from_device_async(x.data, x.nbytes)
        x.data.memset_async(0, x.nbytes)
        graph = stream.end_capture()
    assert (x.tolist(), y.tolist()) == ([1] * 4, [0] * 4)
    graph.launch()
    assert (x.tolist(), y.tolist()) == ([0] * 4, [1] * 4)
    y.data.memset_async(0, 8)
    assert y.tolist() == [0, 0, 1, 1]


def test_a_graph_whose_memory_was_given_back_is_refused(cupy, kernel):
    x, stream = cupy.zeros(3), cupy.cuda.Stream(non_blocking=True)
    view = x[1:]
    with stream:
        stream.begin_capture()
        kernel((1,), (32,), (view, np.float64(1)))
        graph = stream.end_capture()
    graph.launch()
    assert x.tolist() == [0, 1, 1]
    del x, view
    with pytest.raises(cupy_standin.UndefinedOnDeviceError, match="has been freed"):
        graph.launch()


def test_pinned_memory_is_copied_to_the_device(cupy):
    pinned = cupy.cuda.alloc_pinned_memory(64)
    host = np.frombuffer(pinned, np.int32, 8)
    host[:] = np.arange(8)
    assert host.ctypes.data == pinned.ptr
    dev_array, stream = cupy.zeros(10, "int32"), cupy.cuda.Stream(non_blocking=True)
    dev_array[2:].data.copy_from_host_async(ctypes.c_void_p(pinned.ptr), host.nbytes)
    assert dev_array.tolist() == [0, 0, *range(8)]
    assert cupy_standin.counters().host_to_device_bytes == host.nbytes
    with stream:
        stream.begin_capture()
        with pytest.raises(cupy_standin.NotCapturableError, match="copying from the host"):
            dev_array.data.copy_from_host_async(pinned.ptr, host.nbytes)
        stream.end_capture()


def test_all_memory_comes_from_the_set_allocator(cupy):
    def refuse(size):
        raise MemoryError(f"no {size}")

    with cupy.cuda.using_allocator(refuse), pytest.raises(MemoryError, match="no 32"):
        cupy.zeros(4)
    assert cupy.zeros(4).tolist() == [0] * 4
