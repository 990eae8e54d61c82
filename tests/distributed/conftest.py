"""Processes under a real mpiexec."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

#: The result of `subprocess.run`, and its stdout by lines in any order.
Ranks = Callable[..., "subprocess.CompletedProcess[str]"]


def find_mpiexec() -> str:
    """Return the mpiexec of the MPI that mpi4py uses, or skip the test."""
    pytest.importorskip("mpi4py", reason="mpi4py (the extra mpi) is not installed: no ranks")
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("no mpiexec (the extra mpi): no ranks")
    return found


def rank_environment(**changes: str) -> dict[str, str]:
    """Return the environment of ranks that are as small as can be."""
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "CAPGPU_BACKEND": "numpy",
        "OPENBLAS_NUM_THREADS": "1",
        "CAPGPU_RANK_TIMEOUT": "60",
        "PYTHONUNBUFFERED": "",  # a line and its end would be written apart, and lines of several ranks mixed
        **changes,
    }


@pytest.fixture(scope="session")
def ranks() -> Ranks:
    """Run Python code, or arguments of Python, in several ranks."""
    mpiexec = find_mpiexec()

    def run(size: int, *arguments: str, code: str = "", timeout: float = 120, **environment: str):
        command = [sys.executable, *(("-c", textwrap.dedent(code)) if code else ()), *arguments]
        return subprocess.run(
            [mpiexec, "-n", str(size), *command],
            env=rank_environment(**environment),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
