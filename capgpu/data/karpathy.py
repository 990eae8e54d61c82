"""Karpathy's splits: ``dataset_coco.json``, ``dataset_flickr8k.json``, ``dataset_flickr30k.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from capgpu.data.picture_folder import find_files
from capgpu.data.source import EmptyCaptions, Pictures, Source, by_split, check_distinct, split_name
from capgpu.data.text_files import DataFileError, check_text, entries_of, id_of
from capgpu.visible_text import short

__all__ = ["karpathy_source"]


def karpathy_source(content: Any, path: Path, folder: Path | None, within: Path | None = None) -> Source:
    """Return the captioned pictures of one of Karpathy's files.

    Parameters
    ----------
    content : object
        Content of the JSON file: ``images``, each with ``split``, ``filename``, optionally ``filepath``, ``cocoid`` or
        ``imgid``, and ``sentences``, each with ``raw``.
    path : path
        The file.
    folder : path or None
        The folder of the pictures.
    within : path, optional
        The folder that the user named, if any: pictures outside of it are refused.

    Returns
    -------
    Source
        With the file's splits; ``restval`` belongs to ``train``. Empty captions are omitted.

    Raises
    ------
    DataFileError
        For missing or invalid entries, mostly empty captions, ids that occur twice, two pictures of one file, and
        names that lead out of `within`.
    """
    name = str(path)
    rows: dict[int | str, int] = {}
    splits: list[str] = []
    names: list[str] = []
    captions: list[list[str]] = []
    empty = EmptyCaptions(path)
    for where, image in entries_of(content, "images", name):
        image_id = id_of(image, "cocoid" if "cocoid" in image else "imgid", where)
        if image_id in rows:
            raise DataFileError(
                f"{where}: expected each id once, got {short(image_id)}, "
                f"as in images[{rows[image_id]}]. Remove one of the "
                "two."
            )
        rows[image_id] = len(rows)
        splits.append(split_name(check_text(image.get("split"), f"{where}.split"), f"{where}.split"))
        if folder is not None:
            # flickr8k's and flickr30k's files have no filepath
            parts = [key for key in ("filepath", "filename") if key == "filename" or image.get(key, "") != ""]
            names.append("/".join(check_text(image.get(key), f"{where}.{key}") for key in parts))
        texts: list[str] = []
        if image.get("sentences") == []:
            empty.count(f"{where}.sentences")
        else:
            for position, sentence in entries_of(image, "sentences", where):
                if "raw" not in sentence:
                    raise DataFileError(f"{position}.raw: expected a text, got none.")
                texts += empty.text(sentence["raw"], f"{position}.raw")
        captions.append(texts)
    files, notes = (None, []) if folder is None else find_files(folder, names, name, within)
    check_distinct(files or [], name)
    return Source("karpathy", path, by_split(Pictures(list(rows), captions, files), splits), (*empty.notes(), *notes))
