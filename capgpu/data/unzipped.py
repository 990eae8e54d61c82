"""Data sets as their archives unpack: a folder with files of captions, official splits and pictures.

- COCO: ``annotations/captions_train2017.json`` and ``captions_val2017.json``, pictures in ``train2017/``, ``val2017/``.
- Karpathy's splits: ``dataset_coco.json`` or ``dataset.json``.
- Files of captions, one of each split: ``train.csv``, ``val.csv`` and ``test.csv``.
- Folders of splits, each with pictures and ``metadata.jsonl`` or another file of captions: ``train/``, ``validation/``.
- A file of captions, such as those of Flickr8k and Flickr30k (`capgpu.data.folder`).
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from capgpu.data.coco_json import coco_source
from capgpu.data.folder import (
    captions_file,
    captions_files,
    folder_source,
    fullest_folder,
    has_usual_name,
    only_folder,
    picture_siblings,
)
from capgpu.data.karpathy import karpathy_source
from capgpu.data.picture_folder import is_companion, is_file, plain_name
from capgpu.data.source import UNSPLIT, Pictures, Source, split_name
from capgpu.data.text_files import DataFileError, picture_names, read_json
from capgpu.visible_text import short

__all__ = ["coco_picture_folder", "join_coco", "join_tables", "karpathy_picture_folder", "recognize"]

_COCO = re.compile(r"captions_(train|val|test)(\d{4})?\.json")
_KARPATHY = re.compile(r"dataset(?:_\w+)?\.json")
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test"})
#: Levels of folders in which a data set is searched for. Kaggle has Flickr_Data/Flickr_Data/Flickr_TextData.
_DEPTH = 3


def recognize(folder: Path, images: Path | None) -> Source:
    """Read the data set in a folder.

    Parameters
    ----------
    folder : path
        A folder as described in the module, or one that contains such a folder, up to three levels deep.
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
    level = [folder]
    for _ in range(_DEPTH):
        if not found:
            level = [entry for parent in level for entry in _folders(parent)]
            found = [reader for entry in level for reader in _readers(entry, images)]
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
    of_splits = [] if any(map(has_usual_name, tables)) else _split_tables(folder)
    if of_splits:
        found.append((f"files of splits ({_names(folder, of_splits)})", partial(join_tables, of_splits, images)))
    elif any(split_name(part.name, str(part)) == "train" for part in parts) and not tables:
        names = _names(folder, [captions_file(part) for part in parts])
        found.append((f"folders of splits ({names})", partial(_join_folders, parts, images)))
    elif tables:
        file = captions_file(folder)
        found.append((f"a file of captions ({file.name})", partial(folder_source, file, images, images)))
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


def coco_picture_folder(file: Path, content: Any, images: Path | None) -> Path | None:
    """Return the folder of the pictures of an annotation file: `images` or near the file, or one in it for its split.

    None if `images` is None and no picture is found.
    """
    found = _COCO.fullmatch(file.name)
    part = f"{found[1]}{found[2] or ''}" if found else ""
    names = picture_names(content)
    bases = [images or file.parent]
    if images is None and file.parent.name == "annotations":
        bases.append(file.parent.parent)
    parts = (part, found[1]) if found else ("",)
    candidates = [folder for base in bases for part in parts for folder in (base / part, base / "images" / part)]
    candidates += [folder for base in bases for folder in (base, base / "images")]
    if images is None and found:
        candidates += [file.parent.parent / part for part in parts]
    return fullest_folder(candidates, names) or images


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
    seen: dict[int | str, tuple[Path, Path | None]] = {}
    repeated = 0
    for file in files:
        found = re.search("train|val|test|dev", file.name)
        if found is None and len(files) > 1:
            raise DataFileError(f"{file}: expected a name with its split, such as captions_train2017.json, got none.")
        split = UNSPLIT if len(files) == 1 or found is None else split_name(found[0], str(file))
        if split in splits:
            raise DataFileError(f"{file}: expected one file per split, got two of {split}. Name one of the two.")
        content = read_json(file)
        location = coco_picture_folder(file, content, images)
        read = coco_source(content, file, location, images)
        pictures = splits[split] = read.splits[UNSPLIT]
        located: Sequence[Path | None] = pictures.files or [None] * len(pictures)
        for image, picture in zip(pictures.image_ids, located, strict=True):
            captions, other = seen.setdefault(image, (file, picture))
            if captions != file:
                if not _differ(picture, other):
                    raise DataFileError(
                        f"{file}: expected images that are in no other file, got {short(image)}, as in "
                        f"{captions.name}. Remove the image from one of the two. Or, if two pictures have this id, "
                        "name their folder (--images), so that they can be compared."
                    )
                repeated += 1
        notes += read.notes
        if location is not None:
            notes.append(f"pictures of {file.name} are in {location}")
    _check_separate(splits, files)
    if repeated:
        notes.append(f"ids that two pictures have, one in each file: {repeated:,}")
    if len(files) > 1:
        counts = ", ".join(f"{split} {len(pictures):,}" for split, pictures in splits.items())
        notes.insert(0, f"official splits, one of each file: {counts}")
    else:
        notes.insert(0, "one file, without splits: they are drawn at random")
    return Source("coco", files[0], splits, tuple(notes), tuple(files[1:]))


def _differ(picture: Path | None, other: Path | None) -> bool:
    """Return whether two files exist and have different contents."""
    if picture is None or other is None or not (is_file(picture) and is_file(other)):
        return False
    return not filecmp.cmp(picture, other, shallow=False)


def _check_separate(splits: Mapping[str, Pictures], described: Sequence[Path]) -> None:
    """Check that no picture is in two splits, whose files of captions are `described`."""
    first: dict[str, Path] = {}
    for pictures, captions in zip(splits.values(), described, strict=True):
        for file in pictures.files or ():
            other = first.setdefault(plain_name(str(file)), captions)
            if other != captions:
                raise DataFileError(
                    f"{captions}: expected pictures that are in no other split, got {file}, as in {other}. Remove it "
                    "from one of the two: a model must not be evaluated on pictures that it was trained on."
                )


# --- Karpathy's splits -------------------------------------------------------------------------------------


def karpathy_picture_folder(file: Path, names: Sequence[str]) -> Path | None:
    """Return the folder near a file of Karpathy's that contains its pictures; None if there is none.

    Raises DataFileError if several folders contain pictures of the same names.
    """
    near = [file.parent, *_folders(file.parent)]
    near += [folder / "images" for folder in near]
    return only_folder(file, near, names) or only_folder(file, picture_siblings(file.parent), names, 0.9)


def _has_pictures(file: Path, images: Path | None) -> bool:
    names = picture_names(read_json(file))
    return (fullest_folder([images], names) if images else karpathy_picture_folder(file, names)) is not None


def _karpathy(file: Path, images: Path | None) -> Source:
    content = read_json(file)
    return karpathy_source(content, file, images or karpathy_picture_folder(file, picture_names(content)), images)


# --- files of splits ---------------------------------------------------------------------------------------


def _split_tables(folder: Path) -> list[Path]:
    """Return the files of captions of splits, the only ones whose names differ in the name of the split alone."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for file in sorted(folder.iterdir()):
        parts = _name_parts(file)
        splits = [part for part in parts if part in _SPLITS]
        # a list of pictures, such as train.txt, is no file of captions
        usual = file.suffix.lower() in (".csv", ".tsv", ".jsonl")
        usual = usual or (file.suffix.lower() == ".txt" and bool({"caption", "captions"} & {*parts}))
        if len(splits) == 1 and usual and file.is_file() and not is_companion(file.name):
            groups.setdefault(tuple(part for part in parts if part not in _SPLITS), []).append(file)
    complete = [
        files for files in groups.values() if len(files) > 1 and any(_split_of(file) == "train" for file in files)
    ]
    return complete[0] if len(complete) == 1 else []


def _name_parts(file: Path) -> list[str]:
    return [part for part in re.split(r"[\W_]+|(?<=\d)(?=[a-z])|(?<=[a-z])(?=\d)", file.name.lower()) if part]


def _split_of(file: Path) -> str | None:
    """Return the split in the name of a file; None if there is not exactly one."""
    splits = [part for part in _name_parts(file) if part in _SPLITS]
    return split_name(splits[0], str(file)) if len(splits) == 1 else None


def join_tables(files: Sequence[Path], images: Path | None) -> Source:
    """Read files of captions, each a split.

    Parameters
    ----------
    files : sequence of paths
        Their names contain the split, such as ``train.csv``.
    images : path or None
        The folder of the pictures, or of a folder for each split; by default they are searched for near each file.

    Returns
    -------
    Source
        With the splits.

    Raises
    ------
    DataFileError
        For damaged files, names without a split, files that contain splits, and pictures in several files.
    OSError
        If a file cannot be read.
    """
    splits: dict[str, Pictures] = {}
    notes: list[str] = []
    for file in files:
        split = _split_of(file)
        if split is None:
            raise DataFileError(f"{file}: expected a name with its split, such as train.csv, got none.")
        if split in splits:
            raise DataFileError(f"{file}: expected one file per split, got two of {split}. Name one of the two.")
        read = _read_table(file, split, images)
        if UNSPLIT not in read.splits:
            raise DataFileError(f"{file}: expected pictures of the split {split} alone, got splits in the file, too.")
        splits[split] = read.splits[UNSPLIT]
        notes += [f"{file.name}: {note}" for note in read.notes]
    _check_separate(splits, files)
    counts = ", ".join(f"{split} {len(pictures):,}" for split, pictures in splits.items())
    return Source("folder", files[0], splits, (f"splits, one of each file: {counts}", *notes), tuple(files[1:]))


def _read_table(file: Path, split: str, images: Path | None) -> Source:
    """Read a split's file of captions, preferably with the pictures in a folder named as the split."""
    bases = [images] if images else [file.parent, file.parent / "images", file.parent / "Images"]
    split_folders = [entry for base in bases if base.is_dir() for entry in _folders(base) if _split_of(entry) == split]
    for folder in split_folders:
        read = folder_source(file, folder, images)
        found = [is_file(picture) for pictures in read.splits.values() for picture in pictures.files or ()]
        if sum(found) > len(found) / 2:
            return replace(read, notes=(*read.notes, f"pictures are in {folder}"))
    return folder_source(file, images, images)


# --- folders of splits -------------------------------------------------------------------------------------


def _join_folders(parts: Sequence[Path], images: Path | None) -> Source:
    splits: dict[str, Pictures] = {}
    notes: list[str] = []
    files = [captions_file(part) for part in parts]
    for part, file in zip(parts, files, strict=True):
        location = part
        if images is not None:
            location = images / part.name if (images / part.name).is_dir() else images
        read = folder_source(file, location, images)
        split = split_name(part.name, str(part))
        if split in splits or UNSPLIT not in read.splits:
            raise DataFileError(
                f"{file}: expected pictures of the split {split} alone, without a column of splits and in one folder, "
                "got others."
            )
        pictures = read.splits[UNSPLIT]
        splits[split] = replace(pictures, image_ids=[f"{part.name}/{image}" for image in pictures.image_ids])
        notes += [f"{part.name}: {note}" for note in read.notes]
    _check_separate(splits, files)
    counts = ", ".join(f"{split} {len(pictures):,}" for split, pictures in splits.items())
    return Source("folder", files[0], splits, (f"splits of the folders: {counts}", *notes), tuple(files[1:]))
