"""The number of threads: from the environment, or the processors that this process may use."""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path

from capgpu.distributed.launch import launch
from capgpu.errors import InvalidValueError

__all__ = ["thread_count", "usable_processors"]


def thread_count() -> int:
    """Return the number of threads for the host's kernels and for reading pictures.

    Returns
    -------
    int
        ``CAPGPU_THREADS``; else the first number of ``OMP_NUM_THREADS`` (a list has one number for each level of
        nesting: ``4,3,2`` means 4); else the number of usable processors.

    Raises
    ------
    ValueError
        If ``CAPGPU_THREADS`` is not a number of threads.

    Warns
    -----
    RuntimeWarning
        If ``OMP_NUM_THREADS`` is not a number of threads. It is then ignored, since other programs read it too.
    """
    setting = os.environ.get("CAPGPU_THREADS", "").strip()
    if setting:
        count = _positive(setting)
        if count is None:
            raise InvalidValueError(
                f"CAPGPU_THREADS: expected a number of threads, at least 1, got {setting!r}. "
                "Unset it to use all processors."
            )
        return count
    shared = os.environ.get("OMP_NUM_THREADS", "").strip()
    return (_first_of_list(shared) if shared else None) or usable_processors()


@functools.cache
def _first_of_list(setting: str) -> int | None:
    # cached: one warning for each setting
    count = _positive(setting.split(",")[0].strip())
    if count is None:
        warnings.warn(
            f"OMP_NUM_THREADS: expected a number of threads, at least 1, or a list of them, got {setting!r}; it is "
            "ignored. CAPGPU_THREADS sets the number of threads of capgpu alone.",
            RuntimeWarning,
            stacklevel=3,
        )
    return count


def _positive(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


@functools.cache
def usable_processors() -> int:
    """Return how many processors this process may use: its affinity, and the CPU quota of its container.

    Returns
    -------
    int
        At least 1. A quota is rounded down: threads above it are stopped for most of each period. Ranks on one machine
        (`capgpu.distributed`) divide them, unless the launcher has bound each rank to some.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    place = launch()
    ranks = 1 if place is None else place.local_size
    quota = cgroup_quota(Path("/"))
    if ranks > 1 and not _is_bound():
        count //= ranks
    return max(1, count if quota is None else min(count, int(quota / ranks)))


def _is_bound() -> bool:
    """Return whether the launcher has restricted this process to fewer processors than itself."""
    try:
        return os.sched_getaffinity(0) < os.sched_getaffinity(os.getppid())
    except (AttributeError, OSError):
        return False


def cgroup_quota(root: Path) -> float | None:
    """Return the CPU quota of this process's control group, in processors.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are mounted.

    Returns
    -------
    float or None
        The lowest quota of the group and the groups that contain it (version 2: ``cpu.max``; version 1:
        ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``). None without a quota, or where no control groups are.
    """
    mount = root / "sys" / "fs" / "cgroup"
    quotas = []
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        _, _, fields = line.partition(":")
        controllers, _, path = fields.partition(":")
        if not controllers:
            top, read = mount, _quota_v2
        elif "cpu" in controllers.split(","):
            top, read = _v1_mount(mount, controllers), _quota_v1
        else:
            continue
        # In a container the path may be the host's, which is not mounted; the container's own group is the mount.
        folder = top / path.strip("/")
        while True:
            quota = read(folder)
            if quota is not None:
                quotas.append(quota)
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent
    return min(quotas, default=None)


def _v1_mount(mount: Path, controllers: str) -> Path:
    combined = mount / controllers
    return combined if combined.is_dir() else mount / "cpu"


def _quota_v2(folder: Path) -> float | None:
    fields = _read(folder / "cpu.max").split()
    return _ratio(*fields) if len(fields) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    # no quota: "max" in version 2, -1 in version 1
    amount, length = _positive(quota.strip()), _positive(period.strip())
    return amount / length if amount and length else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
