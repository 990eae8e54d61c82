"""Ranks on one machine that find no kernels on the disk compile each of them once."""

from __future__ import annotations

import json

import pytest

CODE = """
import json
import numpy as np
from numba.core import event
from capgpu.distributed import communicator
from capgpu.kernels.cpu import KERNELS, claims

ranks = communicator()
assert claims.claims.active
ranks.barrier()
with event.install_recorder("numba:compile") as recorder:
    assert KERNELS.column_sums(np.ones((2, 3), np.float32)).tolist() == [2.0] * 3
starts = [each.data for _, each in recorder.buffer if each.is_start]
print(json.dumps([f"{data['dispatcher'].py_func.__qualname__} of {data['args']}" for data in starts]))
"""


@pytest.mark.nightly
def test_cold_ranks_compile_each_kernel_once(ranks, tmp_path):
    result = ranks(
        2, code=CODE, NUMBA_CACHE_DIR=str(tmp_path), CAPGPU_BACKEND="cpu", CAPGPU_THREADS="1", CAPGPU_COMPILE_AHEAD="0"
    )
    assert result.returncode == 0, result.stderr
    compiled = [name for line in result.stdout.splitlines() for name in json.loads(line)]
    assert any("_sum_columns" in name for name in compiled)
    assert len(compiled) == len(set(compiled))
    assert not list(tmp_path.rglob("*.lock"))
