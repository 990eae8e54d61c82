"""One stage in a process group of its own, with a time limit, writing to a log as it goes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TIMED_OUT", "Finished", "run", "tail"]

#: Exit code of a stage that was killed at its limit, as of ``timeout`` of the coreutils.
TIMED_OUT = 124
_POLL_S = 0.05


@dataclass(frozen=True)
class Finished:
    """How a process ended.

    Attributes
    ----------
    code : int
        Exit code; `TIMED_OUT` at the limit, negative for a signal, 127 where the program could not be started.
    seconds : float
        Wall time.
    start : int
        Offset of its output in the log.
    """

    code: int
    seconds: float
    start: int


def run(
    command: Sequence[str], environment: Mapping[str, str], log: Path, limit: float, folder: Path, grace: float = 5.0
) -> Finished:
    """Run a command, its output appended to a log, and leave no process of its group behind.

    The process writes into the file itself, so the log grows as it writes, and is complete up to the moment at which
    the run may be cut off. At the limit the group gets SIGABRT first: Python prints where it hangs
    (``PYTHONFAULTHANDLER``). What is still there after `grace` is killed.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    environment : mapping
        All of its environment.
    log : Path
        Appended to.
    limit : float
        Seconds.
    folder : Path
        Working folder.
    grace : float
        Seconds between SIGABRT and SIGKILL.

    Returns
    -------
    Finished
        Exit code, time, and where its output begins.
    """
    with log.open("ab", buffering=0) as sink:
        start = sink.tell()
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(environment),
                start_new_session=True,  # a group of its own, which is killed as a whole
            )
        except OSError as error:
            sink.write(f"{command[0]} cannot be started: {error}\n".encode())
            return Finished(127, time.monotonic() - began, start)
        try:
            code = _wait(process, limit)
            if code is None:
                _signal(process.pid, signal.SIGABRT)
                _wait(process, grace)
        finally:
            # also what a finished process has left behind, and everything where this process is interrupted
            _signal(process.pid, signal.SIGKILL)
            process.wait()
        return Finished(TIMED_OUT if code is None else code, time.monotonic() - began, start)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # everything has ended
        os.killpg(group, number)


def tail(log: Path, start: int, lines: int, width: int = 300) -> list[str]:
    """Return the last lines of a log behind an offset, each cut to a width."""
    with log.open("rb") as source:
        source.seek(start)
        text = source.read().decode("utf-8", errors="replace")
    return [line[:width] for line in text.splitlines()[-lines:]] if lines else []
