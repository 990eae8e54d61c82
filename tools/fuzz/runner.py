"""Reads mutants of a format, and reports every one that is neither read nor refused as it should be."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from capgpu.errors import CapgpuError
from tools.fuzz.format import Format

__all__ = ["Failure", "Report", "fuzz", "missing_packages"]

#: Seconds after which a reader is interrupted.
_ALARM_SECONDS = 20
#: Bytes of address space that a reader may take.
_MOST_BYTES = 500 << 20


@dataclass(frozen=True)
class Failure:
    """A mutant that was not handled, and how."""

    number: int
    file: str
    mutator: str
    cause: str


@dataclass
class Report:
    """What became of the mutants of a format."""

    read: int = 0
    refused: int = 0
    failures: list[Failure] = field(default_factory=list)
    messages: Counter[str] = field(default_factory=Counter)


def missing_packages(chosen: Format) -> list[str]:
    """Return the packages that a format needs and that are not installed."""
    return [name for name in chosen.needs if importlib.util.find_spec(name) is None]


class _HangError(BaseException):
    """A reader does not end."""


@contextmanager
def _limited() -> Iterator[None]:
    """Interrupt a reader that does not end, and let large allocations fail."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise _HangError

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(_ALARM_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def fuzz(chosen: Format, mutants: int, seed: int, only: int | None = None, keep: Path | None = None) -> Report:
    """Read mutants of a format.

    Parameters
    ----------
    chosen : Format
        The format.
    mutants : int
        Their number.
    seed : int
        Mutant i is a function of the seed and of i.
    only : int, optional
        The number of the only mutant to read.
    keep : path, optional
        A new folder for the mutants that fail.

    Returns
    -------
    Report
        Counts and failures.
    """
    report = Report()
    with tempfile.TemporaryDirectory() as outer:
        sound, folder = Path(outer) / "sound", Path(outer) / "mutant"
        sound.mkdir()
        chosen.write(sound)
        shutil.copytree(sound, folder)
        expected = chosen.read(folder)
        for number in range(mutants) if only is None else [only]:
            random = Random(f"{seed} {number}")
            name = random.choice(list(chosen.mutators))
            mutator = random.choice(chosen.mutators[name])
            shutil.rmtree(folder)
            shutil.copytree(sound, folder)
            content = (sound / name).read_bytes()
            mutated = mutator(random, content)
            sealed = chosen.seal is not None and random.random() < 0.7
            (folder / name).write_bytes(mutated)
            if sealed and chosen.seal is not None:
                chosen.seal(folder, name)
            protected = chosen.protected and not sealed
            kept = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
            cause = _cause(chosen, folder, expected if protected else None, report)
            if cause == "slow":
                for file, whole in kept.items():
                    file.write_bytes(whole)
                cause = _cause(chosen, folder, None, Report())
            if cause is not None:
                report.failures.append(Failure(number, name, mutator.__name__, cause))
                if keep is not None:
                    (keep / str(number) / name).parent.mkdir(parents=True)
                    (keep / str(number) / name).write_bytes(kept[folder / name])
    return report


def _cause(chosen: Format, folder: Path, expected: object, report: Report) -> str | None:
    """Read a mutant; return what is wrong about that."""
    start = time.perf_counter()
    try:
        with _limited():
            result = chosen.read(folder)
        report.read += 1
        if expected is not None and repr(result) != repr(expected):
            return "another result without an error, in spite of a checksum"
    except _HangError:
        return f"no end within {_ALARM_SECONDS} s"
    except (CapgpuError, OSError) as error:
        report.refused += 1
        text = str(error)
        known = isinstance(error, CapgpuError) or (error.errno is not None and error.filename is not None)
        if not known:
            return "".join(traceback.format_exception(error)[-3:])
        if str(folder) not in text:
            return f"an error that does not name the file: {text[:200]}"
        if len(text) > 1000:
            return f"an error of {len(text)} characters: {text[:200]}"
        if any(ord(character) < 32 and character != "\n" for character in text):
            return f"an error with control characters: {text[:200]!r}"
        report.messages[text.replace(str(folder), "")[:100]] += 1
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "".join(traceback.format_exception(error)[-4:])
    return "slow" if time.perf_counter() - start > chosen.seconds else None


def set_environment() -> None:
    """Choose the reference backend, which compiles nothing, and one thread; do not wait for the disk."""
    os.environ["CAPGPU_BACKEND"] = "numpy"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CAPGPU_THREADS"):
        os.environ.setdefault(name, "1")
    os.fsync = lambda fd: None
