"""Time capgpu beside the exercise's code, PyTorch, JAX and the matrix products alone.

    python -m bench.run --peer-python PATH --out FOLDER

Every competitor runs in its own process; `bench.measure` describes how slices alternate and `bench.worker` what a slice
is. Competitors whose library is missing are shown as absent.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import fresh, machine, plots, report
from bench.competitors import ORACLE, Competitor, choose, kind_of_job
from bench.measure import Measurement, Plan, absent_records, measure
from bench.process import ROOT, WorkerFailedError, WorkerProcess, wait_until_quiet
from bench.workloads import CELLS, FURTHER_CELLS, JOBS, SIZES, parse_size

PARTS = ("timing", "memory", "first", "breakdown", "sweep")
SWEEP_ONLY = (
    "capgpu cpu",
    "torch padded",
    "torch packed",
    "jax",
    "gemm distinct numpy",
    "gemm distinct torch",
)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    peer_environment = ROOT / ".venv-peers" / "bin" / "python"
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(SIZES), help="comma-separated; S1:T=32;N=8 is a size beside S1")
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument(
        "--jobs", default=",".join(JOBS), help="of adam-dropout, adam, loss, sample (100 and 1), sample100, sample1"
    )
    parser.add_argument("--parts", help=f"of {', '.join(PARTS)}; all, or with --quick timing and memory")
    parser.add_argument("--only", help="competitors whose label contains one of these comma-separated words")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (21; with --quick 3)")
    parser.add_argument("--seconds", type=float, help="length of a slice (0.3; with --quick 0.1)")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="seconds a measurement may spend on repeating disturbed slices",
    )
    parser.add_argument("--threads", type=int, help="threads for every library; default: each library's own choice")
    parser.add_argument("--quick", action="store_true", help="few short rounds, for orientation only")
    parser.add_argument(
        "--peer-python",
        default=str(peer_environment) if peer_environment.exists() else sys.executable,
        help="interpreter with PyTorch and JAX; default: .venv-peers/bin/python, or this one",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the tables and plots")
    args = parser.parse_args(argv)
    args.sizes = [size.replace(";", ",") for size in args.sizes.split(",")]
    args.cells = args.cells.split(",")
    args.jobs = args.jobs.replace("sample,", "sample100,sample1,").split(",")
    if args.jobs[-1] == "sample":
        args.jobs[-1:] = ["sample100", "sample1"]
    default_parts = ("timing", "memory") if args.quick else PARTS
    args.parts = tuple(args.parts.split(",")) if args.parts else default_parts
    args.rounds = args.rounds or (3 if args.quick else 21)
    args.seconds = args.seconds or (0.1 if args.quick else 0.3)
    try:
        for size in args.sizes:
            parse_size(size)
        choose(args.only)
    except ValueError as error:
        parser.error(str(error))
    for chosen, known in ((args.cells, CELLS + FURTHER_CELLS), (args.jobs, JOBS), (args.parts, PARTS)):
        for name in chosen:
            if name not in known:
                parser.error(f"expected names among {', '.join(known)}, got {name!r}")
    return args


class Session:
    """The workers of a run and its results so far."""

    def __init__(self, args: argparse.Namespace, scratch: Path) -> None:
        self.args, self.scratch = args, scratch
        self.results = report.Results()
        self.processes: list[WorkerProcess] = []
        self.missing: dict[str, tuple[Competitor, str]] = {}
        self.oracle = self._start(ORACLE)

    def say(self, text: str) -> None:
        """Print a line of progress."""
        print(text, flush=True)

    def start_all(self) -> None:
        """Start the competitors; those that cannot start are recorded in `missing`."""
        versions = self.oracle.ask(do="hello")["versions"]
        for competitor in choose(self.args.only):
            process = self._start(competitor)
            try:
                reply = process.ask(do="hello")
            except WorkerFailedError as failure:
                reply = {"absent": str(failure)}
            if "absent" in reply:
                self.missing[competitor.label] = competitor, reply["absent"]
                self.say(f"absent: {competitor.label} ({reply['absent']})")
                process.close()
            else:
                versions |= reply["versions"]
                process.rest()
                self.processes.append(process)
        self.results.machine = machine.describe(versions, self.args.threads)

    def time(self, size: str, cell: str, job: str, rounds: int, only: Sequence[str] | None = None) -> Measurement:
        """Time all workers (or those with the labels `only`) and add the measurement to the results."""
        self.say(f"{size} {cell} {job}")
        processes = [p for p in self.processes if only is None or p.competitor.label in only]
        plan = Plan(rounds, self.args.seconds, patience=self.args.patience)
        measurement = measure(processes, self.oracle, size, cell, job, plan, self.scratch, self.say)
        if only is None:
            measurement.records.extend(absent_records(self.missing, size, cell, job))
        for record in measurement.records:
            summary = record.summary
            figures = f"{summary.median:10.3f} ms  noise {100 * summary.noise:3.0f} %" if summary else ""
            self.say(f"    {record.label:22s} {record.status:10s}{figures}")
        self.results.measurements.append(measurement)
        return measurement

    def add_memory(self, measurement: Measurement) -> None:
        """Measure the peak memory of each competitor of a measurement."""
        for record in measurement.records:
            process = next((p for p in self.processes if p.competitor.label == record.label), None)
            if record.kind == "limit" or process is None:
                continue
            try:
                record.peak_bytes = fresh.peak_memory(
                    process.competitor, self._python(process.competitor), self.args.threads,
                    record.size, record.cell, record.job, self.scratch,
                )  # fmt: skip
                self.say(f"    {record.label:22s} peak {record.peak_bytes / 2**20:.1f} MiB")
            except WorkerFailedError as failure:
                self.say(f"    no peak memory: {failure}")

    def add_breakdown(self, size: str, cell: str, job: str) -> None:
        """Measure the parts of capgpu's step at the size, cell and job that were just timed."""
        process = next((p for p in self.processes if p.competitor.kind == "ours"), None)
        if process is None or kind_of_job(job) == "sample":
            return
        process.ask(do="prepare", size=size, cell=cell, job=job)
        wait_until_quiet(self.args.patience)
        self.results.breakdowns[f"{size} {cell} {job}"] = process.ask(do="profile", steps=20)["parts"]
        process.rest()

    def add_first_calls(self) -> None:
        """Measure the time of the first call, at the first size and cell."""
        competitors = [p.competitor for p in self.processes if p.competitor.kind in {"ours", "peer"}]
        self.results.first_calls = fresh.first_calls(
            [(competitor, self._python(competitor)) for competitor in competitors],
            self.args.threads,
            self.args.sizes[0],
            self.args.cells[0],
            self.scratch,
            self.say,
        )

    def close(self) -> None:
        """End all workers."""
        for process in [self.oracle, *self.processes]:
            process.close()

    def _python(self, competitor: Competitor) -> str:
        return str(self.args.peer_python) if competitor.peer_python else sys.executable

    def _start(self, competitor: Competitor) -> WorkerProcess:
        log = self.scratch / f"{competitor.label.replace(' ', '-')}.log"
        return WorkerProcess(competitor, self._python(competitor), self.args.threads, log)


def run(session: Session, args: argparse.Namespace) -> None:
    """Run the requested parts, writing the tables after each measurement."""
    for size in args.sizes if {"timing", "memory", "breakdown"} & set(args.parts) else ():
        for cell in args.cells:
            for job in args.jobs:
                measurement = session.time(size, cell, job, args.rounds if "timing" in args.parts else 1)
                if "memory" in args.parts and job == "loss":
                    session.add_memory(measurement)
                if "breakdown" in args.parts:
                    session.add_breakdown(size, cell, job)
                report.write(session.results, args.out)
    if "first" in args.parts:
        session.add_first_calls()
        report.write(session.results, args.out)
    if "sweep" in args.parts:
        for size in plots.sweep_sizes():
            session.time(size, "lstm", "loss", max(3, args.rounds // 3), SWEEP_ONLY)
            report.write(session.results, args.out)
        plots.plot_growth(session.results, args.out / "growth.png")
    if session.results.breakdowns:
        plots.plot_breakdown(session.results, args.out / "breakdown.png")


def main() -> None:
    """Run the command line."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="capgpu-bench-") as scratch:
        session = Session(args, Path(scratch))
        try:
            session.start_all()
            run(session, args)
        finally:
            session.close()
    print(f"written: {args.out / 'results.md'}, {args.out / 'results.csv'}")


if __name__ == "__main__":
    main()
