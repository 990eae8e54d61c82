"""Heartbeats: how ranks notice that one of them was stopped, has ended, or does not come to a common operation.

Each rank sends its neighbour, rank + 1, a message several times a second, from a thread that runs beside its work: the
number of common operations it has started, and whether it is about to end. Silence means that the process was stopped,
or its machine or network failed. A neighbour that lives and has started fewer operations is the one that is waited for:
of all ranks that are late, one has a neighbour that is not.

A process that dies is noticed by its launcher, which ends the others.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any

import numpy as np

from capgpu.errors import InvalidValueError

__all__ = ["DEFAULT_TIMEOUT", "Heartbeat", "rank_timeout"]

#: Seconds, where nothing else is set.
DEFAULT_TIMEOUT = 30.0
_BEATS_PER_TIMEOUT = 20


def rank_timeout() -> float:
    """Return after how many seconds a rank that is not heard of, or late for a reduction, ends the job.

    Returns
    -------
    float
        ``CAPGPU_RANK_TIMEOUT``, or 30.

    Raises
    ------
    ValueError
        If ``CAPGPU_RANK_TIMEOUT`` is no positive number.
    """
    setting = os.environ.get("CAPGPU_RANK_TIMEOUT", "").strip()
    try:
        seconds = float(setting or DEFAULT_TIMEOUT)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidValueError(
            f"CAPGPU_RANK_TIMEOUT: expected a number of seconds above 0, got {setting!r}. Unset it for "
            f"{DEFAULT_TIMEOUT:g}."
        )
    return seconds


class Heartbeat:
    """The messages between this rank and its neighbours; the caller holds the lock of MPI.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        A communicator that nothing else uses.
    timeout : float
        Seconds of silence after which a rank counts as lost.

    Attributes
    ----------
    interval : float
        Seconds between two messages.
    leaving : bool
        Whether this rank is about to end.
    """

    def __init__(self, comm: Any, timeout: float) -> None:
        self._comm, self.timeout = comm, timeout
        self.interval = min(max(timeout / _BEATS_PER_TIMEOUT, 0.05), 1.0)
        self.leaving = False
        self._next, self._previous = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        self._outgoing, self._incoming = np.zeros(2, np.int64), np.zeros(2, np.int64)
        self._sent: Any = None
        self._received = comm.Irecv(self._incoming, self._previous)
        self._next_beat = self._last_look = self._heard = time.monotonic()
        self._started, self._leaves = 0, False

    def beat(self, started: int, *, waiting: bool) -> str:
        """Send and receive what is due.

        Parameters
        ----------
        started : int
            Common operations that this rank has started.
        waiting : bool
            Whether one of them is in progress.

        Returns
        -------
        str
            Why the job has to end; empty if it goes on.
        """
        now = time.monotonic()
        if now - self._last_look > self.timeout / 2:
            self._heard = now  # this rank was itself stopped for a while, and has not listened
        self._last_look = now
        while self._received.Test():
            self._heard, self._started, self._leaves = now, int(self._incoming[0]), bool(self._incoming[1])
            self._received = self._comm.Irecv(self._incoming, self._previous)
        if now >= self._next_beat and (self._sent is None or self._sent.Test()):
            self._next_beat = now + self.interval
            self._outgoing[:] = started, self.leaving
            self._sent = self._comm.Isend(self._outgoing, self._next)
        if now - self._heard > self.timeout:
            return (
                f"rank {self._previous} has not been heard of for {now - self._heard:.0f} s: it was stopped, or its "
                "machine or network failed"
            )
        if self._leaves and waiting and self._started < started:
            return f"rank {self._previous} has ended before the others; the cause is among its own messages"
        return ""

    def laggard(self, started: int, waited: float) -> str:
        """Return why an operation takes too long.

        Parameters
        ----------
        started : int
            Common operations that this rank has started.
        waited : float
            Seconds that this rank has waited for the last of them.

        Returns
        -------
        str
            The cause; empty while another rank is to find it.
        """
        if self._started < started:
            return (
                f"rank {self._previous} lives, but has not come to a reduction for {waited:.0f} s "
                "(CAPGPU_RANK_TIMEOUT sets the limit)"
            )
        if waited > 2 * self.timeout:
            return f"a reduction has not come to its end for {waited:.0f} s"
        return ""

    def close(self) -> None:
        """Stop listening."""
        self._received.Cancel()
        self._received.Wait()
