"""The staging folder ``preparing/`` of a preparation, inside of its output folder.

It contains the settings, the features computed so far, and finally the finished data set, whose files are then moved to
the output folder. A killed process leaves the earlier data set, the new one, or a preparation that can be resumed with
the same settings.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capgpu.checkpoint import atomic_write
from capgpu.data.picture_folder import is_companion
from capgpu.data.prepared_dataset import ENCODER_FILES, MANIFEST, is_prepared
from capgpu.data.text_files import DataFileError, read_json
from capgpu.errors import InvalidValueError
from capgpu.new_folder import create_folder

__all__ = ["check_output_folder", "open_staging", "publish"]

_STAGING = "preparing"
_SETTINGS = "settings.json"


def check_output_folder(folder: Path, force: bool) -> None:
    """Check that a data set may be prepared in a folder.

    Parameters
    ----------
    folder : path
        The output folder; it need not exist.
    force : bool
        Whether a prepared data set in it may be replaced.

    Raises
    ------
    ValueError
        If the folder contains a finished data set and `force` is false, or other files.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidValueError(f"{folder}: expected a folder, got a file.")
    if is_prepared(folder):
        if not force:
            raise InvalidValueError(
                f"{folder}: expected a folder without a finished data set. Name another one, or overwrite it with "
                "--force."
            )
    elif folder.exists() and not (folder / _STAGING / _SETTINGS).is_file():
        other = sorted(
            entry.name for entry in folder.iterdir() if entry.name != _STAGING and not is_companion(entry.name)
        )
        if other:
            raise InvalidValueError(
                f"{folder}: expected a new, an empty or a prepared folder, got one with {', '.join(other[:3])}."
            )


def open_staging(folder: Path, settings: Mapping[str, Any], force: bool) -> Path:
    """Create the staging folder of a preparation, or open that of an interrupted one.

    Parameters
    ----------
    folder : path
        The output folder.
    settings : mapping
        Everything that the result depends on, as JSON can hold it.
    force : bool
        Whether a data set or a preparation with other settings in it may be replaced. Features computed with the same
        settings are kept.

    Returns
    -------
    pathlib.Path
        The staging folder.

    Raises
    ------
    ValueError
        As `check_output_folder`, and, without `force`, for a preparation with other settings.
    OSError
        If a file cannot be read or written.
    """
    check_output_folder(folder, force)
    work = folder / _STAGING
    settings_file = work / _SETTINGS
    requested = json.loads(json.dumps(settings))
    if settings_file.is_file():
        stored = _stored_settings(settings_file)
        if stored == requested:
            return work
        if not force:
            names = sorted(name for name in stored.keys() | requested.keys() if stored.get(name) != requested.get(name))
            raise InvalidValueError(
                f"{folder}: expected the settings of the unfinished preparation, got others ({', '.join(names)}). "
                "Resume it with the same settings, or start over with --force."
            )
    create_folder(work)
    for entry in work.iterdir():
        # the settings are replaced last: without them, a process killed here would leave a folder of unknown files
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != settings_file:
            entry.unlink()
    with atomic_write(settings_file, "w") as file:
        json.dump(requested, file)
    return work


def _stored_settings(path: Path) -> dict[str, Any]:
    try:
        stored = read_json(path)
    except DataFileError:
        stored = None
    return stored if isinstance(stored, dict) else {}


def publish(finished: Path, folder: Path) -> None:
    """Move a finished data set to its output folder, replacing the data set in it.

    Parameters
    ----------
    finished : path
        The folder of the data set, inside of the staging folder.
    folder : path
        The output folder, on the same file system.

    Raises
    ------
    OSError
        If a file cannot be moved.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    for captions in list(folder.glob("*_captions.npy")):  # earlier splits may have had other names
        split = captions.name.removesuffix("_captions.npy")
        for name in (f"{split}.json", f"{split}_image_idxs.npy", f"{split}_features.npy", captions.name):
            (folder / name).unlink(missing_ok=True)
    for name in ENCODER_FILES:
        (folder / name).unlink(missing_ok=True)
    for file in sorted(finished.iterdir(), key=lambda file: (file.name == MANIFEST, file.name)):
        os.replace(file, folder / file.name)
