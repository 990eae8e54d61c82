"""Read a source of captioned pictures, whose format is detected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capgpu.data.coco_json import coco_source
from capgpu.data.folder import captions_file, folder_source
from capgpu.data.karpathy import karpathy_source
from capgpu.data.source import Source
from capgpu.data.text_files import DataFileError, picture_names, read_json
from capgpu.data.unzipped import coco_picture_folder, join_coco, join_tables, karpathy_picture_folder, recognize
from capgpu.errors import InvalidValueError
from capgpu.visible_text import short

__all__ = ["KINDS", "read_source", "read_sources"]

KINDS = ("coco", "karpathy", "folder")


def read_source(path: Path, kind: str | None = None, folder: Path | None = None) -> Source:
    """Read captioned pictures in any supported format.

    Parameters
    ----------
    path : path
        COCO's or Karpathy's JSON file, a file of captions (see `capgpu.data.folder`), or the folder of a data set (see
        `capgpu.data.unzipped`).
    kind : {"coco", "karpathy", "folder"}, optional
        The format; by default detected from the path and, for a ``.json`` file, from its content.
    folder : path, optional
        The folder of the pictures; by default they are searched for near the file.

    Returns
    -------
    Source
        The pictures, without features.

    Raises
    ------
    DataFileError
        For a file that is damaged or has another format.
    OSError
        If a file cannot be read.
    """
    if kind is not None and kind not in KINDS:
        raise InvalidValueError(f"kind: expected one of {', '.join(KINDS)}, got {short(kind)}.")
    if path.is_dir():
        if kind is None:
            return recognize(path, folder)
        path = captions_file(path)
    if kind == "folder" or (kind is None and path.suffix.lower() != ".json"):
        return folder_source(path, folder, folder)
    content = read_json(path)
    kind = kind or _detect_kind(content, path)
    if kind == "coco":
        return coco_source(content, path, folder or coco_picture_folder(path, content, None), folder)
    return karpathy_source(content, path, folder or karpathy_picture_folder(path, picture_names(content)), folder)


def read_sources(paths: Sequence[Path], kind: str | None = None, folder: Path | None = None) -> Source:
    """Read captioned pictures of one source, or of several files, each a split: of COCO's, or of captions.

    Parameters
    ----------
    paths : sequence of paths
        At least one.
    kind, folder
        As for `read_source`.

    Returns
    -------
    Source
        The pictures, without features.

    Raises
    ------
    DataFileError, OSError
        As `read_source`.
    ValueError
        For several sources of other or different kinds.
    """
    if len(paths) == 1:
        return read_source(paths[0], kind, folder)
    in_json = {path.suffix.lower() == ".json" for path in paths}
    if in_json == {True} and kind in (None, "coco"):
        return join_coco(paths, folder)
    if in_json == {False} and kind in (None, "folder") and not any(path.is_dir() for path in paths):
        return join_tables(paths, folder)
    raise InvalidValueError(
        "source: expected one source, or several files of one kind, each a split, COCO's annotations or files of "
        f"captions, got {', '.join(map(str, paths))}."
    )


def _detect_kind(content: Any, path: Path) -> str:
    images = content.get("images") if isinstance(content, dict) else None
    if isinstance(content, dict) and "annotations" in content:
        return "coco"
    if isinstance(images, list) and images and isinstance(images[0], dict) and "sentences" in images[0]:
        return "karpathy"
    raise DataFileError(
        f"{path}: expected COCO's annotation format (images and annotations) or Karpathy's (images with sentences)."
    )
