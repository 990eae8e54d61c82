"""Captions in COCO's annotation format: ``captions_*.json`` with ``images`` and ``annotations``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from capgpu.data.text_files import DataFileError, check_text, read_json

__all__ = ["CocoCaptions", "read_coco_captions"]


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
    name = os.fspath(path)
    content = read_json(path)
    place: dict[int | str, int] = {}
    file_names: list[str | None] = []
    for where, image in _entries(content, "images", name):
        image_id = _id(image, "id", where)
        if image_id in place:
            raise DataFileError(
                f"{where} has the id {image_id!r}, as images[{place[image_id]}] has: take one of the two out."
            )
        place[image_id] = len(file_names)
        file_name = image.get("file_name")
        file_names.append(None if file_name is None else check_text(file_name, f"{where}.file_name"))
    captions: list[list[str]] = [[] for _ in file_names]
    for where, annotation in _entries(content, "annotations", name):
        image_id = _id(annotation, "image_id", where)
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


def _entries(content: Any, key: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Go through a list of objects, each with the words that name its place."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        found = (
            f"keys {', '.join(map(ascii, list(content)[:8]))}" if isinstance(content, dict) else type(content).__name__
        )
        raise DataFileError(f"{name} has no list of {key} (found: {found}). Wanted COCO's annotation format.")
    for row, entry in enumerate(entries):
        where = f"{name}: {key}[{row}]"
        if not isinstance(entry, dict):
            raise DataFileError(f"{where} is a {type(entry).__name__}; wanted an object.")
        yield where, entry


def _id(entry: dict[str, Any], key: str, where: str) -> int | str:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DataFileError(f"{where}.{key} is {ascii(value)[:40]}; wanted a whole number or a text.")
    return value
