"""The limit on how long ranks wait for one another at their start.

MPI waits without end for a process that failed, or was stopped, before it came to connect. It does so in C code that
holds Python's lock, so that no thread of this process could end it: another process watches, and is gone once the ranks
are connected. It kills this one by a signal, since a launcher ends the others then, and not after an exit by itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from capgpu.distributed.launch import Launch

__all__ = ["start_limit"]

#: The watching process: its standard input ends when the block is left, and when this process dies.
_WATCH = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    os.write(2, os.fsencode(sys.argv[2]))
    os.kill(int(sys.argv[3]), signal.SIGKILL)
"""


@contextmanager
def start_limit(place: Launch, seconds: float) -> Iterator[None]:
    """Kill this process if a block takes too long.

    Parameters
    ----------
    place : Launch
        This process, for the message.
    seconds : float
        The limit.
    """
    message = (
        f"capgpu: rank {place.rank} of {place.size}: not all ranks have started within {seconds:.0f} s: one has failed "
        "or was stopped, and the cause is among its own messages. A CAPGPU_RANK_TIMEOUT above 30 raises the limit.\n"
    )
    command = [sys.executable, "-I", "-S", "-c", _WATCH, str(seconds), message, str(os.getpid())]
    # in a session of its own, Ctrl-C does not reach it
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True):
        yield
