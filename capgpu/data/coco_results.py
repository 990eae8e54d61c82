"""Captions in COCO's results format: a JSON list of ``{"image_id": ..., "caption": ...}``, one entry per picture."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from capgpu.checkpoint import atomic_write
from capgpu.data.coco_json import CocoCaptions
from capgpu.data.text_files import DataFileError, check_text, id_of, read_json
from capgpu.errors import InvalidValueError
from capgpu.visible_text import printable_json, short

__all__ = ["MatchedResults", "match_results", "read_coco_results", "write_coco_results"]


def read_coco_results(path: str | os.PathLike[str]) -> dict[int | str, str]:
    """Read a results file.

    Parameters
    ----------
    path : path
        The file, in UTF-8.

    Returns
    -------
    dict of int or str to str
        The caption of each image id, in the order of the file. A caption may be empty.

    Raises
    ------
    DataFileError
        For a damaged file or another format, an image id that occurs twice or is neither an integer nor a text, and a
        caption that is not a text.
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
                f"{where}: expected each image_id once, got {short(image_id)}, as in entry [{first[image_id]}]. Remove "
                "one of the two."
            )
        first[image_id] = i
        caption = entry["caption"]
        blank = isinstance(caption, str) and not caption.strip()
        captions[image_id] = "" if blank else check_text(caption, f"{where}.caption")
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
    lines = (json.dumps({"image_id": image_id, "caption": text}, ensure_ascii=False) for image_id, text in pairs)
    entries = list(map(printable_json, lines))
    with atomic_write(path, "w") as out:
        out.write("[\n" + ",\n".join(entries) + "\n]\n")


@dataclass(frozen=True)
class MatchedResults:
    """Results beside the true captions of their pictures.

    Attributes
    ----------
    captions : dict of image id to str
        The results that are scored.
    references : list of lists of str
        The true captions of each of them.
    notes : list of str
        What was left out or converted, as sentences.
    """

    captions: dict[int | str, str]
    references: list[list[str]]
    notes: list[str]


def match_results(
    results: Mapping[int | str, str], annotations: CocoCaptions, *, results_name: str, subset: bool = False
) -> MatchedResults:
    """Find the true captions of the pictures in a results file.

    Ids are compared as they are; where that finds nothing, as numbers: ``"000000391895"`` is 391895. Annotated pictures
    without a true caption are left out.

    Parameters
    ----------
    results : mapping of image id to caption
        As from `read_coco_results`.
    annotations : CocoCaptions
        The true captions.
    results_name : str
        Name of the results file, for messages.
    subset : bool
        Whether to score the pictures that are in both files, instead of refusing files of different pictures.

    Returns
    -------
    MatchedResults
        In the order of `results`.

    Raises
    ------
    DataFileError
        For no common picture, for two results of one picture, and, without `subset`, for results of pictures without
        annotation and annotated pictures without a result.
    """
    captions, notes = dict(results), []
    truths = dict(zip(annotations.image_ids, annotations.captions, strict=True))
    if truths.keys().isdisjoint(captions):
        numbers = {_number(image_id): image_id for image_id in truths}
        if len(numbers) == len(truths) and any(_number(image_id) in numbers for image_id in captions):
            converted: dict[int | str, str] = {}
            for image_id, caption in captions.items():
                known = numbers.get(_number(image_id), image_id)
                if known in converted:
                    raise DataFileError(
                        f"{results_name}: expected each image_id once, got {short(image_id)} a second time."
                    )
                converted[known] = caption
            captions = converted
            notes.append("The ids of the two files differ in type or leading zeros; they were compared as numbers.")
    uncaptioned = {image_id for image_id, references in truths.items() if not references}
    if uncaptioned:
        notes.append(f"{len(uncaptioned)} annotated pictures without a true caption are left out.")
    unknown = [image_id for image_id in captions if image_id not in truths]
    if unknown and (not subset or len(unknown) == len(captions)):
        i = list(captions).index(unknown[0])
        raise DataFileError(
            f"{results_name}: expected captions of annotated images, got {len(unknown)} of {len(captions)} of other "
            f"images, the first in entry [{i}] with image_id {short(unknown[0])}. Use the annotation file of these "
            "results, or score only the pictures that are in both files with --subset."
        )
    scored = {image_id: text for image_id, text in captions.items() if truths.get(image_id)}
    if not scored:
        raise DataFileError(f"{results_name}: expected captions of pictures with true captions, got none.")
    captioned = truths.keys() - uncaptioned
    missing = [image_id for image_id in truths if image_id in captioned and image_id not in captions]
    if missing and not subset:
        raise DataFileError(
            f"{results_name}: expected a caption of each of {len(captioned)} captioned images, got none of "
            f"{len(missing)}, the first with id {short(missing[0])}. Add them, or score only the pictures in the "
            "results with --subset."
        )
    if subset:
        notes.append(
            f"Subset: {len(scored)} pictures are in both files, {len(unknown)} only in the results, {len(missing)} "
            "only in the annotations."
        )
    return MatchedResults(scored, [truths[image_id] for image_id in scored], notes)


def _number(image_id: int | str) -> int | str:
    """Return an id as the number that it writes, if it does."""
    if isinstance(image_id, str) and image_id.isascii() and image_id.isdigit() and len(image_id) < 19:
        return int(image_id)
    return image_id
