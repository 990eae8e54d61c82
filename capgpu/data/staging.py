"""Where a preparation works: ``preparing/``, in the folder that it makes.

It holds the settings, the features computed so far, and at last the finished data set, whose files are then moved up.
A kill leaves the data set that was there before, or the new one, or a preparation that the same settings take up.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capgpu.checkpoint import atomic_write
from capgpu.data.prepared_dataset import ENCODER_FILES, MANIFEST, is_prepared
from capgpu.data.text_files import DataFileError, read_json

__all__ = ["check_output_folder", "open_staging", "publish"]

_WORK = "preparing"
_SETTINGS = "settings.json"


def check_output_folder(folder: Path, force: bool) -> None:
    """Check that a data set may be prepared in a folder.

    Parameters
    ----------
    folder : path
        It need not be there.
    force : bool
        Whether what was prepared there may go.

    Raises
    ------
    ValueError
        If it holds a finished data set, without `force`, or something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Name a folder.")
    if is_prepared(folder):
        if not force:
            raise ValueError(f"{folder} holds a finished data set. Name another folder, or overwrite it with --force.")
    elif folder.exists() and not (folder / _WORK / _SETTINGS).is_file():
        other = sorted(entry.name for entry in folder.iterdir() if entry.name != _WORK)
        if other:
            raise ValueError(f"{folder} holds something else ({', '.join(other[:3])}). Name a new or an empty folder.")


def open_staging(folder: Path, settings: Mapping[str, Any], force: bool) -> Path:
    """Begin a preparation, or take up the one that was interrupted.

    Parameters
    ----------
    folder : path
        What is to be made.
    settings : mapping
        All that the result depends on, as JSON can hold it.
    force : bool
        Whether what was prepared there may go, finished or not. What was computed with the same settings stays.

    Returns
    -------
    pathlib.Path
        The folder to work in.

    Raises
    ------
    ValueError
        As `check_output_folder`, and, without `force`, for a preparation with other settings, naming them.
    OSError
        As the system gives it.
    """
    check_output_folder(folder, force)
    work = folder / _WORK
    noted = work / _SETTINGS
    wanted = json.loads(json.dumps(settings))
    if noted.is_file():
        stored = _noted(noted)
        if stored == wanted:
            return work
        if not force:
            names = sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name))
            raise ValueError(
                f"{folder} holds an unfinished preparation with other settings ({', '.join(names)}). Go on with the "
                "same ones, or start over with --force."
            )
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    with atomic_write(noted, "w") as file:
        json.dump(wanted, file)
    return work


def _noted(path: Path) -> dict[str, Any]:
    try:
        stored = read_json(path)
    except DataFileError:
        stored = None
    return stored if isinstance(stored, dict) else {}


def publish(finished: Path, folder: Path) -> None:
    """Move a finished data set into its folder, in the place of the one there.

    Parameters
    ----------
    finished : path
        The folder that holds it, beside the settings of its preparation.
    folder : path
        Where it belongs, on the same file system.

    Raises
    ------
    OSError
        As the system gives it.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    for captions in list(folder.glob("*_captions.npy")):  # the old splits may have had other names
        split = captions.name.removesuffix("_captions.npy")
        for name in (f"{split}.json", f"{split}_image_idxs.npy", f"{split}_features.npy", captions.name):
            (folder / name).unlink(missing_ok=True)
    for name in ENCODER_FILES:
        (folder / name).unlink(missing_ok=True)
    for file in sorted(finished.iterdir(), key=lambda file: (file.name == MANIFEST, file.name)):
        os.replace(file, folder / file.name)
