"""Any source of captioned pictures, by its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from capgpu.data.coco_json import coco_source
from capgpu.data.folder import captions_file, folder_source
from capgpu.data.karpathy import karpathy_source
from capgpu.data.source import Source
from capgpu.data.text_files import DataFileError, read_json

__all__ = ["KINDS", "read_source"]

KINDS = ("coco", "karpathy", "folder")


def read_source(path: Path, kind: str | None = None, folder: Path | None = None) -> Source:
    """Read captioned pictures, whatever form they have.

    Parameters
    ----------
    path : path
        COCO's or Karpathy's JSON file, a file of captions (see `capgpu.data.folder`), or a folder that holds one.
    kind : {"coco", "karpathy", "folder"}, optional
        The form; by default told from the path and, of a ``.json`` file, from what it holds.
    folder : path, optional
        Where the pictures are.

    Returns
    -------
    Source
        The pictures, without features.

    Raises
    ------
    DataFileError
        For a file that is damaged or of another form, naming file and place.
    OSError
        As the system gives it.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; wanted one of {', '.join(KINDS)}.")
    if path.is_dir():
        path = captions_file(path)
    if kind == "folder" or (kind is None and path.suffix.lower() != ".json"):
        return folder_source(path, folder)
    content = read_json(path)
    kind = kind or _kind_of(content, path)
    return (coco_source if kind == "coco" else karpathy_source)(content, path, folder)


def _kind_of(content: Any, path: Path) -> str:
    images = content.get("images") if isinstance(content, dict) else None
    if isinstance(content, dict) and "annotations" in content:
        return "coco"
    if isinstance(images, list) and images and isinstance(images[0], dict) and "sentences" in images[0]:
        return "karpathy"
    raise DataFileError(
        f"{path} is neither COCO's annotation format (images and annotations) nor Karpathy's (images with sentences)."
    )
