"""Conversions between device arrays and the host: explicit ones are counted, implicit ones refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .state import STATE, refuse_in_capture, synchronised


def count_upload(host: np.ndarray) -> None:
    """Count one copy from the host to the device."""
    if host.ndim:
        STATE.counters.host_to_device_copies += 1
        STATE.counters.host_to_device_bytes += host.nbytes


class HostTransfers:
    """The methods of ``cupy.ndarray`` that transfer data to or from the host."""

    __slots__ = ()

    _device_id: int
    _host: np.ndarray

    def get(self, stream: Any = None, order: Any = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if out is not None and not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        if blocking:
            synchronised("cupy.ndarray.get()")
        STATE.counters.device_to_host_copies += 1
        STATE.counters.device_to_host_bytes += self._host.nbytes
        if out is None:
            return np.array(self._host, order=order, copy=True)
        if out.dtype != self._host.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self._host.dtype} array")
        if out.shape != self._host.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self._host.shape}, actual shape: {out.shape}")
        out[...] = self._host
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self._host.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self._host.dtype} array")
        if arr.shape != self._host.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self._host.shape}, new shape: {arr.shape}")
        if not self._host.flags.forc:
            raise RuntimeError("Cannot set to non-contiguous array")
        refuse_in_capture("cupy.ndarray.set()")
        count_upload(arr)
        self._host[...] = arr

    def item(self) -> Any:
        if self._host.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: Any = "C") -> bytes:
        return self.get().tobytes(order)

    def __bool__(self) -> bool:
        if self._host.size == 0:
            warnings.warn(
                "The truth value of an empty array is ambiguous. Use `array.size > 0` to check that an array "
                "is not empty.",
                DeprecationWarning,
                stacklevel=2,
            )
            return False
        if self._host.size > 1:
            raise ValueError(
                "The truth value of an array with more than one element is ambiguous. Use a.any() or a.all()"
            )
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __complex__(self) -> complex:
        return complex(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, specification: str) -> str:
        return format(self.get(), specification)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._device_id  # kDLCUDA

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> Any:
        if dl_device == (1, 0) and copy is not False:
            return self.get().__dlpack__(max_version=max_version)
        raise BufferError("the stand-in device has no memory that another library could reach")

    def __reduce__(self) -> Any:
        from .creation import array

        return array, (self.get(order="A"),)
