"""The threads of the host kernels: one owner, so that no two pools fight over the cores.

The shares of a region are compiled code that releases the interpreter lock, and are independent, so that they may run
at once or one after the other with the same bits: it is the same machine code that runs them, in whichever threads.
The calling thread works on share 0. Workers wait for the next region in a short spin, since the regions of a training
step follow each other within microseconds, and then sleep. Where other programs keep the cores busy the caller works
alone, see `capgpu.kernels.cpu.punctuality`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from capgpu.kernels.cpu.handoff import MOST_THREADS, WORDS, await_word, finish, run_own_share, serve
from capgpu.kernels.cpu.punctuality import Punctuality

__all__ = ["TEAM", "Region", "Team"]

#: Rounds of the spin before a worker sleeps (half a millisecond or so), and of the caller before it looks for sleepers.
SPINS = 10_000
#: Seconds that a sleeper may take to come before it is late.
WAKING = 1e-3


@dataclass(frozen=True)
class Region:
    """A piece of work that can be shared.

    Attributes
    ----------
    launch : compiled function
        ``launch(memory, ticket, count, arguments)`` publishes and announces `count` shares (see
        `capgpu.kernels.cpu.handoff`); written out beside each region's code, since Numba caches no function made by
        another.
    """

    launch: Callable[..., None]


class Team:
    """A fixed number of threads that share the regions of the host kernels.

    Parameters
    ----------
    size : int
        Threads, the caller included.
    """

    def __init__(self, size: int) -> None:
        self.size = min(size, MOST_THREADS)
        self.restart()

    def restart(self) -> None:
        """Forget threads that are gone: a forked child has only the thread that forked."""
        self._busy = threading.Lock()
        self._own = threading.local()
        self._condition = threading.Condition()
        self._sleepers = 0
        self._words = np.zeros(WORDS, dtype=np.int64)
        self._memory = int(self._words.ctypes.data)
        self._ticket = 0
        self._workers: list[threading.Thread] = []
        self._punctuality = Punctuality()

    def run(self, count: int, region: Region, *args: Any) -> None:
        """Run all shares of a region and wait for them.

        Parameters
        ----------
        count : int
            Shares, at most the size of the team.
        region : Region
            The work.
        *args
            Its arguments.
        """
        if count > 1 and self._take():
            try:
                self._run(count, region, args)
            finally:
                self._busy.release()
        else:
            self._run_here(count, region, args)

    def run_together(self, count: int, region: Region, *args: Any) -> None:
        """Run all shares of a region whose shares meet, or one share that does everything.

        Parameters
        ----------
        count : int
            Shares: 1, or the size of the team.
        region : Region
            The work. It must give the same result for any number of shares. The first of its arguments is the words by
            which shares meet, see `capgpu.kernels.cpu.handoff.meet`.
        *args
            Its other arguments.
        """
        if count > 1 and self._take():
            meeting = np.zeros(8 * count, dtype=np.int64)
            try:
                self._run(count, region, (meeting, *args), meeting)
            finally:
                self._busy.release()
        else:
            self._run_here(1, region, (np.zeros(8, dtype=np.int64), *args))

    def _take(self) -> bool:
        """Take the team for a region, unless it is at work for another thread or would only keep the caller waiting."""
        return not self._punctuality.alone(perf_counter()) and self._busy.acquire(blocking=False)

    def _run_here(self, count: int, region: Region, args: tuple[Any, ...]) -> None:
        """Run all shares in the calling thread, whose words are its own."""
        if not hasattr(self._own, "words"):
            self._own.words = np.zeros(WORDS, dtype=np.int64)
            self._own.memory = int(self._own.words.ctypes.data)
        region.launch(self._own.memory, 0, count, args)

    def _run(self, count: int, region: Region, args: tuple[Any, ...], meeting: Any = None) -> None:
        while len(self._workers) < self.size - 1:
            index = len(self._workers) + 1
            worker = threading.Thread(target=self._work, args=(index, self._ticket), name="capgpu-worker", daemon=True)
            self._workers.append(worker)
            worker.start()
        region.launch(self._memory, self._ticket + 1, count, args)
        self._ticket += 1
        # after the announcement: a worker that lies down now has seen it or is counted
        woken = self._sleepers > 0
        if woken:
            self._wake()
        interrupt: KeyboardInterrupt | None = None
        finished = False
        start = ready = perf_counter()
        try:
            run_own_share(self._memory)
            ready = perf_counter()
            finished = finish(self._memory, self._ticket, self.size, SPINS)
        except KeyboardInterrupt as error:  # the workers still use the arguments
            interrupt = error
        while not finished:
            try:
                finished = all(
                    await_word(self._memory + 64 * index, self._ticket, SPINS) for index in range(1, self.size)
                )
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt
        end = perf_counter()
        kept = 0.0 if meeting is None else 1e-9 * int(meeting[1::8].sum())
        self._punctuality.note(end, end - start, end - ready + kept - (WAKING if woken else 0.0))

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _work(self, index: int, seen: int) -> None:
        words, memory, condition = self._words, self._memory, self._condition
        while True:
            seen = serve(memory, index, seen, SPINS)
            with condition:
                self._sleepers += 1
                if int(words[0]) == seen:
                    condition.wait()
                self._sleepers -= 1


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
