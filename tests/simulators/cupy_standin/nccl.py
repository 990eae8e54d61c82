"""``cupy.cuda.nccl``: collectives between the simulated devices of threads or processes, over local sockets.

Rank 0 receives the operands of every rank, checks that all have called the same collective, sums in the order of ranks,
and sends the result. Work is executed immediately, so that a call returns when all ranks have made it.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import secrets
import tempfile
import threading
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import numpy as np

from .errors import ensure_usable
from .memory import known_blocks
from .state import STATE, refuse_in_capture

NCCL_UNIQUE_ID_BYTES = 128
NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN = range(4)
NCCL_INT8, NCCL_UINT8, NCCL_INT32, NCCL_UINT32, NCCL_INT64, NCCL_UINT64 = range(6)
NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64, NCCL_BFLOAT16 = 6, 7, 8, 9
_DTYPES = ("int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")
_SYSTEM_ERROR, _INVALID_ARGUMENT, _INVALID_USAGE = 2, 4, 5
_NAMES = {
    _SYSTEM_ERROR: "NCCL_ERROR_SYSTEM_ERROR: unhandled system error",
    _INVALID_ARGUMENT: "NCCL_ERROR_INVALID_ARGUMENT: invalid argument",
    _INVALID_USAGE: "NCCL_ERROR_INVALID_USAGE: invalid usage",
}
_REDUCTIONS: dict[int, Any] = {NCCL_SUM: np.add, NCCL_PROD: np.multiply, NCCL_MAX: np.maximum, NCCL_MIN: np.minimum}
_SECONDS = 60.0  # after which a rank that waits for the others gives up, so that a test fails

available = True
_listeners: dict[bytes, Listener] = {}
_numbers = itertools.count()


class NcclError(RuntimeError):
    """An error of NCCL; the message is its name and its explanation."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(_NAMES[status])


NcclError.__module__ = "cupy_backends.cuda.libs.nccl"


def get_version() -> int:
    """Return the version of NCCL that is simulated."""
    return 22703


def get_unique_id() -> bytes:
    """Return an id by which ranks find each other: bytes, since CuPy 14."""
    ensure_usable()
    name = f"nccl-{os.getpid()}-{next(_numbers)}-{secrets.token_hex(4)}"
    address = os.path.join(tempfile.gettempdir(), name).encode()
    unique = address.ljust(NCCL_UNIQUE_ID_BYTES, b"\0")
    if len(unique) > NCCL_UNIQUE_ID_BYTES:
        raise NcclError(_SYSTEM_ERROR)
    _listeners[unique] = Listener(os.fsdecode(address), "AF_UNIX", backlog=64)
    return unique


class NcclCommunicator:
    """The communicator of one rank, which has the device that is current when it is made."""

    def __init__(self, ndev: int, commId: bytes, rank: int) -> None:
        ensure_usable()
        if type(commId) is not bytes:
            given_type = type(commId).__name__
            raise TypeError(f"Argument 'commId' has incorrect type (expected bytes, got {given_type})")
        if len(commId) != NCCL_UNIQUE_ID_BYTES:
            raise ValueError(f"commId length {len(commId)} != {NCCL_UNIQUE_ID_BYTES}.")
        if not 0 <= rank < ndev:
            raise NcclError(_INVALID_ARGUMENT)
        self._rank, self._size = rank, ndev
        self._device = STATE.current_device
        self._peers: dict[int, Connection[Any, Any]] | None = {}
        if rank == 0:
            with _listeners.pop(commId) as listener:
                while len(self._peers) < ndev - 1:
                    peer = _accepted(listener)
                    self._peers[_received(peer)] = peer
        else:
            self._peers[0] = Client(os.fsdecode(commId.rstrip(b"\0")), "AF_UNIX")
            self._peers[0].send(rank)
        self._exchange("init", (ndev, commId), np.zeros(0))

    def rank_id(self) -> int:
        """Return the rank."""
        return self._rank

    def size(self) -> int:
        """Return the number of ranks."""
        return self._size

    def device_id(self) -> int:
        """Return the device's number."""
        return self._device

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        """Reduce arrays of all ranks into an array of each."""
        source, target = _memory(sendbuf, count, datatype), _memory(recvbuf, count, datatype)
        self._collective("allReduce", (count, datatype, op), source, target, _REDUCTIONS[op], stream)

    def broadcast(self, sendbuff: int, recvbuff: int, count: int, datatype: int, root: int, stream: int) -> None:
        """Copy an array of one rank to all."""
        source, target = _memory(sendbuff, count, datatype), _memory(recvbuff, count, datatype)

        def of_root(parts: list[np.ndarray]) -> np.ndarray:
            return parts[root]

        self._collective("broadcast", (count, datatype, root), source, target, of_root, stream)

    def destroy(self) -> None:
        """Close the connections; the communicator cannot be used any more."""
        for peer in (self._peers or {}).values():
            peer.close()
        self._peers = None

    abort = destroy

    def _collective(
        self, name: str, call: tuple[int, ...], source: np.ndarray, target: np.ndarray, combine: Any, stream: int
    ) -> None:
        refuse_in_capture(f"NCCL's {name}")  # NCCL's can be captured; the stand-in executes them immediately
        STATE.counters.collectives.append((name, source.nbytes, stream))
        parts = self._exchange(name, call, source)
        if isinstance(combine, np.ufunc):
            result = parts[0].copy()
            for part in parts[1:]:
                combine(result, part, out=result)
        else:
            result = combine(parts)
        target[...] = result

    def _exchange(self, name: str, call: Any, source: np.ndarray) -> list[np.ndarray]:
        """Return the operands of all ranks, which have to be in the same call."""
        if self._peers is None:
            raise NcclError(_INVALID_ARGUMENT)
        own = (name, call, source.copy())
        try:
            if self._rank:
                self._peers[0].send(own)
                calls = _received(self._peers[0])
            else:
                calls = [own, *(_received(self._peers[rank]) for rank in range(1, self._size))]
                for peer in self._peers.values():
                    peer.send(calls)
        except (OSError, EOFError) as error:
            raise NcclError(_SYSTEM_ERROR) from error
        if any(other[:2] != own[:2] for other in calls):
            raise NcclError(_INVALID_USAGE)  # a device would hang, or continue with other numbers
        return [other[2] for other in calls]


def _accepted(listener: Listener) -> Connection[Any, Any]:
    result: list[Connection[Any, Any]] = []
    thread = threading.Thread(target=lambda: result.append(listener.accept()), daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if not result:
        raise NcclError(_SYSTEM_ERROR)
    return result[0]


def _received(peer: Connection[Any, Any]) -> Any:
    if not peer.poll(_SECONDS):
        raise NcclError(_SYSTEM_ERROR)
    return peer.recv()


def _memory(address: int, count: int, datatype: int) -> np.ndarray:
    """Return device memory as an array; refuse an address that is not on the device."""
    if datatype == NCCL_BFLOAT16:
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    elif 0 <= datatype < len(_DTYPES):
        dtype = np.dtype(_DTYPES[datatype])
    else:
        raise NcclError(_INVALID_ARGUMENT)
    size = count * dtype.itemsize
    for block in known_blocks():
        first = block.__array_interface__["data"][0]
        if first <= address and address + size <= first + block.nbytes:
            return np.frombuffer((ctypes.c_char * size).from_address(address), np.uint8).view(dtype)
    raise NcclError(_INVALID_ARGUMENT)
