"""Memory of the host that is free for new arrays."""

from __future__ import annotations

from pathlib import Path

__all__ = ["free_host_memory"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_host_memory() -> int | None:
    """Return the memory that can be taken without swapping, within the limit of the container.

    Returns
    -------
    int or None
        Bytes; None where the system does not tell (it does on Linux).
    """
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return max(min(free, limit), 0)
