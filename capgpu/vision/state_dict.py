"""The tensors of a PyTorch file, read without PyTorch and without executing what the file says.

Such a file is a program for the virtual machine of the pickle module, which can call any function there is. Here
the program is only looked at, opcode by opcode, on a machine that knows the few which a dictionary of tensors needs
and three functions by name, none of which is looked up anywhere. Anything else ends the reading.

The layout (that of ``torch.save`` before version 1.6, which the published networks of that time have): five such
programs, giving a magic number, the version of the layout, facts of the writer's system, the dictionary, and the
storages' names; then for each storage its length (int64) and its numbers.
"""

from __future__ import annotations

import math
import os
import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidValueError
from capgpu.file_formats.content import read_content
from capgpu.visible_text import clipped, short

__all__ = ["read_state_dict"]

_MAGIC = 0x1950A86A20F9469CFC6C
_LAYOUT = 1001
_MOST_BYTES = 1 << 33
#: Numbers in all tensors together, for each byte of the file.
_MOST_COPIES = 4
_DTYPES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "<i1",
    "torch ByteStorage": "<u1",
}
_DICT, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"


@dataclass(frozen=True)
class _Name:
    """A function or class that the program names."""

    name: str


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    length: int


@dataclass(frozen=True)
class _View:
    """A tensor: a storage seen through offset, shape and strides, all counted in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RefusedError(ValueError):
    """The program does what no dictionary of tensors needs."""


class _Mark:
    """Where the elements of a tuple, list or dictionary begin on the stack."""


@dataclass
class _Machine:
    """The stack, the memo, and the opcodes that are known."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, file: BytesIO) -> Any:
        """Execute one pickle program to its end and return its result; the file is left after it."""
        while True:
            code = file.read(1).decode("latin-1")
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise _RefusedError(f"the opcode {code!r} before byte {file.tell()}" if code else "no end")
            if opcode.name == "STOP":
                return self.stack.pop()
            argument = None
            if opcode.name == "GLOBAL":
                # the reader in pickletools sees escapes in names, where pickle does not
                argument = b" ".join(file.readline().rstrip(b"\n") for _ in range(2)).decode("ascii")
            elif opcode.arg is not None:
                argument = opcode.arg.reader(file)
            _STEPS[opcode.name](self, argument)

    def pop_to_mark(self) -> list[Any]:
        for position in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[position], _Mark):
                popped = self.stack[position + 1 :]
                del self.stack[position:]
                return popped
        raise _RefusedError("an opcode without its mark")

    def pop_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError("the stack is too short for a tuple")
        elements = tuple(self.stack[-length:])
        del self.stack[-length:]
        self.stack.append(elements)

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def memorise(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def name(self, text: str) -> None:
        if text not in (_DICT, _TENSOR, *_DTYPES):
            raise _RefusedError(f"the name {clipped(text.replace(' ', '.', 1))}")
        self.stack.append(_Name(text))

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function == _Name(_DICT) and arguments == ():
            self.stack.append({})
        elif function == _Name(_TENSOR) and isinstance(arguments, tuple):
            self.stack.append(_view(*arguments))
        else:
            raise _RefusedError(f"a call of {getattr(function, 'name', type(function).__name__)}")

    def set_items(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
            raise _RefusedError("items that are not those of a dictionary with names")
        target.update(zip(items[::2], items[1::2], strict=True))

    def append(self, items: Sequence[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise _RefusedError("elements of something that is no list")
        self.stack[-1].extend(items)

    def attributes(self) -> None:
        # attributes that PyTorch adds to the dictionary: versions of the modules, which tensors do not need
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise _RefusedError("attributes of something that is no dictionary")

    def storage(self) -> None:
        match self.stack.pop():
            case ("storage", _Name(dtype), str(key), str(), int(length), None) if dtype in _DTYPES and length >= 0:
                self.stack.append(_Storage(_DTYPES[dtype], key, length))
            case _:
                raise _RefusedError("a storage of an unknown kind")


def _view(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
    """Check that all of a tensor lies in its storage."""
    whole = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    numbers = (offset, *shape, *strides) if whole else ()
    if (
        not isinstance(storage, _Storage)
        or not numbers
        or not all(isinstance(number, int) and 0 <= number <= storage.length for number in numbers)
    ):
        raise _RefusedError("a tensor that does not say how it lies in its storage")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    count = 1
    for length in shape:
        count *= length
    # a tensor that repeats its numbers could be larger than any memory
    if count > storage.length or (count and last >= storage.length):
        raise _RefusedError(f"a tensor of shape {short(shape)} and strides {short(strides)}, larger than its storage")
    return _View(storage, offset, shape, strides)


def _push(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda machine, argument: None,
    "MARK": lambda machine, argument: machine.stack.append(_Mark()),
    "NONE": lambda machine, argument: machine.stack.append(None),
    "NEWTRUE": lambda machine, argument: machine.stack.append(True),
    "NEWFALSE": lambda machine, argument: machine.stack.append(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"), _push),
    "EMPTY_DICT": lambda machine, argument: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, argument: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, argument: machine.stack.append(()),
    "TUPLE1": lambda machine, argument: machine.pop_tuple(1),
    "TUPLE2": lambda machine, argument: machine.pop_tuple(2),
    "TUPLE3": lambda machine, argument: machine.pop_tuple(3),
    "TUPLE": lambda machine, argument: machine.stack.append(tuple(machine.pop_to_mark())),
    "APPEND": lambda machine, argument: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, argument: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, argument: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, argument: machine.set_items(machine.pop_to_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.memorise),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.recall),
    "GLOBAL": _Machine.name,
    "REDUCE": lambda machine, argument: machine.call(),
    "BUILD": lambda machine, argument: machine.attributes(),
    "BINPERSID": lambda machine, argument: machine.storage(),
}


_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes if opcode.name in {"STOP", *_STEPS}}


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Read the tensors of a PyTorch file of the layout before version 1.6.

    Parameters
    ----------
    path : path
        The file, usually ``.pth``.

    Returns
    -------
    dict of str to numpy.ndarray
        The tensors, by their names.

    Raises
    ------
    OSError
        As the system gives it.
    ValueError
        If the file is damaged, has another layout, or is more than a dictionary of tensors; nothing that it asks
        for is executed.
    """
    content = read_content(path, _MOST_BYTES, InvalidValueError)
    try:
        return _read(content)
    except _RefusedError as refused:
        raise InvalidValueError(
            f"{os.fspath(path)}: expected a plain dictionary of tensors in the layout before PyTorch 1.6, got "
            f"{refused}. Nothing of it was executed."
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidValueError(
            f"{os.fspath(path)} cannot be read as a PyTorch file: it is damaged ({short(str(error))})."
        ) from error


def _read(content: bytes) -> dict[str, npt.NDArray[Any]]:
    if content.startswith(b"PK"):
        raise _RefusedError("the layout of PyTorch 1.6 and later, a zip archive")
    file = BytesIO(content)
    magic, layout, system = (_Machine().run(file) for _ in range(3))
    if magic != _MAGIC or layout != _LAYOUT or not isinstance(system, dict):
        raise _RefusedError("another beginning than such files")
    if system.get("little_endian") is not True:
        raise _RefusedError("numbers that are not little-endian")
    tensors, keys = _Machine().run(file), _Machine().run(file)
    if not isinstance(tensors, dict) or not isinstance(keys, list):
        raise _RefusedError(f"a {type(tensors).__name__} and a {type(keys).__name__} where tensors should be")
    return _arrays(tensors, keys, content, file.tell())


def _arrays(tensors: dict[str, Any], keys: list[Any], content: bytes, start: int) -> dict[str, npt.NDArray[Any]]:
    """Read the numbers of all tensors from the rest of the file."""
    for name, view in tensors.items():
        if not isinstance(view, _View):
            raise _RefusedError(f"the entry {short(name)}, which is no tensor")
    storages = {view.storage.key: view.storage for view in tensors.values()}
    # many tensors of one storage could be larger than any memory
    if sum(math.prod(view.shape) for view in tensors.values()) > _MOST_COPIES * len(content):
        raise _RefusedError("tensors that are together larger than the file")
    numbers = {}
    for key in keys:
        storage = storages.get(key)
        stored = int.from_bytes(content[start : start + 8], "little")
        if storage is None or stored != storage.length:
            raise _RefusedError("a storage that is not the announced one")
        numbers[key] = np.frombuffer(content, storage.dtype, storage.length, start + 8)
        start += 8 + numbers[key].nbytes
    return {
        name: np.lib.stride_tricks.as_strided(
            numbers[view.storage.key][view.offset :],
            view.shape,
            [stride * numbers[view.storage.key].itemsize for stride in view.strides],
        ).copy()
        for name, view in tensors.items()
    }
