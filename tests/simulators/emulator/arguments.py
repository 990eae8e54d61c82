"""Arguments of a launch: turned into bytes as CuPy does it, and held to the parameters of the kernel.

On a device nobody compares the two: a scalar of the wrong size, or an array of another type, is read as garbage.
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
    """What a launch hands over is not what the kernel takes."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel: kind and bytes, and for a pointer those of what it points to."""

    kind: int
    size: int
    target_kind: int = 0
    target_size: int = 0

    def __str__(self) -> str:
        if self.kind == _POINTER:
            return f"pointer to {_NAMES[self.target_kind]} of {self.target_size} bytes"
        return f"{_NAMES[self.kind]} of {self.size} bytes"


def parameters_of(words: Any) -> tuple[Parameter, ...]:
    """Read the words that a compiled kernel says of its parameters (``launch_stub.h``)."""
    parameters = []
    while words[len(parameters)]:
        word = words[len(parameters)]
        target = word >> 16
        parameters.append(Parameter(word >> 12 & 15, word & 0xFFF, target >> 12 & 15, target & 0xFFF))
    return tuple(parameters)


def pack(kernel: str, parameters: Sequence[Parameter], args: Sequence[Any]) -> list[np.ndarray]:
    """Turn arguments into the bytes that a kernel reads.

    Parameters
    ----------
    kernel : str
        Its name, for errors.
    parameters : sequence of Parameter
        What it takes.
    args : sequence
        What the launch hands over.

    Returns
    -------
    list of array, uint8
        One for every argument, aligned for any type.

    Raises
    ------
    KernelArgumentError
        For another number of arguments, or one of another kind or size.
    TypeError
        For what CuPy refuses.
    """
    if len(parameters) != len(args):
        raise KernelArgumentError(f"kernel {kernel} takes {len(parameters)} arguments, given {len(args)}")
    packed = []
    for position, (parameter, value) in enumerate(zip(parameters, args, strict=True)):
        given = _describe(value)
        if not _serves(given, parameter):
            raise KernelArgumentError(f"kernel {kernel}, argument {position}: wanted a {parameter}, given a {given}")
        packed.append(_bytes(value))
    return packed


def _describe(value: Any) -> Parameter:
    # a null pointer is written as the number it is
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


def _serves(argument: Parameter, parameter: Parameter) -> bool:
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
    """Return where a device array or pointer begins, 0 for None."""
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
