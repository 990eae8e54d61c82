"""A prepared folder: a data set in memory-mapped files, written atomically.

Its files are

prepared.json
    The manifest, written last: its presence marks a complete folder. Format, tokenizer, settings and report of the
    preparation, and size and checksum of every other file.
vocabulary.json
    All words in the order of their ids.
SPLIT_captions.npy, SPLIT_image_idxs.npy, SPLIT_features.npy
    The arrays of the course's data dictionary. Features are float32, or float16 if they are grids that were computed
    or given in it.
SPLIT.json
    ``texts`` (the raw captions), ``image_ids`` and, for picture files, ``files``.
encoder.json, encoder.safetensors
    The encoder of the features, if it is known: used for other pictures.
checked.json
    Size, modification time and inode of each feature file when it last matched its checksum: only files that have
    changed since are read again when the folder is opened. Not part of the data; may be deleted.

Features are validated as finite when they are written; files that match their checksums are not validated again.
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
from capgpu.data.arrays import known_finite, parts_of, splits_of, stored_dtype, validate_data
from capgpu.data.picture_folder import local_name, without_suffix
from capgpu.data.text_files import DataFileError, read_json, read_text
from capgpu.file_formats.json_text import JsonObject, parse_json
from capgpu.file_formats.npy import map_npy
from capgpu.new_folder import create_folder
from capgpu.visible_text import short

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

#: The manifest; its presence marks a prepared folder.
MANIFEST = "prepared.json"
#: The files of an encoder; the second exists for encoders with a projection.
ENCODER_FILES = ("encoder.json", "encoder.safetensors")

#: The states of the feature files when they matched their checksums.
_CHECKED = "checked.json"
_FORMAT = "capgpu-prepared-1"
_ARRAYS = ("captions", "image_idxs", "features")
_LISTS = ("texts", "image_ids", "files")
_REMEDY = "Prepare the data again."

#: Size and checksum of a prepared folder's files, by name.
_Files = dict[str, tuple[int, str]]


@dataclass(frozen=True)
class Manifest:
    """The manifest of a prepared folder.

    Attributes
    ----------
    tokens : str
        The tokenizer, one of `capgpu.tokens.TOKENIZERS`.
    splits : list of str
        The splits.
    settings, report : dict
        Settings and statistics of the preparation.
    encoder : bool
        Whether the folder contains the encoder of its features.
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
    """Return whether a folder contains a complete prepared data set."""
    return (Path(folder) / MANIFEST).is_file()


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of a prepared folder, and check that its files exist and are unchanged.

    Feature files, which may be large, are read only if they have changed since they last matched their checksum.

    Parameters
    ----------
    folder : path
        The folder.

    Returns
    -------
    Manifest
        The manifest.

    Raises
    ------
    CheckpointError
        If the folder is missing, not a prepared one or damaged, or a file is missing or modified.
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
        # recorded before the file is read: a concurrent change is detected next time
        fresh[name] = _state(path / name)
        if known.get(name) != fresh[name]:
            _check_contents(path / name, checksum)
    if fresh != known:
        with suppress(OSError):  # without write permission the files are checked every time
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
        The names of the files, without the manifest.

    Raises
    ------
    CheckpointError
        If the folder is missing, not a prepared one or damaged, with every file that is missing or modified.
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
        # a change without a new modification time must be detected when the folder is opened next
        with suppress(OSError):
            (path / _CHECKED).unlink(missing_ok=True)
        raise CheckpointError("\n".join(problems))
    return list(files)


def _manifest(path: Path) -> tuple[Manifest, _Files]:
    if not is_prepared(path):
        if path.exists() and not path.is_dir():
            raise CheckpointError(f"{path}: expected a prepared folder, which contains {MANIFEST}, got a file.")
        remedy = f"capgpu prepare SOURCE -o {path}"
        found = "no such folder"
        if path.is_dir():
            found = "a folder without it"
            if any(without_suffix(file.name) != file.name for file in path.iterdir()):
                # capgpu prepare writes into no folder with other files
                remedy = f"capgpu prepare {path} -o FOLDER"
        raise CheckpointError(
            f"{path}: expected a prepared data set with {MANIFEST}, got {found}. Create one with: {remedy}"
        )
    name = f"{path / MANIFEST} is damaged"
    try:
        text = read_text(path / MANIFEST)
    except DataFileError as error:
        raise CheckpointError(f"{name}: {error} {_REMEDY}") from error
    content = parse_json(text, lambda cause: CheckpointError(f"{name}: {cause}. {_REMEDY}"))
    stored = JsonObject(content, name, CheckpointError, _REMEDY)
    stored.format(_FORMAT)
    files: _Files = {}
    for file, entry in stored.object("files").objects().items():
        if Path(file).name != file or "\0" in file:
            raise stored.wrong("names of files in the folder", file, "files")
        files[file] = entry.integer("bytes"), entry.text("crc32")
    splits = stored.texts("splits")
    for split in splits:
        needed = [f"{split}.json", *(f"{split}_{part}.npy" for part in _ARRAYS)]
        if not files.keys() >= {"vocabulary.json", *needed}:
            raise stored.wrong("splits with files", split, "splits")
    manifest = Manifest(
        tokens=stored.text("tokens"),
        splits=splits,
        settings=stored.object("settings").value,
        report=stored.object("report").value,
        encoder=ENCODER_FILES[0] in files,
        identity=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16],
    )
    return manifest, files


def _check_size(file: Path, size: int) -> None:
    found = file.stat().st_size if file.is_file() else None
    if found != size:
        got = "no such file" if found is None else f"{found} bytes"
        raise CheckpointError(
            f"{file}: expected {size} bytes, got {got}: the prepared folder has changed. Prepare the data again."
        )


def _check_contents(file: Path, checksum: str) -> None:
    if _crc32(file) != checksum:
        raise CheckpointError(f"{file} is damaged: it does not match its checksum. Prepare the data again.")


def _state(file: Path) -> list[int]:
    """Return size, modification time and inode of a file, which change with its content."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _checked(path: Path) -> dict[str, Any]:
    """Read the states in which files matched their checksums; empty if there are none."""
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
        For each split, ``<split>_captions`` (N, T) int32 and ``<split>_image_idxs`` (N,) int64, memory-mapped;
        ``<split>_features`` (I, D) float32, or (I, L, D) float32 or float16, a read-only numpy.memmap;
        ``<split>_texts``, ``<split>_image_ids`` and, for picture files, ``<split>_files``; and ``idx_to_word`` and
        ``word_to_idx``.

    Raises
    ------
    CheckpointError
        As `read_manifest`, and for damaged files.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    try:
        data = _read_words(path / "vocabulary.json")
        for split in manifest.splits:
            for part in _ARRAYS:
                mapped = map_npy(path / f"{split}_{part}.npy", DataFileError)
                # compiled code needs plain arrays; features stay a memmap since only rows are gathered
                data[f"{split}_{part}"] = known_finite(mapped) if part == "features" else mapped.view(np.ndarray)
            data |= _read_lists(path / f"{split}.json", split, data)
            if f"{split}_files" in data:
                data[f"{split}_files"] = list(map(local_name, data[f"{split}_files"]))
        validate_data(data, manifest.splits)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error} Prepare the data again.") from error
    return data


def _read_words(path: Path) -> dict[str, Any]:
    words = read_json(path)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or len(set(words)) < len(words):
        raise DataFileError(f"{path}: expected a list of distinct words, got {short(words)}.")
    return {"idx_to_word": words, "word_to_idx": {word: i for i, word in enumerate(words)}}


def _read_lists(path: Path, split: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Read the texts, image ids and files of a split, which must fit its arrays."""
    stored = JsonObject(read_json(path), str(path), DataFileError)
    captions, features = (len(data[f"{split}_{part}"]) for part in ("captions", "features"))
    lists: dict[str, Any] = {}
    for part, types, count in (("texts", str, captions), ("image_ids", (str, int), features), ("files", str, features)):
        if part in stored.value:
            values = stored.entries(part)
            if len(values) != count or not all(isinstance(value, types) for value in values):
                raise stored.wrong(f"{count} entries as capgpu prepare writes them", values, part)
            lists[f"{split}_{part}"] = values
    return lists


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
        The folder; created if it does not exist. An encoder must be saved in it before.
    data : dict
        The course's data dictionary, optionally with ``<split>_texts``, ``<split>_image_ids`` and ``<split>_files``.
        Features are written in parts, in float32; grids of float16 as they are.
    tokens : str
        The tokenizer of the captions, one of `capgpu.tokens.TOKENIZERS`.
    settings, report : mapping, optional
        Settings and statistics of the preparation, as JSON can hold them.

    Raises
    ------
    TypeError, ValueError
        For invalid data (see `validate_data`); nothing is written.
    OSError
        If a file cannot be written: the folder is then not a prepared one.
    """
    splits = splits_of(data)
    validate_data(data, splits)
    path = Path(folder)
    create_folder(path)
    (path / MANIFEST).unlink(missing_ok=True)
    _write_json(path / "vocabulary.json", list(data["idx_to_word"]))
    names = ["vocabulary.json", *(name for name in ENCODER_FILES if (path / name).is_file())]
    for split in splits:
        dtypes: tuple[np.dtype[Any], ...] = (
            np.dtype(np.int32),
            np.dtype(np.int64),
            stored_dtype(data[f"{split}_features"]),
        )
        for part, dtype in zip(_ARRAYS, dtypes, strict=True):
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


def _write_array(path: Path, array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
    with atomic_write(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts_of(array):
            file.write(np.ascontiguousarray(part, dtype=dtype).data)


def _crc32(path: Path) -> str:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
