"""Free memory of the host: the system's, within a container's limit, and unknown if nothing reports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from capgpu import host_memory
from capgpu.host_memory import free_host_memory


@pytest.mark.parametrize(
    ("limit", "free"), [(None, 4096 * 1024), ("max\n", 4096 * 1024), ("3000000\n", 2000000), ("900000\n", 0)]
)
def test_the_smaller_of_system_and_container_counts(
    limit: str | None, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  9999 kB\nMemAvailable:  4096 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(host_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "_CGROUP", tmp_path)
    assert free_host_memory() == free
    (tmp_path / "meminfo").unlink()
    assert free_host_memory() is None
