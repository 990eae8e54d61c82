"""Arguments of a launch: converted to bytes as CuPy does it, and checked against the parameters of the kernel.

A real device checks nothing: it would read a scalar of the wrong size, or an array of another type, as garbage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulators.cupy_standin.array import ndarray
from simulators.cupy_standin.memory import MemoryPointer
from simulators.cupy_standin.state import UndefinedOnDeviceError

_INTEGER, _FLOATING, _CLASS, _POINTER = 1, 2, 3, 4
_NAMES = {0: "void", _INTEGER: "integer", _FLOATING: "floating", _CLASS: "structure", _POINTER: "pointer"}


class KernelArgumentError(UndefinedOnDeviceError):
    """The arguments of a launch do not fit the parameters of the kernel."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel: its kind and size in bytes, and for a pointer those of its target (0 if unknown)."""

    kind: int
    size: int
    target_kind: int = 0
    target_size: int = 0

    def __str__(self) -> str:
        if self.kind == _POINTER:
            return f"pointer to {_NAMES[self.target_kind]} of {self.target_size} bytes"
        return f"{_NAMES[self.kind]} of {self.size} bytes"


def parameters_of(words: Any) -> tuple[Parameter, ...]:
    """Decode the description of a compiled kernel's parameters, one word each (``launch_stub.h``)."""
    parameters = []
    while words[len(parameters)]:
        word = words[len(parameters)]
        target = word >> 16
        parameters.append(Parameter(word >> 12 & 15, word & 0xFFF, target >> 12 & 15, target & 0xFFF))
    return tuple(parameters)


def pack(kernel: str, parameters: Sequence[Parameter], args: Sequence[Any]) -> list[np.ndarray]:
    """Convert arguments to the bytes that a kernel reads.

    Parameters
    ----------
    kernel : str
        Name of the kernel, for error messages.
    parameters : sequence of Parameter
        Its parameters.
    args : sequence
        Arguments of the launch.

    Returns
    -------
    list of array, uint8
        One for every argument, aligned for any type.

    Raises
    ------
    KernelArgumentError
        If the number of arguments differs, or the kind or size of one.
    TypeError
        If CuPy refuses the type of an argument.
    """
    if len(parameters) != len(args):
        raise KernelArgumentError(f"kernel {kernel}: expected {len(parameters)} arguments, got {len(args)}")
    packed = []
    for position, (parameter, value) in enumerate(zip(parameters, args, strict=True)):
        argument = _describe(value)
        if not _fits(argument, parameter):
            raise KernelArgumentError(f"kernel {kernel}, argument {position}: expected a {parameter}, got a {argument}")
        packed.append(_bytes(value))
    return packed


def _describe(value: Any) -> Parameter:
    # callers pass a null pointer as np.uint64(0)
    if value is None or isinstance(value, MemoryPointer) or (type(value) is np.uint64 and value == 0):
        return Parameter(_POINTER, 8)
    if type(value) is ndarray:
        return Parameter(_POINTER, 8, _kind(value.dtype), value.dtype.itemsize)
    value = _host_value(value)
    return Parameter(_CLASS if isinstance(value, np.ndarray) else _kind(value.dtype), value.nbytes)


def _kind(dtype: np.dtype) -> int:
    return {"f": _FLOATING, "V": _CLASS}.get(dtype.kind, _INTEGER)


def _host_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise TypeError(
                f"You are trying to pass a numpy.ndarray of shape {value.shape} as a kernel parameter. Only "
                "numpy.ndarrays of size one can be passed by value."
            )
        return value
    if isinstance(value, np.generic):
        return value
    for python_type, as_numpy in ((bool, np.bool_), (int, np.int64), (float, np.float64), (complex, np.complex128)):
        if isinstance(value, python_type):
            return as_numpy(value)
    raise TypeError(f"Unsupported type {type(value)}")


def _fits(argument: Parameter, parameter: Parameter) -> bool:
    if argument.size != parameter.size:
        return False
    if parameter.kind != _POINTER:
        return argument.kind == parameter.kind or _CLASS in (argument.kind, parameter.kind)
    if argument.kind != _POINTER:
        return False
    if 0 in (argument.target_size, parameter.target_size):
        return True
    if parameter.target_kind == _CLASS:  # a half type, a vector of elements, or a structure
        return parameter.target_size % argument.target_size == 0
    return (argument.target_kind, argument.target_size) == (parameter.target_kind, parameter.target_size)


def address_of(value: Any) -> int:
    """Return the address of a device array or pointer; 0 for None."""
    if value is None:
        return 0
    return value.ptr if isinstance(value, MemoryPointer) else value._host.__array_interface__["data"][0]


def _bytes(value: Any) -> np.ndarray:
    if value is None or isinstance(value, MemoryPointer) or type(value) is ndarray:
        value = np.uint64(address_of(value))
    value = _host_value(value)
    buffer = np.zeros(value.nbytes + 16, dtype=np.uint8)
    start = -buffer.ctypes.data % 16
    aligned = buffer[start : start + value.nbytes]
    aligned[:] = np.frombuffer(value.tobytes(), dtype=np.uint8)
    return aligned
