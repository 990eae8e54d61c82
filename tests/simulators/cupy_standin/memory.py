"""``cupy.cuda.memory``: device memory is NumPy memory whose owners are registered, counted and limited."""

from __future__ import annotations

import contextlib
import ctypes
import operator
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import bfloat16
from .errors import ensure_usable
from .extension import ExtensionType
from .state import STATE, refuse_in_capture
from .stream import get_current_stream

UNIT = 512  # allocation granularity of CuPy's pool


class OutOfMemoryError(MemoryError):
    """An allocation exceeds the device's memory or the limit of its pool."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        message = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        message += f", limit set to: {limit:,} bytes)." if limit else ")."
        super().__init__(message)


OutOfMemoryError.__module__ = "cupy.cuda.memory"


class _Block(weakref.ref[Any]):
    __slots__ = ("key", "nbytes")
    key: int
    nbytes: int


_blocks: dict[int, _Block] = {}


def _rounded(nbytes: int) -> int:
    return -(-nbytes // UNIT) * UNIT


def owner_of(host: np.ndarray) -> np.ndarray:
    """Return the array that owns the memory of `host`."""
    while isinstance(host.base, np.ndarray):
        host = host.base
    return host


def _require(size: int) -> None:
    if POOL.limit and POOL.used + size > POOL.limit:
        raise OutOfMemoryError(size, POOL.used, POOL.limit)
    if POOL.used + size > STATE.memory_size:
        raise OutOfMemoryError(size, POOL.used)


def reserve(shape: Any, dtype: Any) -> None:
    """Raise, before the host allocates anything, if the device has too little memory for such an array."""
    ensure_usable()
    nbytes = np.dtype(dtype).itemsize
    for size in shape if isinstance(shape, tuple | list) else (shape,):
        nbytes *= operator.index(size)
    _require(_rounded(nbytes))


def register(host: np.ndarray) -> None:
    """Register the memory of `host` as device memory, as a new allocation unless its owner is registered."""
    owner = host if host.base is None else owner_of(host)
    key = id(owner)
    if key in _blocks:
        return
    ensure_usable()
    nbytes = _rounded(owner.nbytes)
    if not nbytes:
        return
    if STATE.allocator is not None:
        STATE.allocator(owner.nbytes)
    refuse_in_capture("allocating memory")
    _require(nbytes)
    block = _Block(owner, _released)
    block.key, block.nbytes = key, nbytes
    _blocks[key] = block
    POOL.used += nbytes
    POOL.held = max(POOL.held, POOL.used)
    STATE.counters.allocations += 1
    STATE.counters.allocated_bytes += nbytes


def known_blocks() -> list[np.ndarray]:
    """Return the owners of all memory on the device."""
    owners = (block() for block in list(_blocks.values()))
    return [owner for owner in owners if owner is not None]


def _released(block: _Block) -> None:
    _blocks.pop(block.key, None)
    POOL.used -= block.nbytes


def poison(host: np.ndarray) -> np.ndarray:
    """Fill uninitialized memory with values that are visible in every result computed from them."""
    kind = host.dtype.kind
    if kind in "fc" or host.dtype.char == bfloat16.CHAR:
        host.fill(np.nan)
    elif kind in "iu":
        host.fill(np.iinfo(host.dtype).max)
    else:
        host.fill(True)
    return host


class Memory(metaclass=ExtensionType):
    """One block of device memory."""

    def __init__(self, owner: np.ndarray) -> None:
        self._owner = owner
        self.size = owner.nbytes
        self.ptr: int = owner.__array_interface__["data"][0]
        self.device_id = STATE.current_device

    def bytes(self) -> np.ndarray:
        """Return the block as an array of bytes that shares its memory."""
        return self._owner.ravel("K").view(np.uint8)


class MemoryPointer(metaclass=ExtensionType):
    """An address inside a block of device memory; adding an integer moves it."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem = mem
        self._offset = offset
        self.ptr = mem.ptr + offset
        self.device_id = mem.device_id

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self._offset + offset)

    __radd__ = __add__

    def __sub__(self, offset: int) -> MemoryPointer:
        return self + -offset

    def __int__(self) -> int:
        return self.ptr

    def _array(self, shape: Any, dtype: Any, strides: Any, order: Any) -> np.ndarray:
        """Return the memory from this address on as an array."""
        return np.ndarray(shape, dtype, buffer=self.mem.bytes(), offset=self._offset, strides=strides, order=order)

    def memset(self, value: int, size: int) -> None:
        """Set `size` bytes to `value`."""
        self._array(size, np.uint8, None, "C").fill(value)

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        """Set `size` bytes to `value`; captured if the stream captures."""
        do_or_capture(stream, lambda: self.memset(value, size))

    def copy_from_device_async(self, src: MemoryPointer, size: int, stream: Any = None) -> None:
        """Copy `size` bytes from another address on the device; captured if the stream captures."""

        def copy() -> None:
            self._array(size, np.uint8, None, "C")[...] = src._array(size, np.uint8, None, "C")

        do_or_capture(stream, copy)

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        """Copy `size` bytes from an address on the host immediately; on a device the copy is asynchronous."""
        refuse_in_capture("copying from the host")  # a graph would copy the host memory's contents at launch
        STATE.counters.host_to_device_copies += 1
        STATE.counters.host_to_device_bytes += size
        address = mem if isinstance(mem, int) else mem.value
        host = np.frombuffer((ctypes.c_char * size).from_address(address), np.uint8)
        self._array(size, np.uint8, None, "C")[...] = host


def pointer_to(host: np.ndarray) -> MemoryPointer:
    """Return the address of an array's first element."""
    block = Memory(owner_of(host))
    return MemoryPointer(block, host.__array_interface__["data"][0] - block.ptr if host.size else 0)


def do_or_capture(stream: Any, operation: Callable[[], None]) -> None:
    """Execute an operation, or add it to the graph if the stream (by default the current one) captures."""
    stream = get_current_stream() if stream is None else stream
    if stream.is_capturing():
        stream._graph._add(operation)
    else:
        operation()


@contextlib.contextmanager
def using_allocator(allocator: Callable[[int], Any]) -> Iterator[None]:
    """Call `allocator` for every allocation inside a ``with`` block; here it can only refuse, by raising."""
    previous, STATE.allocator = STATE.allocator, allocator
    try:
        yield
    finally:
        STATE.allocator = previous


class PinnedMemoryPointer(ctypes.Array):
    """Pinned host memory, a buffer like CuPy's."""

    _type_ = ctypes.c_char
    _length_ = 0
    ptr: int


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    """Allocate pinned memory of the host."""
    ensure_usable()
    pointer_type = type("PinnedMemoryPointer", (PinnedMemoryPointer,), {"_type_": ctypes.c_char, "_length_": size})
    pinned = pointer_type()
    pinned.ptr = ctypes.addressof(pinned)
    return pinned


def alloc(size: int) -> MemoryPointer:
    """Allocate `size` bytes on the device."""
    reserve(size, np.uint8)
    owner = np.full(size, 0xA5, dtype=np.uint8)
    register(owner)
    return MemoryPointer(Memory(owner), 0)


class MemoryPool(metaclass=ExtensionType):
    """The pool behind every allocation. Freed blocks stay with it until `free_all_blocks`."""

    def __init__(self) -> None:
        self.used = 0
        self.held = 0
        self.limit = 0

    def malloc(self, size: int) -> MemoryPointer:
        """Allocate `size` bytes."""
        return alloc(size)

    def used_bytes(self) -> int:
        """Return the bytes in use."""
        return self.used

    def free_bytes(self) -> int:
        """Return the bytes held but not in use."""
        return self.held - self.used

    def total_bytes(self) -> int:
        """Return the bytes held."""
        return self.held

    def free_all_blocks(self, stream: Any = None) -> None:
        """Give the bytes that are not in use back to the device."""
        self.held = self.used

    def get_limit(self) -> int:
        """Return the limit in bytes, 0 for none."""
        return self.limit

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Limit the bytes in use, as a number or as a share of the device's memory."""
        self.limit = int(STATE.memory_size * fraction) if fraction is not None else size or 0


POOL = MemoryPool()


def get_default_memory_pool() -> MemoryPool:
    """Return the pool behind every allocation."""
    return POOL
