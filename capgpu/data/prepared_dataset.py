"""A prepared folder: a data set as training maps it into memory, written whole or not at all.

The folder holds

prepared.json
    The manifest, written last: its presence says that all else is there. Format, tokeniser, settings and report of the
    preparation, and size and checksum of every other file.
vocabulary.json
    All words in the order of their ids.
SPLIT_captions.npy, SPLIT_image_idxs.npy, SPLIT_features.npy
    The arrays of the course's data dictionary.
SPLIT.json
    ``texts`` (the raw captions), ``image_ids`` and, where the pictures are files, ``files``.
encoder.json, encoder.safetensors
    The encoder that made the features, where one did: what a picture from elsewhere has to go through.
checked.json
    Size, time of the last change and inode of each file of features when it matched its checksum: only one that has
    changed since is read again when the folder is opened. It is no part of the data, and may be deleted.

Features are finite when they are written, so that those that match their checksum need no further check.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from capgpu.checkpoint import CheckpointError, atomic_write
from capgpu.data.arrays import known_finite, splits_of, validate_data
from capgpu.data.text_files import DataFileError, read_json, read_text

__all__ = [
    "ENCODER_FILES",
    "MANIFEST",
    "Manifest",
    "is_prepared",
    "load_prepared",
    "read_manifest",
    "save_prepared",
    "verify_prepared",
]

#: The file whose presence makes a folder a prepared one.
MANIFEST = "prepared.json"
#: What an encoder is saved as; not all encoders have the second.
ENCODER_FILES = ("encoder.json", "encoder.safetensors")

#: What is known of the state of the other files.
_CHECKED = "checked.json"
_FORMAT = "capgpu-prepared-1"
_ARRAYS = ("captions", "image_idxs", "features")
_LISTS = ("texts", "image_ids", "files")
_ROWS_AT_ONCE = 8192

#: Size and checksum of a prepared folder's files, by name.
_Files = dict[str, tuple[int, str]]


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder says of itself.

    Attributes
    ----------
    tokens : str
        The tokeniser, one of `capgpu.tokens.TOKENIZERS`.
    splits : list of str
        The splits it holds.
    settings, report : dict
        What the preparation was asked for, and what it found.
    encoder : bool
        Whether the folder holds the encoder of its features.
    identity : str
        Differs between folders of different contents.
    """

    tokens: str
    splits: list[str]
    settings: dict[str, Any]
    report: dict[str, Any]
    encoder: bool
    identity: str


def is_prepared(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder holds a prepared data set, complete."""
    return (Path(folder) / MANIFEST).is_file()


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read a prepared folder's manifest, and check that its files are there and unchanged.

    Files of features, which may be large, are read only where they have changed since they last matched their checksum.

    Parameters
    ----------
    folder : path
        The folder.

    Returns
    -------
    Manifest
        What it says.

    Raises
    ------
    CheckpointError
        If the folder is missing, no prepared one or damaged, or a file is missing or not as it was written.
    """
    path = Path(folder)
    manifest, files = _manifest(path)
    known = _checked(path)
    fresh = {}
    for name, (size, checksum) in files.items():
        _check_size(path / name, size)
        if not name.endswith("_features.npy"):
            _check_contents(path / name, checksum)
            continue
        # taken before the file is read: what changes meanwhile is read again next time
        fresh[name] = _state(path / name)
        if known.get(name) != fresh[name]:
            _check_contents(path / name, checksum)
    if fresh != known:
        with suppress(OSError):  # a folder that cannot be written is checked every time
            _write_json(path / _CHECKED, fresh)
    return manifest


def verify_prepared(folder: str | os.PathLike[str]) -> list[str]:
    """Read all files of a prepared folder and compare them with their checksums.

    Parameters
    ----------
    folder : path
        The folder.

    Returns
    -------
    list of str
        The names of the files, the manifest's not among them.

    Raises
    ------
    CheckpointError
        If the folder is missing, no prepared one or damaged, naming every file that is missing or not as it was
        written.
    """
    path = Path(folder)
    files = _manifest(path)[1]
    problems = []
    for name, (size, checksum) in files.items():
        try:
            _check_size(path / name, size)
            _check_contents(path / name, checksum)
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        # what has changed without a trace must not pass for unchanged when the folder is opened next
        with suppress(OSError):
            (path / _CHECKED).unlink(missing_ok=True)
        raise CheckpointError("\n".join(problems))
    return list(files)


def _manifest(path: Path) -> tuple[Manifest, _Files]:
    if not is_prepared(path):
        if path.exists() and not path.is_dir():
            raise CheckpointError(f"{path} is a file; wanted the prepared folder, which holds {MANIFEST}.")
        kind = "is no prepared data set" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {kind}: it has no {MANIFEST}. Make one with: capgpu prepare SOURCE -o {path}")
    try:
        text = read_text(path / MANIFEST)
        stored = json.loads(text)
        if stored["format"] != _FORMAT:
            raise ValueError(f"its format is {stored['format']!r}, wanted {_FORMAT!r}")
        files = {str(name): (int(entry["bytes"]), str(entry["crc32"])) for name, entry in stored["files"].items()}
        manifest = Manifest(
            tokens=stored["tokens"],
            splits=list(stored["splits"]),
            settings=dict(stored["settings"]),
            report=dict(stored["report"]),
            encoder=ENCODER_FILES[0] in files,
            identity=hashlib.sha256(text.encode()).hexdigest()[:16],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error}. Prepare the data anew.") from error
    return manifest, files


def _check_size(file: Path, size: int) -> None:
    found = file.stat().st_size if file.is_file() else None
    if found != size:
        state = "is missing" if found is None else f"has {found} bytes, not the {size} that were written"
        raise CheckpointError(f"{file} {state}: the prepared folder has changed. Prepare the data anew.")


def _check_contents(file: Path, checksum: str) -> None:
    if _crc32(file) != checksum:
        raise CheckpointError(f"{file} is damaged: it does not match its checksum. Prepare the data anew.")


def _state(file: Path) -> list[int]:
    """Describe a file by what a change of its contents changes, too."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _checked(path: Path) -> dict[str, Any]:
    """Read the states in which files matched their checksums; nothing where none are noted."""
    try:
        stored = read_json(path / _CHECKED)
    except (DataFileError, OSError):
        return {}
    return stored if isinstance(stored, dict) else {}


def load_prepared(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Open a prepared folder as the course's data dictionary.

    Parameters
    ----------
    folder : path
        The folder.

    Returns
    -------
    dict
        For each split, ``<split>_captions`` (N, T) int32 and ``<split>_image_idxs`` (N,) int64, mapped from their
        files; ``<split>_features`` (I, D) float32, a read-only numpy.memmap; ``<split>_texts``, ``<split>_image_ids``
        and, where the pictures are files, ``<split>_files``; and ``idx_to_word`` and ``word_to_idx``.

    Raises
    ------
    CheckpointError
        As `read_manifest`, and for files that are damaged.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    try:
        words = read_json(path / "vocabulary.json")
        data: dict[str, Any] = {"idx_to_word": words, "word_to_idx": {word: i for i, word in enumerate(words)}}
        for split in manifest.splits:
            for part in _ARRAYS:
                mapped = np.load(path / f"{split}_{part}.npy", mmap_mode="r", allow_pickle=False)
                # compiled code takes plain arrays; a memmap it stays where only rows are taken
                data[f"{split}_{part}"] = known_finite(mapped) if part == "features" else mapped.view(np.ndarray)
            data |= {f"{split}_{part}": values for part, values in read_json(path / f"{split}.json").items()}
    except (DataFileError, OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error} Prepare the data anew.") from error
    return data


def save_prepared(
    folder: str | os.PathLike[str],
    data: Mapping[str, Any],
    *,
    tokens: str = "plain",
    settings: Mapping[str, Any] | None = None,
    report: Mapping[str, Any] | None = None,
) -> None:
    """Write a data dictionary as a prepared folder, the manifest last.

    Parameters
    ----------
    folder : path
        Made if it is missing. An encoder to be kept with the data is saved there before.
    data : dict
        The course's data dictionary; ``<split>_texts``, ``<split>_image_ids`` and ``<split>_files`` are kept where
        they are there. Features are written in float32, some rows at a time.
    tokens : str
        The tokeniser of the captions, one of `capgpu.tokens.TOKENIZERS`.
    settings, report : mapping, optional
        What the preparation was asked for and what it found, as JSON can hold it.

    Raises
    ------
    TypeError, ValueError
        For data that `validate_data` refuses: nothing is written.
    OSError
        As the system gives it: the folder is then no prepared one.
    """
    splits = splits_of(data)
    validate_data(data, splits)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / MANIFEST).unlink(missing_ok=True)
    _write_json(path / "vocabulary.json", list(data["idx_to_word"]))
    names = ["vocabulary.json", *(name for name in ENCODER_FILES if (path / name).is_file())]
    for split in splits:
        for part, dtype in zip(_ARRAYS, (np.int32, np.int64, np.float32), strict=True):
            _write_array(path / f"{split}_{part}.npy", data[f"{split}_{part}"], dtype)
        lists = {part: list(data[f"{split}_{part}"]) for part in _LISTS if data.get(f"{split}_{part}") is not None}
        _write_json(path / f"{split}.json", lists)
        names += [f"{split}.json", *(f"{split}_{part}.npy" for part in _ARRAYS)]
    checked = {name: _state(path / name) for name in names if name.endswith("_features.npy")}
    manifest = {
        "format": _FORMAT,
        "tokens": tokens,
        "splits": splits,
        "settings": dict(settings or {}),
        "report": dict(report or {}),
        "files": {name: {"bytes": (path / name).stat().st_size, "crc32": _crc32(path / name)} for name in names},
    }
    _write_json(path / _CHECKED, checked)
    _write_json(path / MANIFEST, manifest)


def _write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    with atomic_write(path, "w") as file:
        json.dump(value, file, ensure_ascii=False, indent=1, allow_nan=False)
        file.write("\n")


def _write_array(path: Path, array: np.ndarray[Any, Any], dtype: type) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": array.shape}
    with atomic_write(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(array), _ROWS_AT_ONCE):
            file.write(np.ascontiguousarray(array[start : start + _ROWS_AT_ONCE], dtype=dtype).data)


def _crc32(path: Path) -> str:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
