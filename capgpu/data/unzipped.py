"""Data sets as their archives unpack: a folder with files of captions, official splits and pictures.

- COCO: ``annotations/captions_train2017.json`` and ``captions_val2017.json``, pictures in ``train2017/``, ``val2017/``.
- Karpathy's splits: ``dataset_coco.json`` or ``dataset.json``.
- Folders of splits, each with pictures and ``metadata.jsonl`` or another file of captions: ``train/``, ``validation/``.
- A file of captions, such as those of Flickr8k and Flickr30k (`capgpu.data.folder`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from capgpu.data.coco_json import coco_source
from capgpu.data.folder import captions_file, captions_files, folder_source, home_of, only_home, picture_siblings
from capgpu.data.karpathy import karpathy_source
from capgpu.data.picture_folder import is_companion
from capgpu.data.source import UNSPLIT, Pictures, Source, check_distinct, split_name
from capgpu.data.text_files import DataFileError, picture_names, read_json

__all__ = ["coco_home", "join_coco", "karpathy_home", "recognize"]

_COCO = re.compile(r"captions_(train|val|test)(\d{4})?\.json")
_KARPATHY = re.compile(r"dataset(?:_\w+)?\.json")
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test"})


def recognize(folder: Path, images: Path | None) -> Source:
    """Read the data set in a folder.

    Parameters
    ----------
    folder : path
        A folder as described in the module, or one that contains such a folder.
    images : path or None
        The folder of the pictures; by default they are searched for in `folder`.

    Returns
    -------
    Source
        With a note that names what was recognized.

    Raises
    ------
    DataFileError
        If there is nothing of that, or several data sets.
    OSError
        If a file cannot be read.
    """
    found = _readers(folder, images)
    if not found:
        found = [reader for entry in _folders(folder) for reader in _readers(entry, images)]
    if not found:
        captions_file(folder)  # raises an exception with what was expected
    if len(found) > 1:
        raise DataFileError(
            f"{folder}: expected one data set, got {', '.join(name for name, _ in found)}. Name the file of captions "
            "instead of the folder."
        )
    name, read = found[0]
    source = read()
    return replace(source, notes=(f"recognized {name}", *source.notes))


def _readers(folder: Path, images: Path | None) -> list[tuple[str, Callable[[], Source]]]:
    """Return names and readers of the data sets in a folder."""
    found: list[tuple[str, Callable[[], Source]]] = []
    annotations = [*_matching(folder, _COCO), *_matching(folder / "annotations", _COCO)]
    for year in sorted({_year(file) for file in annotations}):
        files = [file for file in annotations if _year(file) == year]
        name = f"COCO {year}".rstrip()
        found.append((f"{name} ({_names(folder, files)})", partial(join_coco, files, images)))
    described = _matching(folder, _KARPATHY)
    with_pictures = [file for file in described if _has_pictures(file, images)] if len(described) > 1 else described
    for file in with_pictures or described:
        found.append((f"Karpathy's splits ({file.name})", partial(_karpathy, file, images)))
    parts = [entry for entry in _folders(folder) if entry.name.lower() in _SPLITS and captions_files(entry)]
    tables = captions_files(folder)
    if any(split_name(part.name, str(part)) == "train" for part in parts) and not tables:
        names = _names(folder, [captions_file(part) for part in parts])
        found.append((f"folders of splits ({names})", partial(_join_folders, folder, parts, images)))
    elif tables:
        file = captions_file(folder)
        found.append((f"a file of captions ({file.name})", partial(folder_source, file, images)))
    return found


def _matching(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if pattern.fullmatch(file.name) and file.is_file())


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_companion(entry.name))


def _names(folder: Path, files: Sequence[Path]) -> str:
    return ", ".join(file.relative_to(folder).as_posix() for file in files)


def _year(file: Path) -> str:
    found = _COCO.fullmatch(file.name)
    return (found[2] or "") if found else ""


# --- COCO --------------------------------------------------------------------------------------------------


def coco_home(file: Path, content: Any, images: Path | None) -> Path | None:
    """Return the folder of the pictures of an annotation file: `images` or near the file, or one in it for its split.

    None if `images` is None and no picture is found.
    """
    found = _COCO.fullmatch(file.name)
    part = f"{found[1]}{found[2] or ''}" if found else ""
    names = picture_names(content)
    bases = [images or file.parent]
    if images is None and file.parent.name == "annotations":
        bases.append(file.parent.parent)
    candidates = [folder for base in bases for folder in (base / part, base / "images" / part, base, base / "images")]
    if images is None and part:
        candidates.append(file.parent.parent / part)
    return home_of(candidates, names) or images


def join_coco(files: Sequence[Path], images: Path | None) -> Source:
    """Read one or several annotation files of COCO, each a split.

    Parameters
    ----------
    files : sequence of paths
        Their names contain the split, such as ``captions_train2017.json``, if there are several.
    images : path or None
        The folder of the pictures, or of folders of them; by default they are searched for near each file.

    Returns
    -------
    Source
        Without splits for a single file.

    Raises
    ------
    DataFileError
        For damaged files, names without a split, and pictures in several files.
    OSError
        If a file cannot be read.
    """
    splits: dict[str, Pictures] = {}
    notes: list[str] = []
    seen: dict[int | str, Path] = {}
    for file in files:
        found = re.search("train|val|test|dev", file.name)
        if found is None and len(files) > 1:
            raise DataFileError(f"{file}: expected a name with its split, such as captions_train2017.json, got none.")
        split = UNSPLIT if len(files) == 1 or found is None else split_name(found[0], str(file))
        if split in splits:
            raise DataFileError(f"{file}: expected one file per split, got two of {split}. Name one of the two.")
        content = read_json(file)
        home = coco_home(file, content, images)
        read = coco_source(content, file, home)
        pictures = splits[split] = read.splits[UNSPLIT]
        for image in pictures.image_ids:
            if seen.setdefault(image, file) != file:
                raise DataFileError(
                    f"{file}: expected images that are in no other file, got {image!r}, as in {seen[image].name}."
                )
        notes += read.notes
        if home is not None:
            notes.append(f"pictures of {file.name} are in {home}")
    check_distinct([file for pictures in splits.values() for file in pictures.files or ()], str(files[0]))
    if len(files) > 1:
        counts = ", ".join(f"{split} {len(pictures):,}" for split, pictures in splits.items())
        notes.insert(0, f"official splits, one of each file: {counts}")
    else:
        notes.insert(0, "one file, without splits: they are drawn at random")
    return Source("coco", files[0], splits, tuple(notes), tuple(files[1:]))


# --- Karpathy's splits -------------------------------------------------------------------------------------


def karpathy_home(file: Path, names: Sequence[str]) -> Path | None:
    """Return the folder near a file of Karpathy's that contains its pictures; None if there is none.

    Raises DataFileError if several folders contain pictures of the same names.
    """
    near = [file.parent, *_folders(file.parent)]
    near += [folder / "images" for folder in near]
    return only_home(file, near, names) or only_home(file, picture_siblings(file.parent), names, 0.9)


def _has_pictures(file: Path, images: Path | None) -> bool:
    names = picture_names(read_json(file))
    return (home_of([images], names) if images else karpathy_home(file, names)) is not None


def _karpathy(file: Path, images: Path | None) -> Source:
    content = read_json(file)
    return karpathy_source(content, file, images or karpathy_home(file, picture_names(content)))


# --- folders of splits -------------------------------------------------------------------------------------


def _join_folders(folder: Path, parts: Sequence[Path], images: Path | None) -> Source:
    splits: dict[str, Pictures] = {}
    notes: list[str] = []
    files = [captions_file(part) for part in parts]
    for part, file in zip(parts, files, strict=True):
        home = part
        if images is not None:
            home = images / part.name if (images / part.name).is_dir() else images
        read = folder_source(file, home)
        split = split_name(part.name, str(part))
        if split in splits or UNSPLIT not in read.splits:
            raise DataFileError(
                f"{file}: expected pictures of the split {split} alone, without a column of splits and in one folder, "
                "got others."
            )
        pictures = read.splits[UNSPLIT]
        splits[split] = replace(pictures, image_ids=[f"{part.name}/{image}" for image in pictures.image_ids])
        notes += [f"{part.name}: {note}" for note in read.notes]
    check_distinct([file for pictures in splits.values() for file in pictures.files or ()], str(folder))
    counts = ", ".join(f"{split} {len(pictures):,}" for split, pictures in splits.items())
    return Source("folder", files[0], splits, (f"splits of the folders: {counts}", *notes), tuple(files[1:]))
