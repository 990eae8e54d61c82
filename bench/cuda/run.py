"""Time the CUDA kernels and the whole step beside PyTorch on the CUDA device of this machine.

    python -m bench.cuda.run --peer-python PATH

Every competitor lives in a process of its own, stopped while another is timed; rounds alternate between them.
Exit status 2: there is no device.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import stats
from bench.competitors import Competitor, kind_of_job
from bench.cuda import report
from bench.cuda.devices import Device
from bench.machine import commit, processor
from bench.peers import exercise
from bench.process import ROOT, WorkerFailedError, WorkerProcess
from bench.report import write_atomically
from bench.workloads import CELLS, JOBS, SIZES, make_workload, parse_size

__all__ = ["main"]

RESULTS = ROOT / "bench" / "cuda" / "results"
OURS = Competitor("capgpu cuda", "cuda_ours", "cuda", "ours")
PEERS = (
    Competitor("torch padded", "cuda_torch", "padded", "peer", peer_python=True),
    Competitor("torch packed", "cuda_torch", "packed", "peer", peer_python=True, jobs=("loss", "adam")),
    Competitor("torch compiled", "cuda_torch", "compiled", "peer", peer_python=True),
)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    beside = ROOT / ".venv-peers" / "bin" / "python"
    parser = argparse.ArgumentParser(prog="python -m bench.cuda.run", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(SIZES), help="comma-separated; S1:T=32;N=8 is a size beside S1")
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds")
    parser.add_argument("--steps", type=int, default=100, help="steps timed in a round")
    parser.add_argument("--warm", type=int, default=20, help="steps before, not timed")
    parser.add_argument(
        "--filler-ms", type=float, default=20.0, help="work in front of a step that must not wait for the host"
    )
    parser.add_argument(
        "--peer-python",
        default=str(beside) if beside.exists() else sys.executable,
        help="interpreter with a PyTorch for CUDA; default: .venv-peers/bin/python, or this one",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--serve", default="bench.worker", help="module that our process runs (for tests)")
    args = parser.parse_args(argv)
    args.sizes = [size.replace(";", ",") for size in args.sizes.split(",")]
    args.cells, args.jobs = args.cells.split(","), args.jobs.split(",")
    for name, known in (("cells", CELLS), ("jobs", JOBS)):
        for given in getattr(args, name):
            if given not in known:
                parser.error(f"{given!r} is none of the {name}: {', '.join(known)}")
    try:
        for size in args.sizes:
            parse_size(size)
    except ValueError as error:
        parser.error(str(error))
    if min(args.rounds, args.steps) < 1:
        parser.error("at least one round of one step")
    return args


def _wanted(size: str, cell: str, job: str) -> dict[str, np.ndarray]:
    task = exercise.make_task("float64", make_workload(parse_size(size), cell), job)
    for _ in range(3 if job == "adam" else 1):
        task.step()
    return task.result()


def _error(worker: WorkerProcess, job: str, wanted: dict[str, np.ndarray]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.npz"
        worker.ask(do="check", path=str(path))
        with np.load(path) as arrays:
            got = dict(arrays)
    return stats.disagreement(got, wanted) if job.startswith("sample") else stats.worst_error(got, wanted)


def time_job(
    workers: dict[str, WorkerProcess], size: str, cell: str, job: str, args: argparse.Namespace
) -> list[report.Timing]:
    """Time one job of all who take part in it, round by round; one that fails fails alone."""
    workers = {label: each for label, each in workers.items() if kind_of_job(job) in each.competitor.jobs}
    wanted = _wanted(size, cell, job)
    found: dict[str, list[dict[str, Any]]] = {label: [] for label in workers}
    errors: dict[str, float] = {}
    notes: dict[str, str] = {}

    def attempt(label: str, **request: Any) -> dict[str, Any] | None:
        if label in notes:
            return None
        try:
            return workers[label].ask(**request)
        except WorkerFailedError as failure:
            notes[label] = str(failure).replace("|", "/").replace("\n", " ")
            return None
        finally:
            workers[label].rest()

    for label in workers:
        if attempt(label, do="prepare", size=size, cell=cell, job=job) is None:
            continue
        try:
            errors[label] = _error(workers[label], job, wanted)
        except (WorkerFailedError, ValueError) as failure:
            notes[label] = str(failure)
        workers[label].rest()
    for _ in range(args.rounds):
        for label in workers:
            timed = attempt(label, do="device_time", warm=args.warm, steps=args.steps, filler_ms=args.filler_ms)
            if timed is not None:
                found[label].append(timed)
    return [
        _timing(size, cell, job, label, rounds, errors.get(label), notes.get(label, ""))
        for label, rounds in found.items()
    ]


def _timing(
    size: str, cell: str, job: str, label: str, rounds: list[dict[str, Any]], error: float | None, note: str
) -> report.Timing:
    if note or not rounds:
        return report.Timing(size, cell, job, label, error=error, note=note)
    medians = [float(np.median(each["ms"])) for each in rounds]
    low, high = np.percentile(medians, [25, 75])
    return report.Timing(
        size,
        cell,
        job,
        label,
        ms=float(np.median(medians)),
        filled_ms=float(np.median([np.median(each["filled_ms"]) for each in rounds])),
        wall_ms=float(np.median([each["wall_ms"] for each in rounds])),
        spread=float((high - low) / np.median(medians)),
        error=error,
    )


def _describe(told: dict[str, Any], peers: dict[str, dict[str, Any]]) -> report.Run:
    peaks = told.pop("peaks")
    device = {**told, **{key: value for versions in peers.values() for key, value in versions.items()}}
    device |= {"host": processor(), "commit": commit()}
    device["command"] = shlex.join(["python", "-m", "bench.cuda.run", *sys.argv[1:]])
    return report.Run(device, None if peaks is None else Device(**peaks))


def main(argv: Sequence[str] | None = None) -> int:
    """Time everything and write the table; return the exit status."""
    args = arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        workers = {OURS.label: WorkerProcess(OURS, sys.executable, None, logs / "ours.log", serve=args.serve)}
        try:
            told = workers[OURS.label].ask(do="hello")
            if "absent" in told:
                print(f"nothing to time: {told['absent']}", file=sys.stderr)
                return 2
            absent, versions = {}, {}
            for peer in PEERS:
                worker = WorkerProcess(peer, args.peer_python, None, logs / f"{peer.mode}.log")
                workers[peer.label] = worker
                answer = worker.ask(do="hello")
                if "absent" in answer:
                    absent[peer.label] = f"{report.ABSENT}{answer['absent']}"
                    workers.pop(peer.label).close()
                else:
                    versions[peer.label] = answer["versions"]
                    worker.rest()
            run = _describe(told["versions"], versions)
            status = _measure(run, workers, absent, args)
        except WorkerFailedError as failure:
            print(failure, file=sys.stderr)
            status = 1
        finally:
            for worker in workers.values():
                worker.close()
        for log in sorted(logs.glob("*.log")) if status else ():
            sys.stderr.write(f"{log.name}:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}")
        return status


def _measure(
    run: report.Run, workers: dict[str, WorkerProcess], absent: dict[str, str], args: argparse.Namespace
) -> int:
    slug = re.sub(r"[^a-z0-9]+", "-", str(run.device["device"]).lower()).strip("-")
    stem = ("emulated-" if run.emulated else "") + slug
    if run.emulated and args.out == RESULTS:
        print("a stand-in's figures do not go where measurements are kept: give another --out", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    for size in args.sizes:
        for cell in args.cells:
            for job in args.jobs:
                timed = time_job(workers, size, cell, job, args)
                run.timings += timed
                run.timings += [report.Timing(size, cell, job, label, note=note) for label, note in absent.items()]
                if job == "adam" and timed[0].ms is not None:
                    ours = workers[OURS.label]
                    told = ours.ask(do="launches", steps=max(args.steps // 5, 1), filler_ms=args.filler_ms)
                    ours.rest()
                    run.launches += [report.Launch(size, cell, name, ms) for name, ms in told["launches"]]
                # written after each, so that an interrupted run leaves what it had
                write_atomically(args.out / f"{stem}.csv", report.csv_text(run).encode())
                write_atomically(args.out / f"{stem}.md", report.markdown(run).encode())
                print(f"{size} {cell} {job}: {_line(run, size, cell, job)}", flush=True)
    print(f"{args.out / stem}.md{': ' + report.EMULATED if run.emulated else ''}")
    # what was asked for has been timed, or this is no success
    return 0 if all(timing.ms is not None for timing in run.timings if timing.competitor == OURS.label) else 1


def _line(run: report.Run, size: str, cell: str, job: str) -> str:
    shown = [t for t in run.timings if (t.size, t.cell, t.job) == (size, cell, job) and t.ms is not None]
    return ", ".join(f"{t.competitor} {t.ms:.3g} ms" for t in shown) or "nothing ran"


if __name__ == "__main__":
    sys.exit(main())
