"""Time the training step and decoding beside PyTorch on the CUDA device of this machine.

    python -m bench.cuda.run [--quick] [--peers padded,packed,compiled,graphed] [--peer-python PATH]

Every competitor runs in its own process, which is stopped while another is timed; rounds alternate between them.
Exit status 2: there is no device.
"""

from __future__ import annotations

import argparse
import functools
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bench import stats
from bench.competitors import Competitor, kind_of_job
from bench.cuda import report
from bench.cuda.contest import JOBS, MODES, OURS, PRECISIONS, REQUIRED, peers_of
from bench.cuda.devices import Device
from bench.machine import commit, processor
from bench.peers import exercise
from bench.peers.cuda_ours import TENSOR_CORES
from bench.process import ROOT, WorkerFailedError, WorkerProcess
from bench.report import write_atomically
from bench.workloads import CELLS, SIZES, make_workload, parse_size, split_job

__all__ = ["main"]

RESULTS = ROOT / "bench" / "cuda" / "results"
_NAMES = {"cells": (*CELLS, "gru"), "jobs": JOBS, "precisions": PRECISIONS, "peers": MODES}
#: Defaults of the arguments in a complete run, and in a quick one, which ends after 100 s.
COMPLETE = {
    "sizes": ",".join(SIZES),
    **{name: ",".join(known) for name, known in _NAMES.items()},
    "cells": ",".join(CELLS),
    **{"rounds": 5, "steps": 100, "warm": 20, "filler_ms": 20.0, "seconds": float("inf")},
}
QUICK = COMPLETE | {
    **{"sizes": "S1", "cells": "lstm", "jobs": "adam,adam-dropout", "peers": "padded,packed,graphed"},
    **{"rounds": 3, "steps": 50, "warm": 10, "filler_ms": 6.0, "seconds": 75.0},
}
_ANSWER_S = 1800.0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    peer_environment = ROOT / ".venv-peers" / "bin" / "python"
    parser = argparse.ArgumentParser(prog="python -m bench.cuda.run", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="defaults of a run of at most 100 s: S1, LSTM, Adam")
    parser.add_argument("--sizes", help="comma-separated; S1:T=32;N=8 is a size beside S1")
    for name, known in _NAMES.items():
        parser.add_argument(f"--{name}", help=f"comma-separated, of {', '.join(known)}")
    parser.add_argument("--rounds", type=int, help="alternating rounds")
    parser.add_argument("--steps", type=int, help="steps timed in a round")
    parser.add_argument("--warm", type=int, help="untimed steps before")
    parser.add_argument("--seconds", type=float, help="time after which remaining measurements are skipped")
    parser.add_argument(
        "--filler-ms",
        type=float,
        help="milliseconds of work launched before a step, so that it need not wait for the host",
    )
    parser.add_argument(
        "--peer-python",
        default=str(peer_environment) if peer_environment.exists() else sys.executable,
        help="interpreter with a PyTorch for CUDA; default: .venv-peers/bin/python, or this one",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--serve", default="bench.worker", help="module that our process runs (for tests)")
    args = parser.parse_args(argv)
    for name, value in (QUICK if args.quick else COMPLETE).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.sizes = [size.replace(";", ",") for size in args.sizes.split(",")]
    for name, known in _NAMES.items():
        chosen = [value for value in getattr(args, name).split(",") if value and (name, value) != ("peers", "none")]
        setattr(args, name, chosen)
        for value in chosen:
            if value not in known:
                parser.error(f"{name}: expected names among {', '.join(known)}, got {value!r}")
    try:
        for size in args.sizes:
            parse_size(size)
    except ValueError as error:
        parser.error(str(error))
    if min(args.rounds, args.steps) < 1:
        parser.error("at least one round of one step")
    return args


@functools.cache
def _oracle_result(size: str, cell: str, job: str) -> dict[str, np.ndarray]:
    task = exercise.make_task("float64", make_workload(parse_size(size), cell), job)
    for _ in range(3 if job == "adam" else 1):
        task.step()
    return task.result()


def _error(worker: WorkerProcess, size: str, cell: str, job: str) -> float | None:
    """Return the difference from the oracle; None with dropout, whose masks differ from library to library."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.npz"
        worker.ask(do="check", path=str(path))
        with np.load(path) as arrays:
            result = dict(arrays)
    job_without_dropout, dropout = split_job(job)
    if dropout:
        return None
    compare = stats.disagreement if job_without_dropout.startswith("sample") else stats.worst_error
    return compare(result, _oracle_result(size, cell, job_without_dropout))


def time_job(
    workers: Mapping[str, WorkerProcess], size: str, cell: str, job: str, precision: str, args: argparse.Namespace
) -> list[report.Timing]:
    """Time one job for all competitors that have it, round by round; a failing competitor becomes a note."""
    workers = {label: worker for label, worker in workers.items() if kind_of_job(job) in worker.competitor.jobs}
    timings: dict[str, list[dict[str, Any]]] = {label: [] for label in workers}
    errors: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    # a hanging peer must not take more than the time limit of the run
    limit = _ANSWER_S if args.seconds == float("inf") else args.seconds

    def attempt(label: str, **request: Any) -> dict[str, Any] | None:
        if label in notes:
            return None
        try:
            return workers[label].ask(limit, **request)
        except WorkerFailedError as failure:
            notes[label] = str(failure).replace("|", "/").replace("\n", " ")
            return None
        finally:
            workers[label].rest()

    for label, worker in workers.items():
        if attempt(label, do="prepare", size=size, cell=cell, job=job, precision=precision) is None:
            continue
        try:
            errors[label] = _error(worker, size, cell, job)
        except (WorkerFailedError, ValueError) as failure:
            notes[label] = str(failure)
        worker.rest()
    for _ in range(args.rounds):
        for label in workers:
            timing = attempt(label, do="device_time", warm=args.warm, steps=args.steps, filler_ms=args.filler_ms)
            if timing is not None:
                timings[label].append(timing)
    return [
        _timing((size, cell, job, label, precision), rounds, errors.get(label), notes.get(label, ""))
        for label, rounds in timings.items()
    ]


def _timing(
    key: tuple[str, str, str, str, str], rounds: list[dict[str, Any]], error: float | None, note: str
) -> report.Timing:
    if note or not rounds:
        return report.Timing(*key, error=error, note=note)
    medians = [float(np.median(timing["ms"])) for timing in rounds]
    low, high = np.percentile(medians, [25, 75])
    return report.Timing(
        *key,
        ms=float(np.median(medians)),
        filled_ms=float(np.median([np.median(timing["filled_ms"]) for timing in rounds])),
        wall_ms=float(np.median([timing["wall_ms"] for timing in rounds])),
        queued=all(timing["queued"] for timing in rounds),
        spread=float((high - low) / np.median(medians)),
        error=error,
    )


def _describe(versions: dict[str, Any], peers: dict[str, dict[str, Any]], argv: Sequence[str]) -> report.Run:
    peaks = versions.pop("peaks")
    device = {**versions, **{key: value for peer_versions in peers.values() for key, value in peer_versions.items()}}
    device |= {"host": processor(), "commit": commit()}
    device["command"] = shlex.join(["python", "-m", "bench.cuda.run", *argv])
    return report.Run(device, None if peaks is None else Device(**peaks))


class Contest:
    """The processes of all competitors: two of capgpu (float32, and with tensor cores) and one of each peer."""

    def __init__(self, args: argparse.Namespace, logs: Path) -> None:
        self._args, self._logs, self._stack = args, logs, ExitStack()
        self.ours: dict[bool, WorkerProcess] = {}
        self.peers: dict[str, WorkerProcess] = {}
        self.absent: dict[str, str] = {}
        self.versions: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _start(self, competitor: Competitor, name: str, environment: dict[str, str], serve: str) -> WorkerProcess:
        python = self._args.peer_python if competitor.peer_python else sys.executable
        worker = WorkerProcess(competitor, python, None, self._logs / f"{name}.log", environment, serve)
        self._stack.callback(worker.close)
        return worker

    def open_ours(self, exact: bool) -> dict[str, Any]:
        """Start a process of capgpu; return its answer to ``hello``."""
        environment = {} if exact else TENSOR_CORES
        worker = self._start(OURS, f"ours-{'exact' if exact else 'tensor'}", environment, self._args.serve)
        self.ours[exact] = worker
        answer = worker.ask(do="hello")
        worker.rest()
        return answer

    def open_peers(self) -> None:
        """Start the peers; note those whose library or device is missing."""
        for peer in peers_of(self._args.peers):
            worker = self._start(peer, peer.mode, {}, "bench.worker")
            answer = worker.ask(do="hello")
            if "absent" in answer:
                self.absent[peer.label] = f"{report.ABSENT}{answer['absent']}"
                worker.close()
                continue
            self.peers[peer.label], self.versions[peer.label] = worker, answer["versions"]
            worker.rest()

    def at(self, precision: str) -> dict[str, WorkerProcess]:
        """Return the workers for a precision by label, capgpu's first."""
        return {OURS.label: self.ours[precision == "float32"], **self.peers}


def main(argv: Sequence[str] | None = None) -> int:
    """Time everything and write the table; return the exit status."""
    start = time.monotonic()
    args = arguments(argv)
    with tempfile.TemporaryDirectory() as folder, Contest(args, Path(folder)) as contest:
        try:
            exact = "float32" in args.precisions
            answer = contest.open_ours(exact)
            if "absent" in answer:
                print(f"nothing to time: {answer['absent']}", file=sys.stderr)
                return 2
            if exact and args.precisions != ["float32"]:
                contest.open_ours(False)
            contest.open_peers()
            run = _describe(answer["versions"], contest.versions, sys.argv[1:] if argv is None else argv)
            status = _measure(run, contest, args, start + args.seconds)
        except WorkerFailedError as failure:
            print(failure, file=sys.stderr)
            status = 1
        for log in sorted(Path(folder).glob("*.log")) if status else ():
            sys.stderr.write(f"{log.name}:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}")
        return status


def _measure(run: report.Run, contest: Contest, args: argparse.Namespace, deadline: float) -> int:
    slug = re.sub(r"[^a-z0-9]+", "-", str(run.device["device"]).lower()).strip("-")
    stem = ("emulated-" if run.emulated else "") + slug
    if run.emulated and args.out == RESULTS:
        print("a stand-in's figures do not go where measurements are kept: choose another --out", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    # float32 of every size first: the most important figures are there if the run is stopped
    plan = [(s, c, p, j) for p in args.precisions for s in args.sizes for c in args.cells for j in args.jobs]
    for index, (size, cell, precision, job) in enumerate(plan):
        if time.monotonic() > deadline:
            run.skipped = [f"{size} {cell} {job} {precision}" for size, cell, precision, job in plan[index:]]
            print(f"no time left for: {'; '.join(run.skipped)}", flush=True)
        else:
            timings = time_job(contest.at(precision), size, cell, job, precision, args)
            run.timings += timings
            run.timings += [
                report.Timing(size, cell, job, label, precision, note=note) for label, note in contest.absent.items()
            ]
            if (job, precision) == ("adam", "float32") and timings[0].ms is not None:
                _time_launches(run, contest.ours[True], size, cell, args)
        # written after each measurement, so that an interrupted run keeps its results
        write_atomically(args.out / f"{stem}.csv", report.csv_text(run).encode())
        write_atomically(args.out / f"{stem}.md", report.markdown(run).encode())
        if run.skipped:
            break
        print(f"{size} {cell} {job} {precision}: {_line(timings)}", flush=True)
    print(f"{args.out / stem}.md{': ' + report.EMULATED if run.emulated else ''}")
    # success means that every required measurement of capgpu was made
    ours = [timing for timing in run.timings if timing.competitor == OURS.label and timing.precision in REQUIRED]
    return 0 if all(timing.ms is not None for timing in ours) else 1


def _time_launches(run: report.Run, ours: WorkerProcess, size: str, cell: str, args: argparse.Namespace) -> None:
    answer = ours.ask(do="launches", steps=max(args.steps // 5, 1), filler_ms=args.filler_ms)
    ours.rest()
    run.launches += [report.Launch(size, cell, name, ms) for name, ms in answer["launches"]]


def _line(timings: list[report.Timing]) -> str:
    successful = [timing for timing in timings if timing.ms is not None]
    return ", ".join(f"{timing.competitor} {timing.ms:.3g} ms" for timing in successful) or "nothing ran"


if __name__ == "__main__":
    sys.exit(main())
