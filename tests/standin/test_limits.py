"""What a device refuses at a launch, and how many blocks it holds at once."""

from __future__ import annotations

import pytest

from simulators import cupy_standin
from simulators.cupy_standin.architecture import ARCHITECTURES
from simulators.cupy_standin.driver import Attributes


class Runner:
    """Launches nothing; its kernels have the attributes it is given."""

    def __init__(self, **attributes):
        self.attributes = Attributes(**attributes)
        self.launches = []

    def compile(self, module):
        pass

    def get_function(self, module, name):
        return self.attributes

    def launch(self, kernel, grid, block, args, shared_mem, stream):
        self.launches.append((grid, block, shared_mem))


def a_kernel(cupy, cooperative=False, **attributes):
    cupy_standin.set_kernel_runner(Runner(**attributes))
    return cupy.RawModule(code="", enable_cooperative_groups=cooperative).get_function("f")


# From NVIDIA's occupancy calculator: (architecture, threads, bytes of shared memory, registers) -> blocks
@pytest.mark.parametrize(
    ("name", "threads", "shared", "registers", "blocks"),
    [
        ("sm_80", 256, 0, 32, 8),  # by threads
        ("sm_80", 32, 0, 32, 32),  # by blocks
        ("sm_80", 256, 0, 64, 4),  # by registers
        ("sm_80", 256, 0, 255, 1),
        ("sm_80", 1024, 0, 64, 1),
        ("sm_80", 1024, 0, 72, 0),
        ("sm_80", 128, 48 * 1024, 32, 3),  # by shared memory: 164 KiB, of which each block costs 49
        ("sm_80", 128, 163 * 1024, 32, 1),
        ("sm_80", 128, 163 * 1024 + 1, 32, 0),
        ("sm_75", 256, 32 * 1024, 32, 2),
        ("sm_75", 256, 0, 32, 4),
        ("sm_86", 256, 0, 32, 6),
        ("sm_89", 64, 0, 32, 24),
        ("sm_90", 256, 100 * 1024, 32, 2),
    ],
)
def test_resident_blocks_are_limited_by_the_scarcest_resource(name, threads, shared, registers, blocks):
    assert ARCHITECTURES[name].resident_blocks(threads, shared, registers) == blocks


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_device_reports_the_limits_that_it_enforces(name):
    with cupy_standin.installed(architecture=name) as cupy:
        properties = cupy.cuda.runtime.getDeviceProperties(0)
        device, architecture = cupy.cuda.Device(0), ARCHITECTURES[name]
        assert f"sm_{device.compute_capability}" == name
        assert properties["multiProcessorCount"] == device.attributes["MultiProcessorCount"]
        kernel = a_kernel(cupy)
        kernel.max_dynamic_shared_size_bytes = properties["sharedMemPerBlockOptin"]
        kernel((1,), (32,), (), shared_mem=architecture.shared_optin)
        with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE"):
            kernel.max_dynamic_shared_size_bytes = architecture.shared_optin + 1


def test_shared_memory_beyond_the_default_limit_requires_the_attribute(cupy):
    kernel = a_kernel(cupy, shared=1024)
    assert kernel.shared_size_bytes == 1024
    kernel((1,), (32,), (), shared_mem=47 * 1024)
    with pytest.raises(RuntimeError, match="48129 bytes"):
        kernel((1,), (32,), (), shared_mem=47 * 1024 + 1)
    kernel.max_dynamic_shared_size_bytes = 100 * 1024
    kernel((1,), (32,), (), shared_mem=100 * 1024)
    again = kernel.module.get_function("f")
    assert again.max_dynamic_shared_size_bytes == 100 * 1024


def test_blocks_are_no_larger_than_device_and_launch_bounds_allow(cupy):
    kernel = a_kernel(cupy)
    kernel((1,), (1024,), ())
    with pytest.raises(RuntimeError, match="1056 threads"):
        kernel((1,), (1056,), ())
    bounded = a_kernel(cupy, threads=256)
    assert bounded.max_threads_per_block == 256
    with pytest.raises(RuntimeError, match="288 threads"):
        bounded((1,), (288,), ())
    with pytest.raises(RuntimeError, match="a grid of"):
        kernel((2**31,), (32,), ())


def test_a_cooperative_grid_larger_than_the_resident_blocks_is_refused(cupy):
    from cupy_backends.cuda.api import driver

    kernel = a_kernel(cupy, cooperative=True, threads=256, registers=128)
    assert kernel.num_regs == 128
    resident = driver.occupancyMaxActiveBlocksPerMultiprocessor(kernel.kernel.ptr, 256, 0)
    assert resident == 2
    max_blocks = resident * cupy.cuda.Device().attributes["MultiProcessorCount"]
    kernel((max_blocks,), (256,), ())
    with pytest.raises(driver.CUDADriverError, match="COOPERATIVE_LAUNCH_TOO_LARGE"):
        kernel((max_blocks + 1,), (256,), ())
    a_kernel(cupy, threads=256, registers=128)((max_blocks + 1,), (256,), ())
    assert driver.occupancyMaxActiveBlocksPerMultiprocessor(kernel.kernel.ptr, 512, 0) == 0


def test_unknown_registers_are_taken_as_what_launch_bounds_leave(cupy):
    assert a_kernel(cupy).num_regs == 64
    assert a_kernel(cupy, threads=1024).num_regs == 64
    assert a_kernel(cupy, threads=256).num_regs == 64
