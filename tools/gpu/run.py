"""Run every check and measurement on the CUDA device of this machine; see README.md beside this file.

    python -m tools.gpu.run --out DIR [--stages env,compile,kernels] [--budget SECONDS]

Needs the packages of this interpreter only: nothing is installed but the wheels of a folder, into a temporary one.
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

from tools.gpu import process, surroundings
from tools.gpu.stages import NO_DEVICE, STAGES, Context, Stage, choose

__all__ = ["main", "run_stages"]

LOG, SUMMARY = "run.log", "summary.txt"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu.run", description=__doc__.splitlines()[0])
    root = surroundings.ROOT
    parser.add_argument("--out", type=Path, default=root / "build" / "gpu-run", help="folder of logs and figures")
    parser.add_argument("--stages", default="", help="comma-separated names, or A or B (default: all)")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds for all stages together")
    parser.add_argument("--wheels", type=Path, default=root / ".whl", help="folder of wheels to install (.whl)")
    parser.add_argument(
        "--scratch", type=Path, default=surroundings.default_scratch(), help="folder of caches, kept for the next run"
    )
    args = parser.parse_args(argv)
    try:
        args.stages = choose([name for name in args.stages.split(",") if name])
    except ValueError as error:
        parser.error(str(error))
    return args


class Summary:
    """The file that holds a line for each stage, appended when the stage has ended, and shown as well."""

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
        In their order.
    context : Context
        Folders.
    environment : mapping
        Of every stage.
    budget : float
        Seconds for all of them; a stage gets no more than what remains, and one that would get less than half of what
        it should take is left out.

    Returns
    -------
    int
        Exit status of the run.
    """
    summary, log = Summary(context.out), context.out / LOG
    began, passed = time.monotonic(), True
    for number, stage in enumerate(stages):
        remaining = budget - (time.monotonic() - began)
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
        finished = process.run(command, environment, log, limit, surroundings.ROOT)
        print("\n".join(process.tail(log, finished.start, stage.lines)), flush=True)
        killed = ", killed at its limit" if finished.code == process.TIMED_OUT else ""
        summary.add(f"{stage.name}: exit {finished.code}{killed}, {finished.seconds:.0f} s")
        passed = passed and finished.code == 0
        if stage.name == "env" and finished.code == NO_DEVICE:
            for missed in stages[number + 1 :]:
                summary.add(f"{missed.name}: left out, there is no device")
            return NO_DEVICE
    return 0 if passed else 1


def _with_compiling(stages: list[Stage], cache: Path) -> list[Stage]:
    """Return the stages with `compile` in front, where kernels are launched and none has been compiled."""
    compiled = cache.is_dir() and any(cache.iterdir())
    first = next((place for place, stage in enumerate(stages) if stage.kernels), None)
    if compiled or first is None or any(stage.name == "compile" for stage in stages):
        return stages
    compiling = next(stage for stage in STAGES if stage.name == "compile")
    return [*stages[:first], compiling, *stages[first:]]


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the machine and run the stages; return the exit status."""
    args = arguments(argv)
    # an ended run ends its stage, too, and a stage that aborts leaves no image of its memory
    signal.signal(signal.SIGTERM, _terminated)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    out = args.out.resolve()
    for folder in (out, args.scratch):
        folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        done = [surroundings.link_kernels(), surroundings.install_wheels(args.wheels, args.scratch / "site")]
    except surroundings.PreparationError as error:
        print(f"not prepared: {error}", file=sys.stderr)
        return 1
    summary = Summary(out)
    for line in filter(None, done):
        summary.add(line)
    environment = surroundings.environment(args.scratch.resolve())
    stages = _with_compiling(args.stages, Path(environment["CUPY_CACHE_DIR"]))
    status = run_stages(
        stages, Context(out, args.scratch.resolve()), environment, args.budget - (time.monotonic() - began)
    )
    print(f"\n{(out / SUMMARY).read_text(encoding='utf-8')}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
