"""Run a command in its own process group, with a time limit and its output appended to a log."""

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
    """Run a command with its output appended to a log, and kill what remains of its process group at the end.

    The process writes into the file directly, so the log is complete even if this process is killed. At the limit the
    group receives SIGABRT first, upon which Python prints its traceback (``PYTHONFAULTHANDLER``); after `grace` it is
    killed.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    environment : mapping
        The command's complete environment.
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
        Exit code, wall time, and the offset of its output in the log.
    """
    with log.open("ab", buffering=0) as log_file:
        start = log_file.tell()
        started = time.monotonic()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(environment),
                start_new_session=True,  # its own process group, which can be killed as a whole
            )
        except OSError as error:
            log_file.write(f"{command[0]} cannot be started: {error}\n".encode())
            return Finished(127, time.monotonic() - started, start)
        try:
            code = _wait(process, limit)
            if code is None:
                _signal(process.pid, signal.SIGABRT)
                _wait(process, grace)
        finally:
            # also children that outlived a finished command, and the whole group if this process is interrupted
            _signal(process.pid, signal.SIGKILL)
            process.wait()
        return Finished(TIMED_OUT if code is None else code, time.monotonic() - started, start)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # every process of the group has ended
        os.killpg(group, number)


def tail(log: Path, start: int, lines: int, width: int = 300) -> list[str]:
    """Return the last lines of a log after an offset, each truncated to `width` characters."""
    with log.open("rb") as source:
        source.seek(start)
        text = source.read().decode("utf-8", errors="replace")
    return [line[:width] for line in text.splitlines()[-lines:]] if lines else []
