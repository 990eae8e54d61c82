"""Launches recorded with their memory, to be replayed under a sanitizer, in another order, or with changed source.

A recording is replayed by a separate program (``runtime/replay.cpp``), so that a sanitizer or a broken kernel cannot
end or corrupt the test session. There every array argument has memory of exactly its size.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from simulators.cupy_standin.array import ndarray
from simulators.cupy_standin.memory import MemoryPointer, known_blocks, owner_of
from simulators.emulator import build
from simulators.emulator.arguments import address_of, pack
from simulators.emulator.runner import ORDERS, EmulatorRunner, Launch, Order

#: Seconds after which a launch counts as hanging.
_TIMEOUT = 120
_SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:exitcode=66:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=66",
    "TSAN_OPTIONS": "halt_on_error=1:exitcode=66:history_size=7:report_signal_unsafe=0",
}


@dataclass(frozen=True)
class Piece:
    """A contiguous part of device memory: its address and contents."""

    address: int
    lead: int  # offset of its start from a multiple of 512 bytes
    content: bytes
    pointers: bool  # whether it may contain addresses of other pieces


@dataclass(frozen=True)
class Recording:
    """A launch with the memory before and after it.

    Attributes
    ----------
    launch : Launch
        The launch.
    packed : tuple of bytes
        The arguments as the kernel reads them.
    pieces : tuple of Piece
        The memory before.
    result : bytes
        The memory after, all pieces concatenated.
    """

    launch: Launch
    packed: tuple[bytes, ...]
    pieces: tuple[Piece, ...]
    result: bytes = b""

    def __str__(self) -> str:
        return f"{self.launch.kernel}[{self.launch.grid}x{self.launch.block}]"


@dataclass(frozen=True)
class Outcome:
    """The result of replaying a recording.

    Attributes
    ----------
    finding : str
        The report of a sanitizer, or the fault that the emulator detected; empty if there was none.
    results : tuple of bytes
        The memory after each run, in the form of `Recording.result`.
    """

    finding: str
    results: tuple[bytes, ...] = ()


@contextlib.contextmanager
def recording(
    runner: EmulatorRunner, selected: Callable[[Launch], bool] = lambda launch: True
) -> Iterator[list[Recording]]:
    """Record the launches of a ``with`` block for which `selected` returns True.

    Yields
    ------
    list of Recording
        Grows with every launch.
    """
    recordings: list[Recording] = []

    def observe(launch: Launch) -> Callable[[], None] | None:
        if not selected(launch):
            return None
        parts = _parts(launch)
        packed = tuple(value.tobytes() for value in pack(launch.kernel, launch.parameters, launch.args))
        pieces = tuple(Piece(start, lead, memory.tobytes(), pointers) for start, lead, memory, pointers in parts)

        def finish() -> None:
            result = b"".join(memory.tobytes() for _, _, memory, _ in parts)
            recordings.append(Recording(replace(launch, args=()), packed, pieces, result))

        return finish

    runner.observers.append(observe)
    try:
        yield recordings
    finally:
        runner.observers.remove(observe)


def run_again(
    recorded: Recording,
    build_cache: build.BuildCache,
    variant: build.Variant = build.PLAIN,
    orders: Sequence[Order] = (Order(),),
    code: str | None = None,
) -> Outcome:
    """Replay a recording, once for every order.

    Parameters
    ----------
    recorded : Recording
        The launch.
    build_cache : BuildCache
        Compiles the kernel.
    variant : Variant
        Compiler flags.
    orders : sequence of Order
        Orders of threads and blocks.
    code : str, optional
        Source to run instead of the recorded one.

    Returns
    -------
    Outcome
        Ends with the first finding.
    """
    launch = recorded.launch
    module = build_cache.kernel(launch.code if code is None else code, launch.options, variant)
    program = build_cache.program(variant)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "launch"
        file.write_bytes(_serialised(recorded, module))
        results = [Path(folder) / f"result{i}" for i in range(len(orders))]
        command = [str(program), str(file)]
        for order, result in zip(orders, results, strict=True):
            command += [str(ORDERS.index(order.name)), str(order.seed), str(result)]
        try:
            process = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_TIMEOUT, env=_SANITIZER_OPTIONS
            )
        except subprocess.TimeoutExpired:
            return Outcome(f"still running after {_TIMEOUT} seconds")
        if process.returncode:
            return Outcome(process.stderr.strip() or f"ended with status {process.returncode}")
        return Outcome("", tuple(result.read_bytes() for result in results))


def _parts(launch: Launch) -> list[tuple[int, int, np.ndarray, bool]]:
    """Return the memory that a launch can access: address, offset from a multiple of 512, bytes, may contain pointers.

    Overlapping arrays are merged. Addresses in structures, and in arrays of 8-byte integers on the device, refer to
    whole allocations.
    """
    spans: list[tuple[int, int, np.ndarray, bool]] = []
    for value in launch.args:
        if type(value) is ndarray:
            start, size = _extent(value._host)
            spans.append((start, size, owner_of(value._host), value.dtype.kind in "iu" and value.dtype.itemsize == 8))
        elif isinstance(value, MemoryPointer):
            owner = value.mem._owner
            spans.append((address_of(value), owner.nbytes - value._offset, owner, False))
    blocks = {owner.__array_interface__["data"][0]: owner for owner in known_blocks()}
    for words in _words(launch):
        for word in words.tolist():
            for start, owner in blocks.items():
                if start <= word < start + max(1, owner.nbytes):
                    spans.append((start, owner.nbytes, owner, False))
    parts: list[tuple[int, int, np.ndarray, bool]] = []
    for start, size, owner, pointers in sorted(spans, key=lambda span: span[:2]):
        if parts and start < parts[-1][0] + parts[-1][1]:
            previous = parts[-1]
            parts[-1] = (previous[0], max(previous[1], start + size - previous[0]), owner, previous[3] or pointers)
        else:
            parts.append((start, size, owner, pointers))
    memory_parts = []
    for start, size, owner, pointers in parts:
        base = owner.__array_interface__["data"][0]
        memory = np.ndarray(size, np.uint8, buffer=_flat(owner), offset=start - base)
        memory_parts.append((start, (start - base) % 512, memory, pointers))
    return memory_parts


def _extent(host: np.ndarray) -> tuple[int, int]:
    low, high = np.lib.array_utils.byte_bounds(host)
    return low, (high - low if host.size else 0)


def _flat(owner: np.ndarray) -> np.ndarray:
    return owner.reshape(-1, order="A").view(np.uint8)


def _words(launch: Launch) -> Iterator[np.ndarray]:
    """Yield the words that may be addresses: in structures, and in device arrays of 8-byte integers."""
    for value in launch.args:
        if isinstance(value, np.ndarray):
            yield np.frombuffer(value.tobytes()[: value.nbytes // 8 * 8], dtype=np.uint64)
        elif type(value) is ndarray and value.dtype.kind in "iu" and value.dtype.itemsize == 8:
            yield value._host.view(np.uint64).ravel()


def _serialised(recorded: Recording, module: Path) -> bytes:
    launch, pieces = recorded.launch, recorded.pieces
    objects = build.shared_variables(module)
    out = [_text(str(module).encode()), _number(len(objects))]
    out += [_number(offset) + _number(size) for _, offset, size in objects]
    out.append(_text(launch.kernel.encode()))
    out += [_number(value) for value in (launch.grid, launch.block, launch.shared, launch.cooperative)]
    out.append(_number(len(pieces)))
    out += [_number(piece.lead) + _text(piece.content) for piece in pieces]
    out.append(_number(len(recorded.packed)))
    out += [_text(value) for value in recorded.packed]
    out.append(_addresses(recorded.packed, pieces))
    out.append(_addresses([piece.content if piece.pointers else b"" for piece in pieces], pieces))
    return b"".join(out)


def _addresses(contents: Sequence[bytes], pieces: Sequence[Piece]) -> bytes:
    addresses = []
    for index, content in enumerate(contents):
        for position, (word,) in enumerate(struct.iter_unpack("<Q", content[: len(content) // 8 * 8])):
            for piece_index, piece in enumerate(pieces):
                if piece.address <= word < piece.address + max(1, len(piece.content)):
                    addresses.append((index, 8 * position, piece_index, word - piece.address))
                    break
    return _number(len(addresses)) + b"".join(struct.pack("<4Q", *address) for address in addresses)


def _number(value: Any) -> bytes:
    return struct.pack("<Q", int(value))


def _text(content: bytes) -> bytes:
    return _number(len(content)) + content
