"""Measured choices between the tiers of the recurrences, kept as JSON in the user's cache folder.

``capgpu/tuning.json`` in ``XDG_CACHE_HOME``, or ``~/.cache``:
``{"format": 1, "devices": {device: {"lstm_forward float32 H=512 N=64": {"tier": "persistent", "units": 8}}}}``.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from capgpu.cache_folder import cache_folder
from capgpu.errors import InvalidValueError

__all__ = ["forget", "lookup", "path", "shape_key", "store", "stored"]

_FORMAT = 1

_devices: dict[str, dict[str, tuple[str, int]]] | None = None


def path() -> Path:
    """Return where the choices are kept."""
    return cache_folder() / "tuning.json"


def shape_key(name: str, dtype: str, H: int, N: int) -> str:
    """Return the name of a shape: pass, storage type, hidden units, sequences."""
    return f"{name} {dtype} H={H} N={N}"


def forget() -> None:
    """Forget what was read: the file is read again when a choice is next asked for."""
    global _devices
    _devices = None


def lookup(device: str, key: str) -> tuple[str, int] | None:
    """Look up a measured choice.

    Parameters
    ----------
    device : str
        The device's name.
    key : str
        From `shape_key`.

    Returns
    -------
    tuple of (str, int) or None
        Tier and units of a block; None where nothing was measured. A file that cannot be read or understood counts
        as absent, with a warning once.
    """
    return _load().get(device, {}).get(key)


def stored(device: str) -> dict[str, tuple[str, int]]:
    """Return all measured choices for a device: tier and units of a block by `shape_key`."""
    return dict(_load().get(device, {}))


def store(device: str, measured: dict[str, tuple[str, int]]) -> Path | None:
    """Keep measured choices beside those kept before; they hold in this process in any case.

    Parameters
    ----------
    device : str
        The device's name.
    measured : dict
        Tier and units of a block by `shape_key`.

    Returns
    -------
    Path or None
        The file; None where it cannot be written, with a warning.
    """
    target = path()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.parent):
            forget()  # another process may have stored its own since
            _keep(target, _updated(device, measured))
    except OSError as error:
        _updated(device, measured)
        warnings.warn(
            f"the measured choices cannot be kept ({error}): they hold in this process alone. Set XDG_CACHE_HOME to "
            "a folder that can be written.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return target


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time read the choices, add to them and write them: no choice of another gets lost.

    Where folders cannot be locked (Windows) nothing waits, and of two that write at once the later one's choices stay.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _updated(device: str, measured: dict[str, tuple[str, int]]) -> dict[str, dict[str, tuple[str, int]]]:
    devices = _load()
    devices.setdefault(device, {}).update(measured)
    return devices


def _keep(target: Path, devices: dict[str, dict[str, tuple[str, int]]]) -> None:
    from capgpu.checkpoint import atomic_write

    content = {
        "format": _FORMAT,
        "devices": {
            name: {key: {"tier": tier, "units": units} for key, (tier, units) in sorted(shapes.items())}
            for name, shapes in sorted(devices.items())
        },
    }
    with atomic_write(target, "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def _load() -> dict[str, dict[str, tuple[str, int]]]:
    global _devices
    if _devices is None:
        try:
            _devices = _understood(json.loads(path().read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            _devices = {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(
                f"{path()} is not used: {type(error).__name__}: {error}. capgpu tune writes it anew.",
                RuntimeWarning,
                stacklevel=3,
            )
            _devices = {}
    return _devices


def _understood(content: Any) -> dict[str, dict[str, tuple[str, int]]]:
    if content["format"] != _FORMAT:
        raise InvalidValueError(f"format {content['format']!r}; wanted {_FORMAT}")
    return {
        device: {key: (str(choice["tier"]), int(choice["units"])) for key, choice in shapes.items()}
        for device, shapes in content["devices"].items()
    }
