"""The kernels agree with the reference on x86 processors of all vector units that this one can stand in for."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INFORMATION = Path("/proc/cpuinfo")
#: Numba's name of a processor, the features of it that the kernels look for, and what they make of them.
UNITS = {
    "sse2": ("x86-64", ["sse2"], "vectors of 16 bytes, separate multiply and add"),
    "avx": ("sandybridge", ["sse2", "avx"], "vectors of 32 bytes, separate multiply and add"),
    "avx2": ("haswell", ["sse2", "avx", "avx2", "fma"], "vectors of 32 bytes, fused multiply and add"),
}

pytestmark = [
    pytest.mark.nightly,  # compiles everything that a model needs
    pytest.mark.skipif(platform.machine() != "x86_64" or not INFORMATION.exists(), reason="no x86 processor of Linux"),
]


@pytest.mark.parametrize("unit", UNITS)
def test_kernels_of_other_vector_units_agree_with_the_reference(unit, tmp_path):
    name, features, expected = UNITS[unit]
    if not set(features) <= set(INFORMATION.read_text().split()):
        pytest.skip(f"this processor has no {unit}")
    done = subprocess.run(
        [sys.executable, "-m", "tools.check_host_kernels", "lstm"],
        cwd=ROOT,
        env={
            **os.environ,
            "NUMBA_CPU_NAME": name,
            "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in features),
            "NUMBA_CACHE_DIR": str(tmp_path),
            "CAPGPU_BACKEND": "cpu",
        },
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(expected)
