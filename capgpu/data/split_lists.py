"""Lists of the pictures of each split, beside a file of captions: Flickr8k's official lists, and ``train.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from capgpu.data.picture_folder import is_companion, without_suffix
from capgpu.data.source import split_name
from capgpu.data.text_files import DataFileError, lines_of, read_text

__all__ = ["listed_splits"]

_LIST = re.compile(r"(?:flickr_?(?:8k|30k)[._-])?(train|dev|val|valid|validation|test)(?:images)?\.txt", re.IGNORECASE)


def listed_splits(folder: Path, images: Iterable[str]) -> tuple[dict[str, str], list[str]] | None:
    """Read the lists of the splits of some pictures.

    Parameters
    ----------
    folder : path
        The folder of the lists, such as ``Flickr_8k.trainImages.txt``: a name of a picture per line, also without its
        suffix.
    images : iterable of str
        Names of pictures.

    Returns
    -------
    splits : dict of str to str
        The split of each picture that is in a list.
    notes : list of str
        What was read, for the user.

    None if there is no list for training, or none contains any of the pictures.

    Raises
    ------
    DataFileError
        For a picture in several lists, and two lists of one split.
    """
    lists: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        found = _LIST.fullmatch(file.name)
        if found and file.is_file() and not is_companion(file.name):
            split = split_name(found[1], str(file))
            if split in lists:
                raise DataFileError(
                    f"{folder}: expected one list of the split {split}, got {lists[split].name} and "
                    f"{file.name}. Remove one of the two."
                )
            lists[split] = file
    if "train" not in lists:
        return None
    names = {key: image for image in images for key in (without_suffix(image), image)}
    splits: dict[str, str] = {}
    absent = 0
    for split, file in lists.items():
        for number, line in lines_of(read_text(file)):
            name = line.strip()
            image = names.get(name, names.get(without_suffix(name))) if name else None
            if image is None:
                absent += bool(name)
            elif splits.setdefault(image, split) != split:
                raise DataFileError(
                    f"{file}, line {number}: expected each picture in one list, got {name}, as in "
                    f"{lists[splits[image]].name}."
                )
    if "train" not in splits.values():
        return None
    counts = ", ".join(f"{split} {list(splits.values()).count(split):,} ({lists[split].name})" for split in lists)
    notes = [f"splits of the lists beside it: {counts}"]
    if absent:
        notes.append(f"names in lists without captions: {absent:,}")
    return splits, notes
