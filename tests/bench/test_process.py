from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.competitors import Competitor
from bench.measure import Plan, Record, measure, take_rounds
from bench.process import WorkerFailedError, WorkerProcess

TINY = {"size": "S4:N=2,T=3", "cell": "rnn"}


def start(folder: Path, module: str = "exercise", mode: str = "float32", kind: str = "peer") -> WorkerProcess:
    return WorkerProcess(Competitor(f"{module} {mode}", module, mode, kind), sys.executable, 1, folder / "log")


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    process = start(tmp_path)
    yield process
    process.close()


def test_a_worker_times_at_least_one_step(worker: WorkerProcess) -> None:
    worker.ask(do="hello")
    worker.ask(do="prepare", job="loss", **TINY)
    assert len(worker.ask(do="time", seconds=0.0, warm_seconds=0.0)["ms"]) == 1


def test_a_missing_library_is_reported_as_absent(tmp_path: Path) -> None:
    process = start(tmp_path, module="no_such_library")
    try:
        assert "no_such_library" in process.ask(do="hello")["absent"]
    finally:
        process.close()


def test_a_failed_request_raises_the_workers_message_and_the_worker_continues(worker: WorkerProcess) -> None:
    worker.ask(do="hello")
    with pytest.raises(WorkerFailedError, match="no size named 'S9'"):
        worker.ask(do="prepare", size="S9", cell="rnn", job="loss")
    assert worker.ask(do="prepare", job="loss", **TINY)["first_s"] > 0


def test_a_dead_worker_is_reported_at_once(worker: WorkerProcess) -> None:
    worker.process.kill()
    worker.process.wait()
    with pytest.raises(WorkerFailedError, match="no answer to 'hello'"):
        worker.ask(do="hello")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_worker_is_stopped_and_continued_by_signals(worker: WorkerProcess) -> None:
    worker.ask(do="hello")
    worker.rest()
    state = Path(f"/proc/{worker.process.pid}/stat")
    while state.read_text().rsplit(")", 1)[1].split()[0] != "T":
        time.sleep(0.001)
    assert worker.ask(do="prepare", job="loss", **TINY)["first_s"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_counts_what_a_step_allocates(worker: WorkerProcess) -> None:
    worker.ask(do="hello")
    peak = worker.ask(do="memory", size="S4:V=20000,N=32", cell="rnn", job="loss")["peak_bytes"]
    scores = 32 * 10 * 20000 * 4
    assert scores < peak < 12 * scores


def test_a_worker_that_dies_while_timed_does_not_affect_others(worker: WorkerProcess, tmp_path: Path) -> None:
    dead = start(tmp_path, mode="float64")
    try:
        records = {}
        for process in (worker, dead):
            process.ask(do="hello")
            process.ask(do="prepare", job="loss", **TINY)
            label = process.competitor.label
            records[label] = Record(TINY["size"], TINY["cell"], "loss", label, "peer")
        dead.process.kill()
        dead.process.wait()
        take_rounds([worker, dead], records, Plan(rounds=3, seconds=0.0, warm_seconds=0.0, patience=0.0))
    finally:
        dead.close()
    assert [(record.status, len(record.slices)) for record in records.values()] == [("ok", 3), ("failed", 0)]


def test_a_measurement_has_paired_rounds_and_marks_disagreeing_results(tmp_path: Path) -> None:
    oracle, float32 = start(tmp_path, mode="float64", kind="oracle"), start(tmp_path)
    half_precision = start(tmp_path, mode="float16")
    try:
        for process in (oracle, float32, half_precision):
            process.ask(do="hello")
        plan = Plan(rounds=2, seconds=0.0, warm_seconds=0.0, patience=0.0)
        measurement = measure([float32, half_precision], oracle, "S4", "lstm", "loss", plan, tmp_path, lambda _: None)
    finally:
        for process in (oracle, float32, half_precision):
            process.close()
    assert [record.status for record in measurement.records] == ["ok", "disagrees"]
    assert [len(record.slices) for record in measurement.records] == [2, 2]
    assert not list(tmp_path.glob("*.npz"))
