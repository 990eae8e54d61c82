"""capgpu warm compiles what is needed; capgpu info prints where it is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import capgpu
import capgpu.array_libraries
import capgpu.warm
from capgpu.cli import main
from capgpu.data import emoji
from capgpu.decode import beam_search, sample
from capgpu.kernels.cpu import code_cache
from oracles.compilations import compilations


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return code_cache.folder()


def test_info_shows_where_compiled_kernels_are_and_their_size(cache):
    for k in range(3):
        file = cache / f"{k:016x}" / "lstm._forward.nbc"
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(500_000))
    shown = CliRunner(env={"COLUMNS": "200", "CAPGPU_BACKEND": "cpu"}).invoke(main, ["info"])
    assert shown.exit_code == 0
    words = "".join(shown.stdout.split())
    assert f"compiledkernels{cache}(3files,1.5MB)" in words


def test_info_without_compiled_kernels(cache):
    assert code_cache.described() == f"{cache} (0 files, 0.0 MB)"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_command_names_the_time_and_the_folder(cache, monkeypatch, dtype):
    asked = []
    monkeypatch.setattr(capgpu.warm, "warm", lambda dtype: asked.append(dtype) or 2.5)
    result = CliRunner().invoke(main, ["warm", "--dtype", dtype])
    assert (result.exit_code, asked) == (0, [dtype])
    assert result.stdout == f"Ready after 2.5 s. Compiled kernels are in {cache} (0 files, 0.0 MB).\n"


def test_without_the_backend_cpu_the_command_says_why(monkeypatch):
    monkeypatch.setattr(capgpu.array_libraries, "compilation_disabled", lambda: True)
    result = CliRunner().invoke(main, ["warm"])
    assert result.exit_code == 2
    assert "backend 'cpu': expected Numba to compile, got NUMBA_DISABLE_JIT=1. Unset that variable" in result.stderr


def test_after_warming_a_model_compiles_nothing(random):
    assert capgpu.warm.warm(np.float32, ["lstm"]) > 0
    before = compilations()
    assert before > 0
    capgpu.set_backend("cpu")
    data = emoji.load()
    model = capgpu.CaptioningRNN(data["word_to_idx"], 256, 32, 48, "lstm", seed=0, output_dropout=0.3)
    capgpu.CaptioningSolver(model, data, "adam", batch_size=512, num_epochs=1, seed=0, verbose=False).train()
    model.sample(data["test_features"][:5], stop_at_end=True)
    beam_search(model, data["test_features"][:2], 3, max_length=5)
    sample(model, data["test_features"][:2], seed=0, top_p=0.9)
    rounded = capgpu.CaptioningRNN(data["word_to_idx"], 256, 32, 48, "lstm", seed=0, precision="bf16")
    rounded.loss(data["test_features"][:64], data["test_captions"][:64])
    rounded.sample(data["test_features"][:64])
    tied = capgpu.CaptioningRNN(data["word_to_idx"], 256, 48, 48, "lstm", seed=0, tie_weights=True, label_smoothing=0.1)
    for rule in ("adam", "sgd_momentum"):
        capgpu.CaptioningSolver(tied, data, rule, batch_size=512, num_epochs=1, seed=0, verbose=False).train()
    assert compilations() == before


WITH_ONE_THREAD = """
import capgpu.array_libraries
import capgpu.warm
capgpu.warm._use = lambda model, count: None
capgpu.warm.warm()
"""


def test_warming_with_one_thread_compiles_what_workers_run(tmp_path):
    environment = {
        **os.environ,
        "CAPGPU_THREADS": "1",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(capgpu.__file__).parents[1]),
    }
    subprocess.run(
        [sys.executable, "-c", WITH_ONE_THREAD], env=environment, capture_output=True, timeout=800, check=True
    )
    entries = {file.name.rpartition("-")[0] for file in tmp_path.rglob("*.nbc")}
    assert {"job_slot.initialize", "job_slot.serve", "job_slot.wake_all"} <= entries
