"""Compiled code on disk is used again, and never once any of its sources has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import capgpu
import capgpu.kernels

SCRIPT = """
import sys
import numpy as np
from capgpu.kernels.cpu import embedding
out = embedding.embedding_gradient(np.ones((2, 3)), np.array([1, 1]), 2)
print(out.tolist(), sum(embedding._add_rows.stats.cache_hits.values()))
"""


def run(folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "CAPGPU_THREADS": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_change_in_a_file_that_is_compiled_in_is_noticed(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", "*.npz", "*.png")
    shutil.copytree(Path(capgpu.__file__).parent, tmp_path / "capgpu", ignore=ignore)
    shutil.copytree(Path(capgpu.kernels.__file__).parent, tmp_path / "capgpu" / "kernels", ignore=ignore)
    assert run(tmp_path) == "[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]] 0"
    assert run(tmp_path) == "[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]] 1"
    with (tmp_path / "capgpu" / "kernels" / "cpu" / "units.py").open("a") as other:
        other.write("\n")
    assert run(tmp_path) == "[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]] 0"
