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
print(out.tolist(), sum(embedding._launch_add_rows.stats.cache_hits.values()))
"""
UPDATE = """
import hashlib
import numpy as np
from capgpu.kernels.cpu import optimizer
random = np.random.default_rng(0)
arrays = [[random.uniform(0, 1, 500 + k).astype(np.float32) for k in range(8)] for _ in range(4)]
settings = np.tile([0.03, 0.9, 0.1, 0.999, 0.001, 30.0, 1e-8, 1.0], (8, 1))
results = optimizer.adam_update(*arrays, settings, 0.7)
digest = hashlib.sha256(b"".join(array.tobytes() for some in results for array in some)).hexdigest()
print(digest, sum(optimizer._launch_adam.stats.cache_hits.values()))
"""


def run(folder: Path, script: str = SCRIPT) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "CAPGPU_THREADS": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def copy_package(folder: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.npz", "*.png")
    shutil.copytree(Path(capgpu.__file__).parent, folder / "capgpu", ignore=ignore)
    shutil.copytree(Path(capgpu.kernels.__file__).parent, folder / "capgpu" / "kernels", ignore=ignore)


def test_a_change_in_a_file_that_is_compiled_in_is_noticed(tmp_path):
    copy_package(tmp_path)
    assert run(tmp_path) == "[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]] 0"
    assert run(tmp_path) == "[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]] 1"
    with (tmp_path / "capgpu" / "kernels" / "cpu" / "units.py").open("a") as other:
        other.write("\n")
    assert run(tmp_path) == "[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]] 0"


def test_code_from_the_disk_gives_the_bits_of_code_that_was_just_compiled(tmp_path):
    copy_package(tmp_path)
    compiled, hits = run(tmp_path, UPDATE).split()
    loaded, more_hits = run(tmp_path, UPDATE).split()
    assert (hits, more_hits) == ("0", "1")
    assert loaded == compiled
