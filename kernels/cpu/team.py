"""The threads of the host kernels: one owner, so that no two pools fight over the cores.

A region is a compiled function ``share(index, count, ...)`` that releases the interpreter lock; its shares are
independent, so that they may run at once or one after the other with the same bits. The calling thread works on
share 0. Workers wait for the next region in a short spin, since the regions of a training step follow each other
within microseconds, and then sleep.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from capgpu.kernels.cpu.compile import compiled

__all__ = ["TEAM", "Team"]

#: Rounds of the spin before a worker sleeps: some 50 microseconds.
SPINS = 2000


@intrinsic
def _load(typingctx: Any, address: Any) -> Any:
    """Read a 64-bit word that another thread writes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.intp), generate


@intrinsic
def _store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a 64-bit word that another thread reads."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        builder.store_atomic(args[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), generate


@intrinsic
def _pause(typingctx: Any) -> Any:
    """Tell the processor that this is a waiting loop, where it has a word for it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if platform.machine().lower() in ("x86_64", "amd64"):
            pause = builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), ir.FunctionType(ir.VoidType(), []))
            builder.call(pause, [])
        return context.get_dummy_value()

    return types.void(), generate


@compiled()
def _await_change(address: int, seen: int, rounds: int) -> bool:
    """Spin until the word differs from `seen`; give up after `rounds`."""
    for _ in range(rounds):
        if _load(address) != seen:
            return True
        _pause()
    return False


@compiled()
def _post(address: int, value: int) -> None:
    _store(address, value)


class Team:
    """A fixed number of threads that share the regions of the host kernels.

    Parameters
    ----------
    size : int
        Threads, the caller included.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._busy = threading.Lock()
        self._condition = threading.Condition()
        self._start()

    def _start(self) -> None:
        # one cache line a word: [0] the ticket of the region, [8 k] the ticket that worker k has finished
        self._words = np.zeros(8 * self.size, dtype=np.int64)
        self._address = int(self._words.ctypes.data)
        self._ticket = 0
        self._job: tuple[Callable[..., None], int, tuple[Any, ...]] | None = None
        self._workers: list[threading.Thread] = []
        self._error: BaseException | None = None

    def restart(self) -> None:
        """Forget threads that are gone: a forked child has only the thread that forked."""
        self._busy = threading.Lock()
        self._condition = threading.Condition()
        self._start()

    def run(self, count: int, share: Callable[..., None], *args: Any) -> None:
        """Run ``share(0, count, *args)`` to ``share(count - 1, count, *args)`` and wait for all.

        Parameters
        ----------
        count : int
            Shares, at most the size of the team.
        share : callable
            A compiled function without return value.
        *args
            Its further arguments.
        """
        if count == 1:
            share(0, 1, *args)
        elif not self._busy.acquire(blocking=False):  # another thread's region is running: take all shares
            for index in range(count):
                share(index, count, *args)
        else:
            try:
                self._run(count, share, args)
            finally:
                self._busy.release()

    def _run(self, count: int, share: Callable[..., None], args: tuple[Any, ...]) -> None:
        while len(self._workers) < self.size - 1:
            worker = threading.Thread(
                target=self._work, args=(len(self._workers) + 1,), name="capgpu-worker", daemon=True
            )
            self._workers.append(worker)
            worker.start()
        self._job = (share, count, args)
        self._ticket += 1
        _post(self._address, self._ticket)
        with self._condition:
            self._condition.notify_all()
        try:
            share(0, count, *args)
        finally:
            # whatever happened here, the workers still use the arguments
            for index in range(1, self.size):
                while not _await_change(self._address + 64 * index, self._ticket - 1, 1 << 20):
                    pass
            self._job = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self, index: int) -> None:
        seen = 0
        address, words = self._address, self._words
        while True:
            if not _await_change(address, seen, SPINS):
                with self._condition:
                    while int(words[0]) == seen:
                        self._condition.wait()
            seen += 1
            job = self._job
            assert job is not None
            share, count, args = job
            try:
                if index < count:
                    share(index, count, *args)
            except BaseException as error:  # raised again in the caller's thread
                self._error = error
            finally:
                _post(address + 64 * index, seen)


def _default_size() -> int:
    for name in ("CAPGPU_THREADS", "OMP_NUM_THREADS"):
        setting = os.environ.get(name, "").strip()
        if setting:
            if not setting.isdigit() or int(setting) < 1:
                raise ValueError(f"{name}={setting!r}: wanted a number of threads, at least 1.")
            return int(setting)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


TEAM = Team(_default_size())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TEAM.restart)
