"""The benchmark for a GPU runs from end to end, on a stand-in, and nobody can take its figures for measurements."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.cuda import report, run
from bench.cuda.devices import DEVICES, reported

ROOT = Path(__file__).resolve().parents[3]
TINY = "S4:N=3,D=4,W=5,H=6,V=12,T=4"


def time_on_the_standin(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    quick = ["--rounds", "2", "--steps", "2", "--warm", "1", "--filler-ms", "0", "--serve", "standin.worker"]
    return subprocess.run(
        [sys.executable, "-m", "bench.cuda.run", *quick, "--out", str(folder), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), **variables},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def emulated(emulator: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emulated")
    done = time_on_the_standin(folder, "--sizes", TINY.replace(",", ";"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert report.EMULATED in done.stdout
    return folder


def test_every_job_of_both_cells_is_timed_and_agrees_with_the_oracle(emulated):
    (table,) = emulated.glob("*.csv")
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    ours = [row for row in rows if row["competitor"] == "capgpu cuda"]
    assert {(row["cell"], row["job"]) for row in ours} == {
        (cell, job) for cell in ("lstm", "rnn") for job in ("loss", "adam", "sample100", "sample1")
    }
    for row in ours:
        assert min(float(row["ms"]), float(row["filled_ms"]), float(row["wall_ms"])) > 0
        assert float(row["error"]) < (1e-3 if row["job"] == "adam" else 1e-4)


def test_absent_competitors_are_shown_with_the_cause(emulated):
    (table,) = emulated.glob("*.csv")
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    peers = [row for row in rows if row["competitor"] != "capgpu cuda"]
    assert {row["competitor"] for row in peers} == {"torch padded", "torch packed", "torch compiled"}
    assert all(row["note"].startswith("absent: ") and not row["ms"] for row in peers)


def test_emulated_figures_are_marked_in_name_title_and_every_row(emulated):
    files = sorted(emulated.iterdir())
    assert [file.suffix for file in files] == [".csv", ".md"]
    assert all(file.name.startswith("emulated-") for file in files)
    assert files[1].read_text(encoding="utf-8").startswith(f"# {report.EMULATED}\n")
    rows = list(csv.DictReader(io.StringIO(files[0].read_text(encoding="utf-8"))))
    assert {row["basis"] for row in rows} == {report.EMULATED}


def test_every_launch_of_a_step_is_timed_and_found_on_paper(emulated):
    (page,) = emulated.glob("*.md")
    _, _, launches = page.read_text(encoding="utf-8").partition("## Our step, launch by launch")
    rows = [line.split(" | ") for line in launches.splitlines() if line.startswith("| S4")]
    for cell in ("lstm", "rnn"):
        mine = [row for row in rows if row[1] == cell]
        assert len(mine) >= 15
        assert all(row[5].strip() and float(row[4]) > 0 for row in mine), mine


def test_emulated_figures_do_not_go_where_measurements_are_kept(emulator):
    done = time_on_the_standin(run.RESULTS, "--sizes", TINY.replace(",", ";"), "--cells", "rnn", "--jobs", "loss")
    assert done.returncode == 1
    assert "do not go where measurements are kept" in done.stderr
    assert not list(run.RESULTS.glob("emulated-*"))


def test_without_a_device_the_cause_is_told(tmp_path, capfd):
    if run.main(["--sizes", "S4", "--jobs", "loss", "--out", str(tmp_path)]) != 2:
        pytest.skip("there is a device")
    assert "nothing to time: backend 'cuda'" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [("--cells", "gru", "none of the cells"), ("--jobs", "dream", "none of the jobs"), ("--sizes", "S9", "no size")],
)
def test_unknown_names_are_refused(argument, value, words, capsys):
    with pytest.raises(SystemExit):
        run.main([argument, value])
    assert words in capsys.readouterr().err


# What `Device.attributes` says of the devices on paper: multiprocessors, clocks in kHz, bus in bits.
TOLD = {
    80: (108, 1_410_000, 1_593_000, 5120),
    90: (132, 1_980_000, 2_619_000, 5120),
    89: (128, 2_520_000, 10_501_000, 384),
    75: (40, 1_590_000, 5_001_000, 256),
}


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_peaks_from_a_devices_own_words_are_the_makers(device):
    count, clock, memory_clock, bus = TOLD[device.capability]
    told = reported(
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
    assert told.tflops == pytest.approx(device.tflops, rel=0.01)
    assert told.gigabytes == pytest.approx(device.gigabytes, rel=0.01)
    assert (told.multiprocessors, told.cache_mb, told.shared_kb) == (
        device.multiprocessors,
        device.cache_mb,
        device.shared_kb,
    )


def test_a_device_that_hides_its_clocks_has_no_peaks():
    assert reported("a device", 80, {"MultiProcessorCount": 108}) is None
