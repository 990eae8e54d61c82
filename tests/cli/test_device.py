"""capgpu info and capgpu tune: what this machine has, and the fastest way on it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capgpu.array_libraries
import capgpu.backend
from oracles.commands import refused, run


def test_info_tells_what_was_chosen() -> None:
    result = run("info")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["backend", "numpy"]
    assert ["kernels", "reference"] in lines
    assert ["numpy", np.__version__] in lines


@pytest.mark.parametrize("setting", ["cuda", "nonsense"])
def test_info_tells_why_nothing_can_be_chosen(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_device() -> None:
        raise capgpu.backend.BackendUnavailableError("backend 'cuda': no CUDA device found. Check nvidia-smi.")

    monkeypatch.setitem(capgpu.backend._OPENERS, "cuda", no_device)
    monkeypatch.setattr(capgpu.backend, "_current", None)
    monkeypatch.setenv("CAPGPU_BACKEND", setting)
    result = run("info")
    assert result.exit_code == 1
    assert "no CUDA device found. Check nvidia-smi." in result.stdout
    assert ("got 'nonsense'" in result.stdout) == (setting == "nonsense")
    refused(run("train", "--out", "never"), "no CUDA device" if setting == "cuda" else "got 'nonsense'")


def test_info_tells_of_the_device_its_kernels_and_their_folders(
    cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from capgpu.kernels.cuda import compile, tuning_cache

    monkeypatch.setenv("CAPGPU_BACKEND", "cuda")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(capgpu.backend, "_current", None)
    for setting in ("CAPGPU_TENSOR_CORES", "CUPY_TF32"):
        monkeypatch.delenv(setting, raising=False)
    tuning_cache.forget()
    lines = [re.split(r"  +", line, maxsplit=1) for line in run("info").stdout.splitlines() if "  " in line]
    printed = {name: words.strip() for name, words in lines}
    assert printed["kernels"] == "cuda"
    assert printed["driver"].startswith("supports CUDA 1")
    assert printed["multiprocessors"].startswith(f"{compile.device_limits().multiprocessors},")
    assert re.fullmatch(r"\d+, in \d+ variants", printed["cuda kernels"])
    assert printed["kernel cache"] == str(tmp_path / "kernels")
    assert printed["tensor cores"] == (
        "recurrences of half types: on; recurrences of float32: split in two; products of float32: off"
    )
    assert printed["recurrences"] == "by heuristics (capgpu tune measures them)"
    assert printed["tuning file"] == str(tmp_path / "capgpu" / "tuning.json")
    device = printed["device"].split(", compute")[0]
    tuning_cache.store(device, {"lstm_forward float32 H=512 N=64": ("persistent", 8)})
    measured = "measured for lstm_forward float32 H=512 N=64: persistent of 8 units; others by heuristics"
    assert measured in run("info").stdout
    tuning_cache.forget()


def test_tune_shows_every_tier_and_keeps_the_fastest(
    cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = run("tune", "--cell", "rnn", "--hidden", 6, "--batch-size", 3, "--steps", 2, "--repeats", 1)
    assert result.exit_code == 0, result.output
    shown = {tuple(line.split()[:2]) for line in result.stdout.splitlines()[1:] if line.startswith("rnn")}
    algorithms = ("persistent", "step", "matmul")
    assert shown == {(f"rnn_{way}", algorithm) for way in ("forward", "backward") for algorithm in algorithms}
    (shapes,) = json.loads((tmp_path / "capgpu" / "tuning.json").read_text())["devices"].values()
    assert set(shapes) == {"rnn_forward float32 H=6 N=3", "rnn_backward float32 H=6 N=3"}


def test_tune_needs_a_gpu_and_proposes_no_other_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_cupy() -> None:
        raise ModuleNotFoundError("No module named 'cupy'", name="cupy")

    monkeypatch.setattr(capgpu.array_libraries, "_import_cupy", no_cupy)
    result = run("tune")
    refused(result, "CuPy is not installed. Install it with: pip install 'cupy-cuda13x[ctk]")
    assert "without a GPU there is nothing to tune" in result.stderr
    assert "CAPGPU_BACKEND" not in result.stderr
