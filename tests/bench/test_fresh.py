"""The command that times cold and warm starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import fresh


def test_cold_and_warm_starts_of_each_cell_and_of_the_demo_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[tuple[list[str], str]] = []

    def run(command: list[str], cache: str) -> str:
        assert Path(cache).is_dir()
        runs.append((command, cache))
        return json.dumps({"first step s": 1.25})

    monkeypatch.setattr(fresh, "_run", run)
    assert fresh.main(["--cells", "rnn,lstm", "--rounds", "1", "--demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    states = ("cold", "second", "warm")
    assert lines[:6] == [f"{cell} {state}: first step s 1.2" for cell in ("rnn", "lstm") for state in states]
    assert [line.split(":")[0] for line in lines[6:8]] == ["demo cold", "demo warm"]
    caches = [cache for _, cache in runs]
    assert len(set(caches)) == 3, "warm starts have the folder that the cold one has filled"
    assert [caches.count(cache) for cache in dict.fromkeys(caches)] == [3, 3, 8]


def test_the_first_step_is_timed_in_a_separate_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("CAPGPU_BACKEND", "numpy")  # which compiles nothing
    figures: dict[str, Any] = json.loads(fresh._run([sys.executable, "-c", fresh.FIRST_STEP, "rnn"], str(tmp_path)))
    assert set(figures) == {"import s", "first step s", "processor s", "second process s", "peak MB"}
    assert figures["peak MB"] > 1
