"""Where memory is short, kernels raise MemoryError before LLVM ends the process, and work once there is more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import capgpu
from capgpu.kernels.reserve import require_memory

resource = pytest.importorskip("resource", reason="this system has no limits on address space")

SCRIPT = """
import resource
import sys
import numpy as np
import capgpu
from capgpu.kernels import kernels_for
from capgpu.kernels.loading import undisturbed

capgpu.set_backend("cpu")
rows, tokens = np.ones((2, 3), np.float32), np.array([1, 1])
if sys.argv[1] != "import":
    kernels_for(rows)
    undisturbed(abs, -1)  # a thread has its own heap
if sys.argv[1] == "load":
    kernels_for(rows).embedding_gradient(rows.astype(np.float64), tokens, 2)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20, hard))
try:
    kernels_for(rows).embedding_gradient(rows, tokens, 2)
except MemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
print(kernels_for(rows).embedding_gradient(rows, tokens, 2).tolist())
"""


def test_available_memory_is_granted():
    for _ in range(100):
        require_memory(64 << 20, "test")


def test_a_refusal_gives_the_required_bytes_and_a_remedy():
    with pytest.raises(MemoryError, match=r"expected 1073741824 MiB of free address space to test.*ulimit -v.*numpy"):
        require_memory(1 << 50, "test")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not show its address space")
@pytest.mark.parametrize(("moment", "room"), [("import", 150), ("load", 30), ("compile", 100)])
def test_kernels_check_memory_before_they_import_load_and_compile(moment, room, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, moment, str(room)],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(capgpu.__file__).parents[1]),
            "NUMBA_CACHE_DIR": str(tmp_path),
            "OPENBLAS_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    refusal, result = done.stdout.splitlines()
    assert f" to {moment} " in refusal
    assert result == "[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]"


LEAKS = """
import resource
import numpy as np
from capgpu.kernels.cpu import embedding

def address_space():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

rows, tokens, size = np.ones((2, 1), np.float32), np.array([1, 1]), 20_000_000
embedding.embedding_gradient(rows, tokens, 2)
used = address_space()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
# for the result (80 MB) and three quarters of the 320 MB that the task wants besides; the heap has some that is free
resource.setrlimit(resource.RLIMIT_AS, (used + 320 * 10**6, hard))
sizes = []
for _ in range(5):
    try:
        embedding.embedding_gradient(rows, tokens, size)
    except MemoryError as error:
        print(error)
    sizes.append(address_space())
print(sizes[-1] - sizes[0])  # the C library makes another heap at the first failure
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not show its address space")
def test_a_task_without_memory_leaks_none(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(capgpu.__file__).parents[1]),
        "NUMBA_CACHE_DIR": str(tmp_path),
        "CAPGPU_THREADS": "1",
    }
    # compiled by another process: compiling leaves much free memory on the heap
    for script in (LEAKS.partition("used =")[0], LEAKS):
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=800
        )
        assert done.returncode == 0, done.stderr
    *refusals, leaked = done.stdout.splitlines()
    assert len(refusals) == 5
    assert all("expected memory for the temporary arrays" in refusal for refusal in refusals)
    assert int(leaked) < 10_000_000
