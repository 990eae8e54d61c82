"""Measured algorithms of the recurrences, stored as JSON in the user's cache folder.

``capgpu/tuning.json`` in ``XDG_CACHE_HOME``, or ``~/.cache``:
``{"format": 2, "devices": {device: {"lstm_forward float32 H=512 N=64": {"algorithm": "persistent", "units": 8}}}}``.
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
from capgpu.file_formats.content import read_content
from capgpu.file_formats.json_text import JsonObject, parse_json

__all__ = ["forget", "lookup", "path", "shape_key", "store", "stored"]

_FORMAT = 2
_MOST_BYTES = 1 << 26

_devices: dict[str, dict[str, tuple[str, int]]] | None = None


def path() -> Path:
    """Return the path of the file."""
    return cache_folder() / "tuning.json"


def shape_key(name: str, dtype: str, H: int, N: int) -> str:
    """Return the name of a shape: pass, storage type, hidden units, sequences."""
    return f"{name} {dtype} H={H} N={N}"


def forget() -> None:
    """Clear what was read: the next lookup reads the file again."""
    global _devices
    _devices = None


def lookup(device: str, key: str) -> tuple[str, int] | None:
    """Return the measured algorithm of a shape.

    Parameters
    ----------
    device : str
        The device's name.
    key : str
        From `shape_key`.

    Returns
    -------
    tuple of (str, int) or None
        Algorithm and units of a block; None where nothing was measured. A file that cannot be read or parsed counts
        as absent, with one warning.
    """
    return _load().get(device, {}).get(key)


def stored(device: str) -> dict[str, tuple[str, int]]:
    """Return all measurements for a device: algorithm and units of a block by `shape_key`."""
    return dict(_load().get(device, {}))


def store(device: str, measured: dict[str, tuple[str, int]]) -> Path | None:
    """Add measurements to the file; they apply in this process in any case.

    Parameters
    ----------
    device : str
        The device's name.
    measured : dict
        Algorithm and units of a block by `shape_key`.

    Returns
    -------
    Path or None
        The file; None where it cannot be written, with a warning.
    """
    target = path()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            forget()  # another process may have stored its own since
            _write(target, _updated(device, measured))
    except OSError as error:
        _updated(device, measured)
        warnings.warn(
            f"the measurements cannot be stored ({error}): they apply in this process only. Set XDG_CACHE_HOME to "
            "a writable folder.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return target


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder, so that no other process's measurements are lost between reading and writing.

    Where folders cannot be locked (Windows), of two processes that write at once the later one wins.
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


def _write(target: Path, devices: dict[str, dict[str, tuple[str, int]]]) -> None:
    from capgpu.checkpoint import atomic_write

    content = {
        "format": _FORMAT,
        "devices": {
            name: {key: {"algorithm": algorithm, "units": units} for key, (algorithm, units) in sorted(shapes.items())}
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
            _devices = _parsed(parse_json(read_content(path(), _MOST_BYTES, InvalidValueError), InvalidValueError))
        except (FileNotFoundError, NotADirectoryError):
            _devices = {}
        except (OSError, InvalidValueError) as error:
            warnings.warn(
                f"{path()} is not used: {str(error).rstrip('.')}. capgpu tune writes a new one.",
                RuntimeWarning,
                stacklevel=3,
            )
            _devices = {}
    return _devices


def _parsed(content: Any) -> dict[str, dict[str, tuple[str, int]]]:
    stored = JsonObject(content, "content", InvalidValueError)
    stored.format(_FORMAT)
    return {
        device: {key: (entry.text("algorithm"), entry.integer("units")) for key, entry in shapes.objects().items()}
        for device, shapes in stored.object("devices").objects().items()
    }
