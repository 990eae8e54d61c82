"""``cupy.cuda.device``: the simulated devices."""

from __future__ import annotations

from typing import Any

from . import runtime
from .state import STATE, synchronised


class Device:
    """A simulated device, by its number; as a context manager it becomes the current one."""

    def __init__(self, device: Any = None) -> None:
        self.id: int = runtime.getDevice() if device is None else int(device)
        self._previous: list[int] = []

    def __int__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]  # CuPy's devices are unhashable

    def __enter__(self) -> Device:
        self._previous.append(runtime.getDevice())
        runtime.setDevice(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        STATE.current_device = self._previous.pop()

    def use(self) -> Device:
        """Make this device the current one."""
        runtime.setDevice(self.id)
        return self

    def synchronize(self) -> None:
        """Wait for the device."""
        runtime.getDevice()
        synchronised("cupy.cuda.Device.synchronize()")

    @property
    def compute_capability(self) -> str:
        """The capability as digits, "80" for 8.0."""
        properties = runtime.getDeviceProperties(self.id)
        return f"{properties['major']}{properties['minor']}"

    @property
    def attributes(self) -> dict[str, int]:
        """The device's attributes under CUDA's names."""
        return runtime._attributes(self.id)

    @property
    def mem_info(self) -> tuple[int, int]:
        """The free and the total bytes of memory."""
        return runtime.memGetInfo()


def get_device_id() -> int:
    """Return the number of the current device."""
    return runtime.getDevice()
