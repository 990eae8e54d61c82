"""Peaks of four devices from their manufacturers' documents; no program attains them.

Sources, one a device:

- A100: NVIDIA A100 Tensor Core GPU data sheet (SXM4 80 GB: 19.5 TFLOP/s float32, 2,039 GB/s) and the Ampere
  architecture white paper (108 multiprocessors, 40 MB second-level cache, 164 KB shared memory each).
- H100: NVIDIA H100 Tensor Core GPU data sheet (SXM5 80 GB: 67 TFLOP/s, 3.35 TB/s) and the Hopper architecture white
  paper (132 multiprocessors, 50 MB, 228 KB).
- RTX 4090: NVIDIA Ada GPU architecture white paper (82.6 TFLOP/s, 1,008 GB/s, 128 multiprocessors, 72 MB); shared
  memory from the CUDA programming guide's table for compute capability 8.9 (100 KB).
- T4: NVIDIA T4 data sheet (8.1 TFLOP/s, 320 GB/s) and the Turing architecture white paper (40 multiprocessors, 4 MB,
  64 KB).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from capgpu.kernels.cuda.cost import rates

__all__ = ["BARRIER_US", "DEVICES", "LAUNCH_US", "Device", "reported"]

#: Assumed microseconds per launch beyond the kernel's work, on every device, while the stream is never empty.
LAUNCH_US = 2.0
#: Assumed microseconds per grid-wide barrier, on every device.
BARRIER_US = 1.5


@dataclass(frozen=True)
class Device:
    """A device's peaks.

    Attributes
    ----------
    name : str
        Name, with the variant if the peaks depend on it.
    capability : int
        75 for 7.5.
    tflops : float
        Float32 without tensor cores, 10**12 operations per second.
    gigabytes : float
        Memory bandwidth, 10**9 bytes per second.
    cache_mb : float
        L2 cache, 2**20 bytes.
    multiprocessors : int
        Number of multiprocessors.
    shared_kb : int
        Shared memory of a multiprocessor, 2**10 bytes.
    """

    name: str
    capability: int
    tflops: float
    gigabytes: float
    cache_mb: float
    multiprocessors: int
    shared_kb: int

    def arithmetic_us(self, flops: float) -> float:
        """Return the microseconds that `flops` operations take at the peak rate."""
        return flops / self.tflops * 1e-6

    def memory_us(self, count: float) -> float:
        """Return the microseconds that `count` bytes take at the peak bandwidth."""
        return count / self.gigabytes * 1e-3


DEVICES = (
    Device("A100 SXM 80 GB", 80, 19.5, 2039, 40, 108, 164),
    Device("H100 SXM", 90, 67.0, 3350, 50, 132, 228),
    Device("RTX 4090", 89, 82.6, 1008, 72, 128, 100),
    Device("T4", 75, 8.1, 320, 4, 40, 64),
)


def reported(name: str, capability: int, attributes: Mapping[str, int]) -> Device | None:
    """Compute a device's peaks from its attributes.

    Parameters
    ----------
    name : str
        Name of the device.
    capability : int
        75 for 7.5.
    attributes : mapping of str to int
        CuPy's ``Device.attributes``; clocks in kHz.

    Returns
    -------
    Device or None
        None if the attributes have no clock rates.
    """
    try:
        lanes = attributes["MultiProcessorCount"] * rates((capability // 10, capability % 10)).single
        return Device(
            name=name,
            capability=capability,
            tflops=lanes * 2 * attributes["ClockRate"] * 1e3 / 1e12,
            # double data rate
            gigabytes=attributes["MemoryClockRate"] * 1e3 * 2 * attributes["GlobalMemoryBusWidth"] / 8 / 1e9,
            cache_mb=attributes["L2CacheSize"] / 2**20,
            multiprocessors=attributes["MultiProcessorCount"],
            shared_kb=attributes["MaxSharedMemoryPerMultiprocessor"] // 2**10,
        )
    except KeyError:
        return None
