"""Captions in COCO's results format: a JSON list of ``{"image_id": ..., "caption": ...}``, one entry per picture."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence

from capgpu.checkpoint import atomic_write
from capgpu.data.coco_json import CocoCaptions
from capgpu.data.text_files import DataFileError, check_text, id_of, read_json
from capgpu.errors import InvalidValueError

__all__ = ["match_results", "read_coco_results", "write_coco_results"]


def read_coco_results(path: str | os.PathLike[str], *, allow_empty: bool = False) -> dict[int | str, str]:
    """Read a results file.

    Parameters
    ----------
    path : path
        The file, in UTF-8.
    allow_empty : bool
        Whether a caption may be empty.

    Returns
    -------
    dict of int or str to str
        The caption of each image id, in the order of the file.

    Raises
    ------
    DataFileError
        For a damaged file or another format, an image id that occurs twice or is neither an integer nor a text, and a
        caption that is not a text, or empty.
    OSError
        If the file cannot be read.
    """
    name, entries = os.fspath(path), read_json(path)
    if not isinstance(entries, list):
        hint = " It looks like an annotation file." if isinstance(entries, dict) and "annotations" in entries else ""
        raise DataFileError(
            f'{name}: expected a list of {{"image_id": ..., "caption": ...}}, got {type(entries).__name__}.{hint}'
        )
    if not entries:
        raise DataFileError(f"{name}: expected at least one caption, got an empty list.")
    captions: dict[int | str, str] = {}
    first: dict[int | str, int] = {}
    for i, entry in enumerate(entries):
        where = f"{name}: entry [{i}]"
        if not isinstance(entry, dict):
            raise DataFileError(f"{where}: expected an object, got {type(entry).__name__}.")
        missing = [key for key in ("image_id", "caption") if key not in entry]
        if missing:
            raise DataFileError(f"{where}: expected image_id and caption, got no {' and no '.join(missing)}.")
        image_id = id_of(entry, "image_id", where)
        if image_id in first:
            raise DataFileError(
                f"{where}: expected each image_id once, got {image_id!r}, as in entry [{first[image_id]}]. Remove one "
                "of the two."
            )
        first[image_id] = i
        caption = entry["caption"]
        if isinstance(caption, str) and not caption.strip():
            if not allow_empty:
                raise DataFileError(
                    f"{where}.caption: expected a text, got an empty one. Write a text, or score it as wrong with "
                    "--allow-empty."
                )
            captions[image_id] = ""
        else:
            captions[image_id] = check_text(caption, f"{where}.caption")
    return captions


def write_coco_results(path: str | os.PathLike[str], image_ids: Sequence[int | str], captions: Sequence[str]) -> None:
    """Write a results file atomically.

    Parameters
    ----------
    path : path
        The file; replaced if it exists.
    image_ids : sequence of N int or str
        Distinct ids.
    captions : sequence of N str
        Their captions.

    Raises
    ------
    ValueError
        For different lengths, or an image id that occurs twice.
    OSError
        If the file cannot be written.
    """
    if len(image_ids) != len(captions):
        raise InvalidValueError(f"captions: expected one for each of {len(image_ids)} image ids, got {len(captions)}.")
    twice = [image_id for image_id, count in Counter(image_ids).items() if count > 1]
    if twice:
        raise InvalidValueError(f"image_ids: expected each id once, got {twice[0]!r} twice.")
    pairs = zip(image_ids, captions, strict=True)
    entries = [json.dumps({"image_id": image_id, "caption": text}, ensure_ascii=False) for image_id, text in pairs]
    with atomic_write(path, "w") as out:
        out.write("[\n" + ",\n".join(entries) + "\n]\n")


def match_results(
    results: Mapping[int | str, str], annotations: CocoCaptions, *, results_name: str, subset: bool = False
) -> list[list[str]]:
    """Return the true captions of the pictures in a results file.

    Parameters
    ----------
    results : mapping of image id to caption
        As from `read_coco_results`.
    annotations : CocoCaptions
        The true captions.
    results_name : str
        Name of the results file, for messages.
    subset : bool
        Whether pictures may be missing from the results.

    Returns
    -------
    list of lists of str
        The true captions of each picture, in the order of `results`.

    Raises
    ------
    DataFileError
        For results of pictures without annotation, and, without `subset`, for annotated pictures without a result.
    """
    truths = dict(zip(annotations.image_ids, annotations.captions, strict=True))
    unknown = [(i, image_id) for i, image_id in enumerate(results) if image_id not in truths]
    if unknown:
        i, image_id = unknown[0]
        hint = " The annotations have ids of another type." if _other_type(image_id) in truths else ""
        raise DataFileError(
            f"{results_name}: expected captions of annotated images, got {len(unknown)} of {len(results)} of other "
            f"images, the first in entry [{i}] with image_id {image_id!r}.{hint} Use the annotation file of these "
            "results."
        )
    missing = [image_id for image_id in truths if image_id not in results]
    if missing and not subset:
        raise DataFileError(
            f"{results_name}: expected a caption of each of {len(truths)} annotated images, got none of "
            f"{len(missing)}, the first with id {missing[0]!r}. Add them, or score only the pictures in the results "
            "with --subset."
        )
    return [truths[image_id] for image_id in results]


def _other_type(image_id: int | str) -> int | str:
    if isinstance(image_id, int):
        return str(image_id)
    return int(image_id) if image_id.isascii() and image_id.isdigit() and len(image_id) < 19 else image_id
