"""The stages of a run, ordered by how informative they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.gpu.machine_setup import plugins, program

__all__ = ["NO_DEVICE", "STAGES", "Context", "Stage", "choose"]

#: Exit code of the stage ``env`` if there is no device; the following stages are skipped.
NO_DEVICE = 2
#: Exit code of compute-sanitizer if it reports an error.
_SANITIZER_ERROR = 9
_PYTEST_PROCESSES = 12
_MAX_TEST_FAILURES = 60


@dataclass(frozen=True)
class Context:
    """Folders that the stages' commands refer to.

    Attributes
    ----------
    out : Path
        Logs and results, without subfolders.
    scratch : Path
        Caches and intermediate files.
    """

    out: Path
    scratch: Path


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes
    ----------
    name : str
        Name on the command line.
    part : str
        ``"A"`` (first contact) or ``"B"``.
    expected, limit : float
        Seconds that it takes on an H100, and after which it is killed.
    lines : int
        Number of final lines of its output that are printed.
    command : callable
        Returns the command to run.
    files : tuple of str
        Files that it writes into `Context.out`, besides the log.
    kernels : bool
        Whether it launches kernels, which should have been compiled before.
    """

    name: str
    part: str
    expected: float
    limit: float
    lines: int
    command: Callable[[Context], list[str]]
    files: tuple[str, ...] = ()
    kernels: bool = True


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _pytest(*arguments: str) -> list[str]:
    plugin_modules = plugins()
    options = [word for name in plugin_modules for word in ("-p", name)]
    # no cache, so that nothing is written into the checkout; a time limit turns a hanging test into one failure
    options += ["-p", "no:cacheprovider", "-q", "-m", "gpu", f"--maxfail={_MAX_TEST_FAILURES}"]
    if "pytest_timeout" in plugin_modules:
        options.append("--timeout=60")
    if "xdist.plugin" in plugin_modules:
        options += ["-n", str(min(_PYTEST_PROCESSES, os.cpu_count() or 1))]
    return _module("pytest", *options, *arguments)


def _sanitizer(tool: str, *options: str) -> Callable[[Context], list[str]]:
    def command(context: Context) -> list[str]:
        checker = program("compute-sanitizer") or "compute-sanitizer"
        sanitizer_command = [
            checker,
            f"--tool={tool}",
            f"--error-exitcode={_SANITIZER_ERROR}",
            "--print-limit=20",
            *options,
        ]
        return sanitizer_command + _module("tools.gpu.checked")

    return command


def _counters(context: Context) -> list[str]:
    sections = ("SpeedOfLight", "MemoryWorkloadAnalysis", "WarpStateStats", "LaunchStats")
    kernels = "regex:(lstm|gru|rnn)_(forward|backward)|softmax_registers|adam|segment_sums|column_sums"
    section_options = [word for section in sections for word in ("--section", section)]
    ncu_command = [program("ncu") or "ncu", "--clock-control", "none", "-k", kernels, "-c", "16", *section_options]
    return ncu_command + _module("tools.gpu.profiled")


STAGES = (
    Stage("env", "A", 10, 60, 45, lambda context: _module("tools.gpu.machine"), kernels=False),
    Stage(
        "info",
        "A",
        *(5, 60, 30),
        lambda context: [sys.executable, "-c", "from capgpu.cli import main; main(['info'])"],
        kernels=False,
    ),
    Stage(
        "compile",
        "A",
        *(16, 120, 8),
        lambda context: _module("tools.gpu.compile_all", "--out", str(context.out / "compile.csv")),
        ("compile.csv",),
        kernels=False,
    ),
    Stage("kernels", "A", 60, 150, 25, lambda context: _pytest("tests/kernels/cuda")),
    Stage(
        "times",
        "A",
        *(62, 170, 130),
        lambda context: _module("tools.gpu.times", "--out", str(context.out)),
        ("times.json", "times.md"),
    ),
    Stage(
        "contract",
        "A",
        *(31, 120, 25),
        lambda context: _pytest(
            *("tests/kernels", "--ignore=tests/kernels/cuda"),
            *(f"tests/{name}" for name in ("layers", "model", "optim", "decode")),
        ),
    ),
    Stage("host", "B", 17, 60, 140, lambda context: _module("tools.gpu.host")),
    # CuPy handles errors of attributes that a driver lacks; such failed API calls are not what is checked here
    Stage("memcheck", "B", 35, 90, 12, _sanitizer("memcheck", "--report-api-errors=no")),
    Stage("racecheck", "B", 50, 90, 12, _sanitizer("racecheck")),
    Stage("synccheck", "B", 30, 60, 12, _sanitizer("synccheck")),
    Stage(
        "train",
        "B",
        *(45, 120, 15),
        lambda context: _module("tools.gpu.training", "--folder", str(context.scratch / "train")),
    ),
    Stage(
        "ranks",
        "B",
        *(25, 90, 12),
        lambda context: _module("tools.gpu.ranks", "--folder", str(context.scratch)),
    ),
    Stage("counters", "B", 50, 75, 150, _counters),
    Stage(
        "bench",
        "B",
        *(100, 150, 20),
        lambda context: _module(
            "bench.cuda.run", "--quick", "--peer-python", sys.executable, "--out", str(context.out)
        ),
        ("DEVICE.csv", "DEVICE.md"),
    ),
)


def choose(names: Sequence[str]) -> list[Stage]:
    """Return the stages of the given names, in the order of `STAGES`.

    Parameters
    ----------
    names : sequence of str
        Names of stages, or of parts (``A``, ``B``); all where empty.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    known = {stage.name for stage in STAGES} | {stage.part for stage in STAGES}
    for name in names:
        if name not in known:
            raise ValueError(
                f"stages: expected names among {', '.join(stage.name for stage in STAGES)}, or A or B; got {name!r}"
            )
    return [stage for stage in STAGES if not names or stage.name in names or stage.part in names]
