"""Captions in COCO's results format: a JSON list of ``{"image_id": ..., "caption": ...}``, one entry a picture."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence

from capgpu.checkpoint import atomic_write
from capgpu.data.coco_json import CocoCaptions
from capgpu.data.text_files import DataFileError, check_text, id_of, read_json

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
        For bytes that are not UTF-8, JSON cut short or of another form, an image captioned twice, an id that is no
        whole number or text, a caption that is no text, or empty; naming file and place.
    OSError
        As the system gives it.
    """
    name, entries = os.fspath(path), read_json(path)
    if not isinstance(entries, list):
        hint = " It looks like an annotation file." if isinstance(entries, dict) and "annotations" in entries else ""
        raise DataFileError(
            f'{name} holds a {type(entries).__name__}; wanted a list of {{"image_id": ..., "caption": ...}}.{hint}'
        )
    if not entries:
        raise DataFileError(f"{name} holds no captions: its list is empty.")
    captions: dict[int | str, str] = {}
    places: dict[int | str, int] = {}
    for i, entry in enumerate(entries):
        where = f"{name}: entry [{i}]"
        if not isinstance(entry, dict):
            raise DataFileError(f"{where} is a {type(entry).__name__}; wanted an object.")
        missing = [key for key in ("image_id", "caption") if key not in entry]
        if missing:
            raise DataFileError(f"{where} has no {' and no '.join(missing)}. Wanted both image_id and caption.")
        image_id = id_of(entry, "image_id", where)
        if image_id in places:
            raise DataFileError(
                f"{where} captions the image {image_id!r}, as entry [{places[image_id]}] does. Keep one of the two."
            )
        places[image_id] = i
        caption = entry["caption"]
        if isinstance(caption, str) and not caption.strip():
            if not allow_empty:
                raise DataFileError(f"{where}.caption is empty. Mend it, or let it count as wrong with --allow-empty.")
            captions[image_id] = ""
        else:
            captions[image_id] = check_text(caption, f"{where}.caption")
    return captions


def write_coco_results(path: str | os.PathLike[str], image_ids: Sequence[int | str], captions: Sequence[str]) -> None:
    """Write a results file, whole or not at all.

    Parameters
    ----------
    path : path
        The file; replaced if it exists.
    image_ids : sequence of N int or str
        Each once.
    captions : sequence of N str
        Their captions.

    Raises
    ------
    ValueError
        For unequal numbers, or an image id that stands there twice.
    OSError
        As the system gives it.
    """
    if len(image_ids) != len(captions):
        raise ValueError(f"there are {len(image_ids)} image ids and {len(captions)} captions; wanted as many.")
    twice = [own for own, count in Counter(image_ids).items() if count > 1]
    if twice:
        raise ValueError(f"the image id {twice[0]!r} stands in image_ids twice; wanted one caption a picture.")
    pairs = zip(image_ids, captions, strict=True)
    entries = [json.dumps({"image_id": own, "caption": text}, ensure_ascii=False) for own, text in pairs]
    with atomic_write(path, "w") as out:
        out.write("[\n" + ",\n".join(entries) + "\n]\n")


def match_results(
    results: Mapping[int | str, str], annotations: CocoCaptions, *, results_name: str, subset: bool = False
) -> list[list[str]]:
    """Find the true captions of the pictures in a results file.

    Parameters
    ----------
    results : mapping of image id to caption
        As from `read_coco_results`.
    annotations : CocoCaptions
        The truth.
    results_name : str
        The results file, for messages.
    subset : bool
        Whether pictures may be missing from the results.

    Returns
    -------
    list of lists of str
        The true captions of each picture of `results`, in its order.

    Raises
    ------
    DataFileError
        For results of pictures that have no annotation, and, without `subset`, for annotated pictures that have no
        result.
    """
    truths = dict(zip(annotations.image_ids, annotations.captions, strict=True))
    strangers = [(i, own) for i, own in enumerate(results) if own not in truths]
    if strangers:
        i, own = strangers[0]
        hint = " The annotations have ids of another type." if _other_type(own) in truths else ""
        raise DataFileError(
            f"{results_name}: {len(strangers)} of {len(results)} captions are of images without annotation, the first "
            f"entry [{i}] with image_id {own!r}.{hint} Take the annotation file that these results are for."
        )
    missing = [own for own in truths if own not in results]
    if missing and not subset:
        raise DataFileError(
            f"{results_name} has no caption of {len(missing)} of {len(truths)} annotated images, the first with id "
            f"{missing[0]!r}. Add them, or score only the pictures that are there with --subset."
        )
    return [truths[own] for own in results]


def _other_type(image_id: int | str) -> int | str:
    if isinstance(image_id, int):
        return str(image_id)
    return int(image_id) if image_id.isascii() and image_id.isdigit() and len(image_id) < 19 else image_id
