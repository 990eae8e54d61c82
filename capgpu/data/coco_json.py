"""Captions in COCO's annotation format: ``captions_*.json`` with ``images`` and ``annotations``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capgpu.data.source import UNSPLIT, Pictures, Source, check_distinct
from capgpu.data.text_files import DataFileError, check_text, entries_of, id_of, read_json

__all__ = ["CocoCaptions", "coco_source", "parse_coco", "read_coco_captions"]


@dataclass(frozen=True)
class CocoCaptions:
    """The captioned pictures of one annotation file.

    Attributes
    ----------
    image_ids : list of I int or str
        In the order of ``images``.
    file_names : list of I (str or None)
        ``file_name`` of each picture, where the file gives one.
    captions : list of I lists of str
        The captions of each picture, in the order of ``annotations``, white space at both ends cut off.
    """

    image_ids: list[int | str]
    file_names: list[str | None]
    captions: list[list[str]]


def read_coco_captions(path: str | os.PathLike[str]) -> CocoCaptions:
    """Read an annotation file.

    Parameters
    ----------
    path : path
        Such as ``captions_val2017.json``: an object with ``images`` (each with ``id`` and, at will, ``file_name``) and
        ``annotations`` (each with ``image_id`` and ``caption``).

    Returns
    -------
    CocoCaptions
        All its pictures; each has a caption at least.

    Raises
    ------
    DataFileError
        For bytes that are not UTF-8, JSON cut short or of another form, an image id that stands there twice, a caption
        that is empty or of a picture that is not there, and pictures without a caption: naming file and place.
    OSError
        As the system gives it.
    """
    return parse_coco(read_json(path), os.fspath(path))


def parse_coco(content: Any, name: str) -> CocoCaptions:
    """Take captions out of what a JSON file held; as `read_coco_captions`, whose `name` it has."""
    place: dict[int | str, int] = {}
    file_names: list[str | None] = []
    for where, image in entries_of(content, "images", name):
        image_id = id_of(image, "id", where)
        if image_id in place:
            raise DataFileError(
                f"{where} has the id {image_id!r}, as images[{place[image_id]}] has: take one of the two out."
            )
        place[image_id] = len(file_names)
        file_name = image.get("file_name")
        file_names.append(None if file_name is None else check_text(file_name, f"{where}.file_name"))
    captions: list[list[str]] = [[] for _ in file_names]
    for where, annotation in entries_of(content, "annotations", name):
        image_id = id_of(annotation, "image_id", where)
        if image_id not in place:
            raise DataFileError(f"{where} describes the image {image_id!r}, which images does not list.")
        if "caption" not in annotation:
            raise DataFileError(f"{where} has no caption. Wanted a file of captions, such as captions_val2017.json.")
        captions[place[image_id]].append(check_text(annotation["caption"], f"{where}.caption"))
    bare = [image_id for image_id, row in place.items() if not captions[row]]
    if bare:
        raise DataFileError(
            f"{name}: {len(bare)} of {len(place)} images have no caption, the first images[{place[bare[0]]}] with the "
            f"id {bare[0]!r}. Take them out of images, or add their annotations."
        )
    return CocoCaptions(list(place), file_names, captions)


def coco_source(content: Any, path: Path, folder: Path | None) -> Source:
    """Take the captioned pictures out of COCO's annotation format.

    Parameters
    ----------
    content : object
        What the JSON file held.
    path : path
        The file.
    folder : path or None
        Where the pictures are that it names.

    Returns
    -------
    Source
        Without splits: COCO has a file a split.

    Raises
    ------
    DataFileError
        As `read_coco_captions`, and, where `folder` is given, for a picture without a file name and two of one file.
    """
    read = parse_coco(content, str(path))
    files = None
    if folder is not None:
        nameless = [row for row, name in enumerate(read.file_names) if name is None]
        if nameless:
            raise DataFileError(f"{path}: images[{nameless[0]}] has no file_name, so no picture can be found for it.")
        files = [folder / str(name) for name in read.file_names]
        check_distinct(files, str(path))
    return Source("coco", path, {UNSPLIT: Pictures(read.image_ids, read.captions, files)})
