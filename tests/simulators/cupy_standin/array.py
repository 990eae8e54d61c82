"""``cupy.ndarray``: an array on the stand-in device, whose memory is not accessible from the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import bfloat16, memory
from .flags import Flags
from .indexing import assign, select
from .state import STATE, refuse_in_capture
from .transfers import HostTransfers

#: Type characters of dtypes; the last is bfloat16, which exists only after ml_dtypes has been imported.
SUPPORTED = frozenset("?bhilqBHILQefdFD" + bfloat16.CHAR)
_COMPARISONS = ("less", "less_equal", "equal", "not_equal", "greater", "greater_equal")
SCALARS = (bool, int, float, complex, np.generic)
_new = object.__new__


class ndarray(HostTransfers):
    """A multi-dimensional array on the stand-in device.

    Everything that CuPy forbids is forbidden here. In these points the stand-in is stricter:

    - a NumPy function or ufunc called on a device array fails (CuPy forwards it to its own function);
    - lists and NumPy arrays are refused as indices, values and arguments of every function (CuPy copies some
      of them to the device implicitly, and computes with others on the host);
    - zero-dimensional NumPy arrays on the right of a comparison are refused too;
    - operations that silently give wrong or nondeterministic results on a device raise `UndefinedOnDeviceError`:
      an index out of range (CuPy wraps it around), duplicate indices in an assignment, an assignment between
      overlapping parts of one array;
    - memory from ``cupy.empty`` holds NaN or the largest integer;
    - a view that repeats elements (``broadcast_to``) cannot be written to.

    In these it is less strict: arrays of several devices can be mixed, and errors of linear algebra raise.
    """

    __slots__ = ("_device_id", "_host")
    __module__ = "cupy"
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    _device_id: int
    _host: np.ndarray

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: Any = "C"
    ) -> None:
        dtype = supported(np.dtype(dtype))
        self._device_id = STATE.current_device
        if memptr is not None:
            self._host = memptr._array(shape, dtype, strides, order or "C")
        elif strides is not None:
            raise ValueError("memptr is required if strides is given.")
        else:
            memory.reserve(shape, dtype)
            self._host = memory.poison(np.empty(shape, dtype, order or "C"))
            memory.register(self._host)

    # Shape and memory

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        reshaped = self._host.reshape(shape)
        if self._host.size and not np.may_share_memory(reshaped, self._host):
            raise AttributeError("Incompatible shape for in-place modification")
        self._host = reshaped

    @property
    def dtype(self) -> np.dtype:
        return self._host.dtype

    @property
    def ndim(self) -> int:
        return self._host.ndim

    @property
    def size(self) -> int:
        return self._host.size

    @property
    def itemsize(self) -> int:
        return self._host.itemsize

    @property
    def nbytes(self) -> int:
        return self._host.nbytes

    @property
    def strides(self) -> tuple[int, ...]:
        return self._host.strides

    @property
    def flags(self) -> Flags:
        return Flags(self._host)

    @property
    def base(self) -> ndarray | None:
        owner = memory.owner_of(self._host)
        return None if owner is self._host else wrap(owner)

    @property
    def data(self) -> memory.MemoryPointer:
        return memory.pointer_to(self._host)

    @property
    def device(self) -> Any:
        from .device import Device

        return Device(self._device_id)

    @property
    def T(self) -> ndarray:
        return self if self._host.ndim < 2 else wrap(self._host.T)

    @property
    def mT(self) -> ndarray:
        return wrap(self._host.mT)

    @property
    def real(self) -> ndarray:
        return wrap(self._host.real)

    @real.setter
    def real(self, value: Any) -> None:
        self._host.real = operand(value)

    @property
    def imag(self) -> ndarray:
        return wrap(self._host.imag)

    @imag.setter
    def imag(self, value: Any) -> None:
        self._host.imag = operand(value)

    def view(self, dtype: Any = None, type: Any = None) -> ndarray:
        return wrap(self._host.view() if dtype is None else self._host.view(dtype))

    def reshape(self, *shape: Any, order: Any = "C", copy: bool | None = None) -> ndarray:
        target = shape[0] if len(shape) == 1 else shape
        if copy:
            return wrap(self._host.copy().reshape(target, order=order))
        if copy is False:
            duplicate = self.view()
            duplicate.shape = target
            return duplicate
        return wrap(self._host.reshape(target, order=order))

    def transpose(self, *axes: Any) -> ndarray:
        return wrap(self._host.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        return wrap(self._host.swapaxes(axis1, axis2))

    def squeeze(self, axis: Any = None) -> ndarray:
        return wrap(self._host.squeeze(axis))

    def ravel(self, order: Any = "C") -> ndarray:
        return wrap(self._host.ravel(order))

    def flatten(self, order: Any = "C") -> ndarray:
        return wrap(self._host.flatten(order))

    def copy(self, order: Any = "C") -> ndarray:
        return wrap(self._host.copy(order))

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def astype(
        self, dtype: Any, order: Any = "K", casting: None = None, subok: None = None, copy: bool = True
    ) -> ndarray:
        for name, value in (("casting", casting), ("subok", subok)):
            if value is not None:
                raise TypeError(f"{name} is not supported yet")
        dtype = supported(np.dtype(dtype))
        with np.errstate(all="ignore"):
            result = self._host.astype(dtype, order=order, copy=copy)
        return self if result is self._host else wrap(result)

    def fill(self, value: Any) -> None:
        refuse_in_capture("cupy.ndarray.fill()")
        value = operand(value)
        if np.ndim(value):
            raise ValueError("non-scalar cupy.ndarray cannot be used for fill")
        self._host[...] = value

    # NumPy's functions

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        # A NumPy scalar on the left of an operator calls this method and is allowed, as in CuPy; in comparisons
        # NumPy passes it as a zero-dimensional array.
        if ufunc.__name__ in _COMPARISONS and isinstance(inputs[0], np.ndarray) and inputs[0].ndim == 0:
            inputs = (inputs[0][()], *inputs[1:])
        for value in inputs + tuple(kwargs.get("out", ())):
            if isinstance(value, np.ndarray):
                raise TypeError(f"Unsupported type {type(value)}")
        if method == "__call__" and not kwargs and len(inputs) == 2 and isinstance(inputs[0], np.generic):
            with np.errstate(all="ignore"):
                return to_device(ufunc(inputs[0], self._host))
        raise TypeError(
            f"numpy.{ufunc.__name__} was called on a device array: call the function of its own namespace "
            "(CuPy would forward the call; this stand-in shows where it happens)"
        )

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(
            f"numpy.{func.__name__} was called on a device array: call the function of its own namespace "
            "(CuPy would forward the call; this stand-in shows where it happens)"
        )

    # Elements

    def __len__(self) -> int:
        if self._host.ndim == 0:
            raise TypeError("len() of unsized object")
        return len(self._host)

    def __iter__(self) -> Any:
        if self._host.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self._host.shape[0]))

    def __getitem__(self, key: Any) -> ndarray:
        return wrap(select(self._host, key, ndarray))

    def __setitem__(self, key: Any, value: Any) -> None:
        assign(self._host, key, operand(value), ndarray)


def supported(dtype: np.dtype) -> np.dtype:
    """Return `dtype`, or raise if device arrays cannot have it."""
    if dtype.char not in SUPPORTED:
        raise ValueError(f"Unsupported dtype {dtype}")
    return dtype


def wrap(host: Any) -> ndarray:
    """Return a device array with the memory of `host`."""
    if type(host) is not np.ndarray:
        host = np.asarray(host)
    if host.dtype.char not in SUPPORTED:
        raise ValueError(f"Unsupported dtype {host.dtype}")
    memory.register(host)
    array = _new(ndarray)
    array._host = host
    array._device_id = STATE.current_device
    return array


def to_device(result: Any) -> Any:
    """Convert a result of NumPy, including tuples and lists, to the result of the device.

    Scalars become 0-d arrays, and new arrays are row-major regardless of the operands, unlike NumPy's.
    """
    type_of_result = type(result)
    if type_of_result is np.ndarray:
        fresh = result.ndim > 1 and result.base is None
        return wrap(np.ascontiguousarray(result) if fresh else result)
    if isinstance(result, SCALARS):
        return wrap(result)
    if isinstance(result, tuple):
        entries = [to_device(entry) for entry in result]
        return type_of_result(*entries) if hasattr(result, "_fields") else tuple(entries)
    if type_of_result is list:
        return [to_device(entry) for entry in result]
    return result


def operand(value: Any) -> Any:
    """Return the memory behind a device array, or a scalar; raise for anything else."""
    if type(value) is ndarray:
        return value._host
    if isinstance(value, SCALARS):
        return value
    raise TypeError(f"Unsupported type {type(value)}")
