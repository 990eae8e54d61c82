"""Timing in interleaved slices: A B C A B C ..., so that drift of the machine's speed affects all alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench import stats
from bench.competitors import Competitor, kind_of_job
from bench.process import WorkerFailedError, WorkerProcess, busy_seconds, wait_until_quiet
from bench.workloads import split_job

TOLERANCE = {"loss": 1e-4, "adam": 1e-3, "sample": 0.01}
#: Share of the cores' time that other processes may use in an undisturbed slice.
QUIET_SHARE = 0.05
#: Error of the operating system's accounting of processor time, in seconds.
CLOCK_TICKS = 0.04
#: Undisturbed rounds that suffice for dropping the disturbed ones.
ENOUGH_ROUNDS = 3


@dataclass(frozen=True)
class Plan:
    """Duration of a measurement: rounds, seconds per slice and warm-up, seconds for repeating disturbed slices."""

    rounds: int
    seconds: float
    warm_seconds: float = 0.03
    patience: float = 60.0


@dataclass
class Record:
    """The results of one competitor at one size, cell and job.

    Attributes
    ----------
    status : str
        ``"ok"``, ``"disagrees"`` (timed, but its numbers differ from the oracle's), ``"absent"``,
        ``"failed"``.
    error : float or None
        Largest norm-wise relative difference to the float64 oracle; for sampling, the share of differing words.
    slices : list of list of float
        Milliseconds per step, a list for each round.
    """

    size: str
    cell: str
    job: str
    label: str
    kind: str
    status: str = "ok"
    note: str = ""
    error: float | None = None
    first_s: float | None = None
    peak_bytes: float | None = None
    slices: list[list[float]] = field(default_factory=list)

    @property
    def summary(self) -> stats.Summary | None:
        """Summary of the slices; None without any."""
        return stats.summarise(self.slices) if self.slices else None


@dataclass(frozen=True)
class Measurement:
    """The records of one size, cell and job, and how undisturbed its rounds were."""

    records: list[Record]
    rounds: int
    quiet_rounds: int

    @property
    def disturbed(self) -> bool:
        """Whether other processes were busy in so many rounds that the figures allow no conclusion."""
        return self.quiet_rounds < min(ENOUGH_ROUNDS, self.rounds)


def write_oracle(oracle: WorkerProcess, size: str, cell: str, job: str, folder: Path) -> dict[str, np.ndarray]:
    """Return the float64 oracle's result."""
    oracle.ask(do="prepare", size=size, cell=cell, job=job)
    return checked_result(oracle, folder)


def checked_result(process: WorkerProcess, folder: Path) -> dict[str, np.ndarray]:
    """Load the result that a worker writes for comparison."""
    path = folder / "result.npz"
    process.ask(do="check", path=str(path))
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    path.unlink()
    return arrays


def error_of(result: dict[str, np.ndarray], expected: dict[str, np.ndarray], job: str) -> float:
    """Return the error of a result against the oracle's, in the measure of `TOLERANCE`."""
    return stats.disagreement(result, expected) if kind_of_job(job) == "sample" else stats.worst_error(result, expected)


def measure(
    processes: Sequence[WorkerProcess],
    oracle: WorkerProcess,
    size: str,
    cell: str,
    job: str,
    plan: Plan,
    folder: Path,
    report_progress: Callable[[str], None],
) -> Measurement:
    """Prepare, check and time all processes that have a job.

    Dropout masks differ between libraries, so results are compared without dropout; the timed job has it.

    Parameters
    ----------
    processes : sequence of WorkerProcess
        Workers that answered hello.
    oracle : WorkerProcess
        The worker that results are compared with.
    size, cell, job : str
        As `bench.workloads` names them.
    plan : Plan
    folder : Path
        Folder for results of the workers.
    report_progress : callable
        Receives lines of progress.
    """
    job_without_dropout, dropout = split_job(job)
    expected = write_oracle(oracle, size, cell, job_without_dropout, folder)
    oracle.rest()
    records: dict[str, Record] = {}
    running: list[WorkerProcess] = []
    for process in processes:
        competitor = process.competitor
        if not competitor.takes_part(job):
            continue
        record = records[competitor.label] = Record(size, cell, job, competitor.label, competitor.kind)
        try:
            record.first_s = process.ask(do="prepare", size=size, cell=cell, job=job_without_dropout)["first_s"]
            result = checked_result(process, folder)
            if competitor.kind != "limit":
                record.error = error_of(result, expected, job)
                if record.error > TOLERANCE[kind_of_job(job)]:
                    record.status = "disagrees"
            if dropout:
                record.first_s = process.ask(do="prepare", size=size, cell=cell, job=job)["first_s"]
                process.ask(do="check")
            running.append(process)
        except (WorkerFailedError, ValueError) as failure:
            fail(record, failure)
            report_progress(f"    {failure}")
        process.rest()
    n_quiet = take_rounds(running, records, plan)
    return Measurement(list(records.values()), plan.rounds, n_quiet)


def fail(record: Record, failure: Exception) -> None:
    """Mark a competitor's record as failed."""
    record.status, record.note = "failed", str(failure)


def take_rounds(running: Sequence[WorkerProcess], records: dict[str, Record], plan: Plan) -> int:
    """Fill the records' slices; return the number of rounds that other processes did not disturb.

    Disturbed rounds are dropped if `ENOUGH_ROUNDS` undisturbed ones remain.
    """
    running = list(running)
    deadline = time.monotonic() + plan.patience
    rounds: list[tuple[bool, dict[str, list[float]]]] = []
    for _ in range(plan.rounds if running else 0):
        wait_until_quiet(deadline - time.monotonic(), window=0.2)
        round_quiet, slices = True, {}
        for process in tuple(running):
            label = process.competitor.label
            try:
                slices[label], undisturbed = take_slice(process, plan, deadline)
            except WorkerFailedError as failure:
                fail(records[label], failure)
                running.remove(process)
                continue
            round_quiet = round_quiet and undisturbed
        rounds.append((round_quiet, slices))
    undisturbed_rounds = [slices for round_quiet, slices in rounds if round_quiet]
    kept_rounds = undisturbed_rounds if len(undisturbed_rounds) >= ENOUGH_ROUNDS else [slices for _, slices in rounds]
    for slices in kept_rounds:
        for label, samples in slices.items():
            if records[label].status != "failed":
                records[label].slices.append(samples)
    return len(undisturbed_rounds)


def take_slice(process: WorkerProcess, plan: Plan, deadline: float) -> tuple[list[float], bool]:
    """Return a slice's milliseconds and whether it was undisturbed by other processes.

    A disturbed slice is repeated once the machine is quiet, until the deadline.
    """
    while True:
        before = busy_seconds(), process.cpu_seconds(), time.monotonic()
        samples: list[float] = process.ask(do="time", seconds=plan.seconds, warm_seconds=plan.warm_seconds)["ms"]
        after = busy_seconds(), process.cpu_seconds(), time.monotonic()
        process.rest()
        if before[0] is None or after[0] is None:
            return samples, True
        other_seconds = (after[0] - before[0]) - (after[1] - before[1])
        if other_seconds <= CLOCK_TICKS + QUIET_SHARE * (after[2] - before[2]) * (os.cpu_count() or 1):
            return samples, True
        if time.monotonic() >= deadline:
            return samples, False
        wait_until_quiet(deadline - time.monotonic())


def absent_records(missing: dict[str, tuple[Competitor, str]], size: str, cell: str, job: str) -> list[Record]:
    """Return a record for each competitor that could not start, so that the table shows it."""
    return [
        Record(size, cell, job, competitor.label, competitor.kind, status="absent", note=note)
        for competitor, note in missing.values()
        if competitor.takes_part(job)
    ]
