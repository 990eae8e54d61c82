"""Devices, streams, random numbers and the seam for kernels."""

from __future__ import annotations

import functools
import threading

import numpy as np
import pytest

from simulators import cupy_standin


def test_device_attributes_and_properties_agree(cupy):
    device = cupy.cuda.Device()
    properties = cupy.cuda.runtime.getDeviceProperties(device.id)
    assert device.compute_capability == f"{properties['major']}{properties['minor']}"
    assert device.attributes["MultiProcessorCount"] == properties["multiProcessorCount"] > 0
    assert b"no GPU" in properties["name"]
    assert device.mem_info == cupy.cuda.runtime.memGetInfo()
    assert cupy.zeros(3).device == device
    assert device != 0


def test_arrays_are_created_on_the_current_device():
    with cupy_standin.installed(device_count=2) as cupy:
        with cupy.cuda.Device(1):
            x = cupy.zeros(3)
            assert cupy.cuda.runtime.getDevice() == 1
        assert cupy.cuda.runtime.getDevice() == 0
        assert x.device.id == 1
        for use in (lambda: cupy.cuda.Device(2).use(), lambda: cupy.cuda.runtime.setDevice(-1)):
            with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidDevice"):
                use()


def test_streams_nest_and_events_tell_time(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    null = cupy.cuda.get_current_stream()
    assert null == cupy.cuda.Stream.null
    with stream:
        assert cupy.cuda.get_current_stream() == stream != null
        start = stream.record()
        stream.wait_event(start)
        end = stream.record()
    assert cupy.cuda.get_current_stream() == null
    assert cupy.cuda.get_elapsed_time(start, end) >= 0.0
    assert not stream.is_capturing()


def test_a_stream_is_current_in_the_thread_that_uses_it(cupy):
    streams = []
    with cupy.cuda.Stream.ptds as stream:
        assert (stream.ptr, stream.device_id) == (2, -1)
        thread = threading.Thread(target=lambda: streams.append(cupy.cuda.get_current_stream()))
        thread.start()
        thread.join()
        assert cupy.cuda.get_current_stream() == stream
    assert streams == [cupy.cuda.Stream.null]


def test_random_numbers_repeat_with_their_seed_and_stay_on_the_device(cupy):
    for draw in (
        lambda: cupy.random.default_rng(7).standard_normal((3, 2), dtype=np.float32),
        lambda: cupy.random.default_rng(7).integers(0, 5, size=4),
        lambda: cupy.random.default_rng(7).uniform(-1, 1, size=4),
        lambda: (cupy.random.seed(7), cupy.random.normal(0, 1, (2,), dtype=np.float32))[1],
        lambda: (cupy.random.seed(7), cupy.random.permutation(5))[1],
        lambda: (cupy.random.seed(7), cupy.random.choice(5, 3, p=cupy.full(5, 0.2)))[1],
    ):
        first, second = draw(), draw()
        assert type(first) is cupy.ndarray
        np.testing.assert_array_equal(first.get(), second.get())
        assert first.dtype == second.dtype
    for name in ("normal", "permutation", "choice", "shuffle"):
        assert not hasattr(cupy.random.default_rng(0), name)


def test_without_a_runner_kernels_say_what_is_missing(cupy):
    module = cupy.RawModule(code="__global__ void f() {}", options=("-DX=1",))
    with pytest.raises(RuntimeError, match="set_kernel_runner"):
        module.get_function("f")
    with pytest.raises(RuntimeError, match="set_kernel_runner"):
        cupy.RawKernel("", "f")((1,), (1,), ())


def test_raw_modules_check_their_arguments(cupy):
    with pytest.raises(TypeError, match="Exactly one of"):
        cupy.RawModule()
    with pytest.raises(TypeError, match="options"):
        cupy.RawModule(code="", options=["-DX=1"])


@pytest.mark.parametrize("name", ["RawModule", "RawKernel", "cuda.MemoryPool", "cuda.MemoryPointer"])
def test_methods_of_extension_types_cannot_be_replaced(cupy, name, monkeypatch):
    kind = functools.reduce(getattr, name.split("."), cupy)
    with pytest.raises(TypeError, match="cannot set 'compile' attribute of immutable type"):
        monkeypatch.setattr(kind, "compile", None, raising=False)


def test_a_runner_sees_each_compilation_and_launch(cupy):
    observed = []

    class Runner:
        def compile(self, module):
            observed.append(("compile", module.code, module.options))

        def get_function(self, module, name):
            observed.append(("find", name))

        def launch(self, kernel, grid, block, args, shared_mem, stream):
            observed.append(("launch", kernel.name, grid, block, shared_mem))
            args[0].fill(args[1])

    cupy_standin.set_kernel_runner(Runner())
    module = cupy.RawModule(code="source", options=("-DX=1",))
    assert observed == []
    kernel = module.get_function("f")
    x = cupy.zeros(3)
    kernel((2, 1), (32,), (x, 4.0), shared_mem=128)
    with pytest.raises(TypeError, match="grid"):
        kernel(2, (32,), (x, 4.0))
    assert observed == [
        ("compile", "source", ("-DX=1",)),
        ("find", "f"),
        ("launch", "f", (2, 1), (32,), 128),
    ]
    assert x.tolist() == [4.0, 4.0, 4.0]
