"""``cupy.cuda.runtime``: CUDA runtime calls about devices, memory and synchronization."""

from __future__ import annotations

from typing import Any

from . import memory
from .architecture import REGISTERS, WARP
from .errors import INVALID_DEVICE, CUDARuntimeError, ensure_usable
from .state import STATE, synchronised

is_hip = False


def _check_ordinal(device_id: int) -> None:
    ensure_usable()
    if not 0 <= device_id < STATE.device_count:
        raise CUDARuntimeError(INVALID_DEVICE)


def getDeviceCount() -> int:
    """Return the number of devices; a machine with none raises, as CUDA does."""
    ensure_usable()
    return STATE.device_count


def getDevice() -> int:
    """Return the number of the current device."""
    ensure_usable()
    return STATE.current_device


def setDevice(device_id: int) -> None:
    """Make a device the current one."""
    _check_ordinal(device_id)
    STATE.current_device = device_id


def deviceGetPCIBusId(device_id: int) -> str:
    """Return the address of a device, which differs between the devices of a machine."""
    _check_ordinal(device_id)
    return f"0000:{0x17 + device_id:02X}:00.0"


def driverGetVersion() -> int:
    """Return the CUDA version that the driver serves, 0 without a driver. Never raises."""
    return STATE.driver_version


def runtimeGetVersion() -> int:
    """Return the CUDA version that CuPy was built for. Never raises."""
    return STATE.runtime_version


def deviceSynchronize() -> None:
    """Wait for the device."""
    ensure_usable()
    synchronised("cupy.cuda.runtime.deviceSynchronize()")


def streamSynchronize(pointer: int) -> None:
    """Wait for a stream."""
    ensure_usable()
    synchronised("cupy.cuda.runtime.streamSynchronize()")


def memGetInfo() -> tuple[int, int]:
    """Return the free and the total bytes of the device's memory."""
    ensure_usable()
    return STATE.memory_size - memory.POOL.held, STATE.memory_size


def _properties() -> dict[str, Any]:
    architecture = STATE.architecture
    return {
        "name": f"Stand-in device (no GPU), as {architecture.device}".encode(),
        "major": architecture.capability[0],
        "minor": architecture.capability[1],
        "multiProcessorCount": architecture.multiprocessors,
        "clockRate": 1000 * architecture.clock_mhz,
        "warpSize": WARP,
        "maxThreadsPerBlock": 1024,
        "maxThreadsPerMultiProcessor": architecture.threads,
        "maxBlocksPerMultiProcessor": architecture.blocks,
        "maxThreadsDim": (1024, 1024, 64),
        "maxGridSize": (2**31 - 1, 65535, 65535),
        "regsPerBlock": REGISTERS,
        "regsPerMultiprocessor": REGISTERS,
        "sharedMemPerBlock": 48 * 1024,
        "sharedMemPerBlockOptin": architecture.shared_optin,
        "sharedMemPerMultiprocessor": architecture.shared,
        "reservedSharedMemPerBlock": architecture.shared_reserved,
        "l2CacheSize": 40 * 2**20,
        "cooperativeLaunch": 1,
        "unifiedAddressing": 1,
        "totalGlobalMem": STATE.memory_size,
    }


ATTRIBUTES = {
    "ComputeCapabilityMajor": "major",
    "ComputeCapabilityMinor": "minor",
    "MultiProcessorCount": "multiProcessorCount",
    "ClockRate": "clockRate",
    "WarpSize": "warpSize",
    "MaxThreadsPerBlock": "maxThreadsPerBlock",
    "MaxThreadsPerMultiProcessor": "maxThreadsPerMultiProcessor",
    "MaxBlocksPerMultiprocessor": "maxBlocksPerMultiProcessor",
    "MaxRegistersPerBlock": "regsPerBlock",
    "MaxRegistersPerMultiprocessor": "regsPerMultiprocessor",
    "MaxSharedMemoryPerBlock": "sharedMemPerBlock",
    "MaxSharedMemoryPerBlockOptin": "sharedMemPerBlockOptin",
    "MaxSharedMemoryPerMultiprocessor": "sharedMemPerMultiprocessor",
    "ReservedSharedMemoryPerBlock": "reservedSharedMemPerBlock",
    "L2CacheSize": "l2CacheSize",
    "CooperativeLaunch": "cooperativeLaunch",
}


def getDeviceProperties(device_id: int) -> dict[str, Any]:
    """Return a device's properties under the names of CUDA's structure."""
    _check_ordinal(device_id)
    return _properties()


def _attributes(device_id: int) -> dict[str, int]:
    """Return a device's attributes under CUDA's names without their prefix."""
    _check_ordinal(device_id)
    properties = _properties()
    return {name: properties[key] for name, key in ATTRIBUTES.items()}
