"""Description of the machine of a measurement: processor, memory, system, versions, commit."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.process import ROOT


def processor() -> str:
    """Return the processor's name with its family, model, stepping and vector unit, as far as the system has them."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in info.read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", platform.machine())
    numbers = "/".join(fields.get(key, "?") for key in ("cpu family", "model", "stepping"))
    flags = fields.get("flags", "").split()
    vector_unit = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "no AVX2")
    return f"{name} (family/model/stepping {numbers}, {vector_unit})"


def memory_gib() -> float | None:
    """Return the physical memory in GiB, or None if the system does not report it."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2**30
    except (ValueError, OSError):
        return None


def commit() -> str:
    """Return the source's commit, marked if the library's files differ from it; ``"unknown"`` without git."""
    try:
        run = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
        name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **run).stdout.strip()  # type: ignore[call-overload]
        dirty = subprocess.run(["git", "status", "--porcelain", "capgpu", "kernels"], **run).stdout  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}{' with changes' if dirty.strip() else ''}"


def describe(versions: dict[str, str], threads: int | None) -> dict[str, str]:
    """Return the conditions of a measurement, which are listed above its tables."""
    memory = memory_gib()
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "memory": "unknown" if memory is None else f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **versions,
        "threads": "library defaults" if threads is None else str(threads),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", "bench.run", *sys.argv[1:]]),
    }
