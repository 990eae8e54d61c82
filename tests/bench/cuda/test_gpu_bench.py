"""The GPU benchmark runs from end to end on the stand-in for CuPy, and labels its figures as emulated."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cuda import contest, report, run, timing
from bench.cuda.devices import DEVICES, reported
from bench.peers import cuda_ours
from bench.workloads import make_workload, parse_size
from capgpu.kernels.cuda.device_calls import counting

ROOT = Path(__file__).resolve().parents[3]
TINY = "S4:N=3,D=4,W=5,H=6,V=12,T=4"


def time_on_the_standin(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    quick = ["--rounds", "2", "--steps", "2", "--warm", "1", "--filler-ms", "0", "--serve", "simulators.worker"]
    if "--precisions" not in arguments:
        quick += ["--precisions", "float32"]
    return subprocess.run(
        [sys.executable, "-m", "bench.cuda.run", *quick, "--out", str(folder), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), **variables},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


@pytest.fixture(scope="module")
def cells(pytestconfig: pytest.Config) -> tuple[str, ...]:
    return ("lstm", "rnn") if pytestconfig.getoption("--nightly") else ("rnn",)


@pytest.fixture(scope="module")
def modes(pytestconfig: pytest.Config) -> tuple[str, ...]:
    """Of the competitor, which starts a process that imports PyTorch for each."""
    return contest.MODES if pytestconfig.getoption("--nightly") else contest.MODES[:1]


@pytest.fixture(scope="module")
def emulated(
    emulator: Any,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
    cells: tuple[str, ...],
    modes: tuple[str, ...],
) -> Path:
    folder = tmp_path_factory.mktemp("emulated")
    arguments = ["--cells", ",".join(cells), "--peers", ",".join(modes)]
    if not pytestconfig.getoption("--nightly"):
        arguments += ["--jobs", "adam"]
    process = time_on_the_standin(folder, "--sizes", TINY.replace(",", ";"), *arguments)
    assert process.returncode == 0, process.stdout + process.stderr
    assert report.EMULATED in process.stdout
    return folder


@pytest.mark.nightly
def test_every_job_of_a_cell_is_timed_and_agrees_with_the_oracle(emulated, cells):
    (table,) = emulated.glob("*.csv")
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    ours = [row for row in rows if row["competitor"] == "capgpu cuda"]
    assert {(row["cell"], row["job"]) for row in ours} == {
        (cell, job) for cell in cells for job in ("loss", "adam", "adam-dropout", "sample100", "sample1")
    }
    for row in ours:
        assert min(float(row["ms"]), float(row["filled_ms"]), float(row["wall_ms"])) > 0
        if row["job"] == "adam-dropout":  # every library draws its own masks
            assert row["error"] == ""
        else:
            assert float(row["error"]) < (1e-3 if row["job"] == "adam" else 1e-4)


def test_a_precision_is_timed_or_has_a_note(emulator, tmp_path):
    arguments = ["--cells", "rnn", "--jobs", "adam", "--precisions", "float16,bfloat16", "--peers", "none"]
    process = time_on_the_standin(tmp_path, "--sizes", TINY.replace(",", ";"), *arguments)
    assert process.returncode == 0, process.stdout + process.stderr
    (table,) = tmp_path.glob("*.csv")
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    assert [row["precision"] for row in rows] == ["float16", "bfloat16"]
    assert all(bool(row["ms"]) != bool(row["note"]) for row in rows)
    (page,) = tmp_path.glob("*.md")
    head = next(line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| size"))
    assert head == "| size | cell | job | | float16 | bfloat16 |"


@pytest.mark.parametrize("job", contest.JOBS)
def test_a_timed_step_does_not_synchronize(standin, job):
    task = cuda_ours.make_task("cuda", make_workload(parse_size(TINY), "rnn"), job)
    task.step()
    with standin.forbid_synchronisation():
        task.launch()


@pytest.mark.parametrize("job", ["adam", "adam-dropout"])
def test_a_timed_step_may_be_one_graph(standin, job):
    task = cuda_ours.make_task("graphed", make_workload(parse_size(TINY), "lstm"), job)
    task.launch()
    with counting() as launches, standin.forbid_synchronisation():
        task.launch()
    assert launches == ["copy", "copy", "graph", "copy", "graph"]
    with pytest.raises(ValueError, match="expected the job adam"):
        cuda_ours.make_task("graphed", make_workload(parse_size(TINY), "lstm"), "loss")


def test_features_that_are_not_finite_are_refused_before_timing(standin):
    work = make_workload(parse_size(TINY), "rnn")
    work.features[1, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        cuda_ours.make_task("cuda", work, "adam")


def test_dropout_draws_new_masks_at_each_step(standin):
    task = cuda_ours.make_task("cuda", make_workload(parse_size(TINY), "rnn"), "loss-dropout")
    losses = []
    for _ in range(3):
        task.step()
        losses.append(float(task.result()["loss"]))
    assert len(set(losses)) == 3


def test_a_step_that_outlasts_the_filler_is_marked():
    class Slow:
        """A device that has come to the first event when the host asks."""

        def __init__(self) -> None:
            self.clock, self.now, self.log = self, 0.0, []

        def launch(self):
            self.now += 1.0

        def mark(self):
            return self.now

        def milliseconds(self, start, end):
            return end - start

        def passed(self, event):
            return self.late

        def wait(self):
            pass

        def fill(self, milliseconds):
            pass

    for late in (False, True):
        task = Slow()
        task.late = late
        timed = timing.time_steps(task, warm=1, steps=3, filler_ms=1.0)
        assert timed.queued is not late
        row = report.Timing("S4", "rnn", "adam", "ours", ms=1.0, filled_ms=1.0, wall_ms=1.0, queued=timed.queued)
        page = report.markdown(report.Run({"device": "d", "emulated": False}, None, [row]))
        assert ("| 1 * |" in page.replace("1.00", "1")) is late


def test_measurements_skipped_for_lack_of_time_are_listed(emulator, tmp_path):
    arguments = ["--jobs", "loss", "--cells", "rnn,lstm", "--peers", "none", "--seconds", "0"]
    process = time_on_the_standin(tmp_path, "--sizes", TINY.replace(",", ";"), *arguments)
    assert f"no time left for: {TINY} rnn loss float32; {TINY} lstm loss float32" in process.stdout
    (page,) = tmp_path.glob("*.md")
    assert page.read_text(encoding="utf-8").count("no time was left for") == 2


def test_the_quick_mode_is_one_size_and_can_be_overridden():
    quick = run.arguments(["--quick", "--steps", "7"])
    assert (quick.sizes, quick.cells, quick.jobs) == (["S1"], ["lstm"], ["adam", "adam-dropout"])
    assert quick.steps == 7
    assert quick.seconds < 100
    assert set(run.arguments([]).peers) == set(contest.MODES)
    assert run.arguments(["--peers", "none"]).peers == []


def test_absent_competitors_are_listed_with_the_cause(emulated, modes):
    (table,) = emulated.glob("*.csv")
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    peers = [row for row in rows if row["competitor"] != "capgpu cuda"]
    assert {row["competitor"] for row in peers} == {f"torch {mode}" for mode in modes}
    assert all(row["note"].startswith("absent: ") and not row["ms"] for row in peers)


def test_emulated_figures_are_marked_in_file_name_title_and_every_row(emulated):
    files = sorted(emulated.iterdir())
    assert [file.suffix for file in files] == [".csv", ".md"]
    assert all(file.name.startswith("emulated-") for file in files)
    assert files[1].read_text(encoding="utf-8").startswith(f"# {report.EMULATED}\n")
    rows = list(csv.DictReader(io.StringIO(files[0].read_text(encoding="utf-8"))))
    assert {row["basis"] for row in rows} == {report.EMULATED}


def test_every_launch_of_a_step_is_timed_and_matched_to_its_computed_part(emulated, cells):
    (page,) = emulated.glob("*.md")
    _, _, launches = page.read_text(encoding="utf-8").partition("## Our step, launch by launch")
    rows = [line.split(" | ") for line in launches.splitlines() if line.startswith("| S4")]
    for cell in cells:
        rows_of_cell = [row for row in rows if row[1] == cell]
        assert len(rows_of_cell) >= 15
        assert all(row[5].strip() and float(row[4]) > 0 for row in rows_of_cell), rows_of_cell


@pytest.mark.nightly
def test_emulated_figures_are_refused_in_the_folder_of_measurements(emulator):
    process = time_on_the_standin(run.RESULTS, "--sizes", TINY.replace(",", ";"), "--cells", "rnn", "--jobs", "loss")
    assert process.returncode == 1
    assert "do not go where measurements are kept" in process.stderr
    assert not list(run.RESULTS.glob("emulated-*"))


def test_without_a_device_the_cause_is_printed(tmp_path, capfd):
    if run.main(["--sizes", "S4", "--jobs", "loss", "--out", str(tmp_path)]) != 2:
        pytest.skip("there is a device")
    assert "nothing to time: backend 'cuda'" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("--cells", "mgu", "cells: expected names among"),
        ("--jobs", "dream", "jobs: expected names among"),
        ("--sizes", "S9", "no size"),
        ("--precisions", "float8", "precisions: expected names among"),
        ("--peers", "jax", "peers: expected names among"),
    ],
)
def test_unknown_names_are_refused(argument, value, message, capsys):
    with pytest.raises(SystemExit):
        run.main([argument, value])
    assert message in capsys.readouterr().err


# `Device.attributes` of these devices: multiprocessors, clocks in kHz, bus width in bits.
ATTRIBUTES = {
    80: (108, 1_410_000, 1_593_000, 5120),
    90: (132, 1_980_000, 2_619_000, 5120),
    89: (128, 2_520_000, 10_501_000, 384),
    75: (40, 1_590_000, 5_001_000, 256),
}


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_peaks_computed_from_device_attributes_are_the_manufacturers(device):
    count, clock, memory_clock, bus = ATTRIBUTES[device.capability]
    device_peaks = reported(
        device.name,
        device.capability,
        {
            "MultiProcessorCount": count,
            "ClockRate": clock,
            "MemoryClockRate": memory_clock,
            "GlobalMemoryBusWidth": bus,
            "L2CacheSize": int(device.cache_mb * 2**20),
            "MaxSharedMemoryPerMultiprocessor": device.shared_kb * 2**10,
        },
    )
    assert device_peaks.tflops == pytest.approx(device.tflops, rel=0.01)
    assert device_peaks.gigabytes == pytest.approx(device.gigabytes, rel=0.01)
    assert (device_peaks.multiprocessors, device_peaks.cache_mb, device_peaks.shared_kb) == (
        device.multiprocessors,
        device.cache_mb,
        device.shared_kb,
    )


def test_without_clock_rates_there_are_no_peaks():
    assert reported("a device", 80, {"MultiProcessorCount": 108}) is None
