"""Run every check and measurement on the CUDA device of this machine; see README.md beside this file.

    python -m tools.gpu.run --out DIR [--stages env,compile,kernels] [--budget SECONDS]

Uses this interpreter's packages; only the wheels of a local folder are installed, into a temporary folder.
Exit status: 0 every stage passed; 1 one failed or was left out; 2 there is no device.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from tools.gpu import machine_setup, process
from tools.gpu.stages import NO_DEVICE, STAGES, Context, Stage, choose

__all__ = ["main", "run_stages"]

LOG, SUMMARY = "run.log", "summary.txt"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu.run", description=__doc__.splitlines()[0])
    root = machine_setup.ROOT
    parser.add_argument("--out", type=Path, default=root / "build" / "gpu-run", help="folder of logs and figures")
    parser.add_argument("--stages", default="", help="comma-separated names, or A or B (default: all)")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds for all stages together")
    parser.add_argument("--wheels", type=Path, default=root / ".whl", help="folder of wheels to install (.whl)")
    parser.add_argument(
        "--scratch", type=Path, default=machine_setup.default_scratch(), help="folder of caches, kept for the next run"
    )
    args = parser.parse_args(argv)
    try:
        args.stages = choose([name for name in args.stages.split(",") if name])
    except ValueError as error:
        parser.error(str(error))
    return args


class Summary:
    """The summary file: one line per stage, appended to the log and printed as well."""

    def __init__(self, out: Path) -> None:
        self._path, self._log = out / SUMMARY, out / LOG

    def add(self, line: str) -> None:
        """Append a line to the summary and the log, and print it."""
        print(f"=== {line}", flush=True)
        for path in (self._path, self._log):
            with path.open("a", encoding="utf-8") as file:
                file.write(f"=== {line}\n")


def run_stages(
    stages: Sequence[Stage], context: Context, environment: Mapping[str, str], budget: float = float("inf")
) -> int:
    """Run stages one after the other, each in its own process group.

    Parameters
    ----------
    stages : sequence of Stage
        Run in this order.
    context : Context
        Folders for results and caches.
    environment : mapping
        Environment of every stage's process.
    budget : float
        Seconds for all stages together. A stage's limit is reduced to the remaining time; a stage with less than half
        of its expected time remaining is skipped.

    Returns
    -------
    int
        Exit status of the run.
    """
    summary, log = Summary(context.out), context.out / LOG
    started, passed = time.monotonic(), True
    for number, stage in enumerate(stages):
        remaining = budget - (time.monotonic() - started)
        if remaining < stage.expected / 2:
            passed = False
            summary.add(
                f"{stage.name}: left out, {max(remaining, 0):.0f} s of the budget remain and it takes about "
                f"{stage.expected:.0f} s"
            )
            continue
        limit = min(stage.limit, remaining)
        command = stage.command(context)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n=== {stage.name}: {shlex.join(command)}\n")
        print(f"\n=== {stage.name}, at most {limit:.0f} s", flush=True)
        finished = process.run(command, environment, log, limit, machine_setup.ROOT)
        print("\n".join(process.tail(log, finished.start, stage.lines)), flush=True)
        killed = ", killed at its limit" if finished.code == process.TIMED_OUT else ""
        summary.add(f"{stage.name}: exit {finished.code}{killed}, {finished.seconds:.0f} s")
        passed = passed and finished.code == 0
        if stage.name == "env" and finished.code == NO_DEVICE:
            for missed in stages[number + 1 :]:
                summary.add(f"{missed.name}: left out, there is no device")
            return NO_DEVICE
    return 0 if passed else 1


def _with_compile_stage(stages: list[Stage], cache: Path) -> list[Stage]:
    """Insert `compile` before the first stage that launches kernels, if CuPy's cache is empty."""
    compiled = cache.is_dir() and any(cache.iterdir())
    first_launching = next((index for index, stage in enumerate(stages) if stage.kernels), None)
    if compiled or first_launching is None or any(stage.name == "compile" for stage in stages):
        return stages
    compile_stage = next(stage for stage in STAGES if stage.name == "compile")
    return [*stages[:first_launching], compile_stage, *stages[first_launching:]]


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the machine and run the stages; return the exit status."""
    args = arguments(argv)
    # SIGTERM becomes an exception, so that `process.run` kills the running stage; stages that abort dump no core
    signal.signal(signal.SIGTERM, _exit_on_signal)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    out = args.out.resolve()
    for folder in (out, args.scratch):
        folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        preparations = [machine_setup.link_kernels(), machine_setup.install_wheels(args.wheels, args.scratch / "site")]
    except machine_setup.PreparationError as error:
        print(f"not prepared: {error}", file=sys.stderr)
        return 1
    summary = Summary(out)
    for line in filter(None, preparations):
        summary.add(line)
    environment = machine_setup.environment(args.scratch.resolve())
    stages = _with_compile_stage(args.stages, Path(environment["CUPY_CACHE_DIR"]))
    status = run_stages(
        stages, Context(out, args.scratch.resolve()), environment, args.budget - (time.monotonic() - started)
    )
    print(f"\n{(out / SUMMARY).read_text(encoding='utf-8')}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
