"""Captions in COCO's annotation format: ``captions_*.json`` with ``images`` and ``annotations``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capgpu.data.picture_folder import find_files
from capgpu.data.source import UNSPLIT, EmptyCaptions, Pictures, Source, check_distinct
from capgpu.data.text_files import DataFileError, check_text, entries_of, id_of, is_empty, read_json
from capgpu.visible_text import short

__all__ = ["CocoCaptions", "coco_source", "parse_coco", "read_coco_captions"]


@dataclass(frozen=True)
class CocoCaptions:
    """The captioned pictures of one annotation file.

    Attributes
    ----------
    image_ids : list of I int or str
        In the order of ``images``.
    file_names : list of I (str or None)
        ``file_name`` of each picture, or None.
    captions : list of I lists of str
        The captions of each picture, in the order of ``annotations``, without leading and trailing white space; they
        may be empty.
    """

    image_ids: list[int | str]
    file_names: list[str | None]
    captions: list[list[str]]


def read_coco_captions(path: str | os.PathLike[str]) -> CocoCaptions:
    """Read an annotation file.

    Parameters
    ----------
    path : path
        A file such as ``captions_val2017.json``: an object with ``images`` (each with ``id`` and optionally
        ``file_name``) and ``annotations`` (each with ``image_id`` and ``caption``).

    Returns
    -------
    CocoCaptions
        All pictures, also those without a caption.

    Raises
    ------
    DataFileError
        For a damaged file or another format, an image id that occurs twice, and a caption of an unknown picture.
    OSError
        If the file cannot be read.
    """
    return parse_coco(read_json(path), os.fspath(path))


def parse_coco(content: Any, name: str) -> CocoCaptions:
    """Parse the content of a JSON file called `name`; otherwise as `read_coco_captions`."""
    index: dict[int | str, int] = {}
    file_names: list[str | None] = []
    for where, image in entries_of(content, "images", name):
        image_id = id_of(image, "id", where)
        if image_id in index:
            raise DataFileError(
                f"{where}: expected each id once, got {short(image_id)}, "
                f"as in images[{index[image_id]}]. Remove one of the "
                "two."
            )
        index[image_id] = len(file_names)
        file_name = image.get("file_name")
        file_names.append(None if file_name is None else check_text(file_name, f"{where}.file_name"))
    captions: list[list[str]] = [[] for _ in file_names]
    for where, annotation in entries_of(content, "annotations", name):
        image_id = id_of(annotation, "image_id", where)
        if image_id not in index:
            raise DataFileError(f"{where}: expected an image_id of images, got {short(image_id)}.")
        if "caption" not in annotation:
            raise DataFileError(
                f"{where}: expected a caption, got none. Use a file of captions, such as captions_val2017.json."
            )
        caption = annotation["caption"]
        captions[index[image_id]].append("" if is_empty(caption) else check_text(caption, f"{where}.caption"))
    return CocoCaptions(list(index), file_names, captions)


def coco_source(content: Any, path: Path, folder: Path | None, within: Path | None = None) -> Source:
    """Return the captioned pictures of a file in COCO's annotation format.

    Parameters
    ----------
    content : object
        Content of the JSON file.
    path : path
        The file.
    folder : path or None
        The folder of the pictures.
    within : path, optional
        The folder that the user named, if any: pictures outside of it are refused.

    Returns
    -------
    Source
        Without splits: COCO has one file per split. Empty captions are omitted.

    Raises
    ------
    DataFileError
        As `read_coco_captions`, for mostly empty captions, and, with a `folder`, for a picture without a file name and
        two pictures of one file.
    """
    read = parse_coco(content, str(path))
    empty = EmptyCaptions(path)
    captions = [
        [text for caption in raw for text in empty.text(caption, f"{path}: a caption of the image {image_id!r}")]
        for image_id, raw in zip(read.image_ids, read.captions, strict=True)
    ]
    caption_notes = empty.notes()
    uncaptioned = [image_id for image_id, texts in zip(read.image_ids, captions, strict=True) if not texts]
    if uncaptioned:
        caption_notes.append(
            f"images without captions, omitted: {len(uncaptioned):,}, the first with the id {short(uncaptioned[0])}"
        )
    files, file_notes = None, list[str]()
    if folder is not None:
        nameless = [row for row, name in enumerate(read.file_names) if name is None]
        if nameless:
            raise DataFileError(f"{path}: images[{nameless[0]}]: expected a file_name, got none.")
        files, file_notes = find_files(folder, list(map(str, read.file_names)), str(path), within)
        check_distinct(files, str(path))
    return Source("coco", path, {UNSPLIT: Pictures(read.image_ids, captions, files)}, (*caption_notes, *file_notes))
