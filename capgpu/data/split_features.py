"""The features of each split's pictures, from a feature file or from the pictures themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from capgpu.data.arrays import HostArray
from capgpu.data.feature_files import FeatureFile
from capgpu.data.feature_journal import collect_features
from capgpu.data.source import Pictures, Source
from capgpu.data.text_files import DataFileError

if TYPE_CHECKING:
    from capgpu.vision import PictureEncoder

__all__ = ["attach_features", "gather_features", "project_features"]

_ROWS_AT_ONCE = 4096


def attach_features(splits: dict[str, Pictures], source: Source, features: FeatureFile) -> dict[str, Pictures]:
    """Give each picture its row of a feature file.

    Parameters
    ----------
    splits : dict of str to Pictures
        The pictures.
    source : Source
        Where they come from: a file without ids has a row a picture in this order.
    features : FeatureFile
        The file.

    Returns
    -------
    dict of str to Pictures
        The same pictures, with features.

    Raises
    ------
    DataFileError
        If the row of a picture is missing, or cannot be told.
    """
    if features.image_ids is None and len(source.splits) > 1:
        raise DataFileError(
            f"{features.path} has no image_ids, but {source.path} has splits: which row is whose cannot be told. Store "
            "image_ids beside features, in .npz or .h5."
        )
    described = source.splits if features.image_ids is None else splits
    everyone = [image for pictures in described.values() for image in pictures.image_ids]
    row = dict(zip(everyone, features.rows_of(everyone).tolist(), strict=True))
    return {
        name: replace(pictures, features=features.rows, rows=np.array([row[image] for image in pictures.image_ids]))
        for name, pictures in splits.items()
    }


def gather_features(
    splits: dict[str, Pictures], encoder: PictureEncoder | None, work: Path, tell: Callable[[int], None]
) -> tuple[dict[str, list[int]], dict[str, HostArray], list[str]]:
    """Gather the features of each split.

    Parameters
    ----------
    splits : dict of str to Pictures
        With picture files, or with features where there is no encoder.
    encoder : PictureEncoder or None
        What computes features.
    work : path
        Where to keep them.
    tell : callable
        Called with the number of pictures that are done.

    Returns
    -------
    kept : dict of str to list of int
        The places of each split's pictures that have features; splits without any are left out.
    rows : dict of str to numpy.memmap of float32
        Their features.
    broken : list of str
        The other pictures: path and cause.

    Raises
    ------
    OSError
        As the system gives it.
    """
    kept: dict[str, list[int]] = {}
    rows: dict[str, HostArray] = {}
    if encoder is None:
        for name, pictures in splits.items():
            features, chosen = pictures.features, pictures.rows
            assert features is not None
            assert chosen is not None
            kept[name] = list(range(len(pictures)))
            shape = len(pictures), features.shape[1]
            rows[name] = _written(work / f"{name}.f32", (features[some] for some in _parts(chosen)), shape)
        return kept, rows, []
    tell(0)
    files = [file for pictures in splits.values() for file in pictures.files or ()]
    computed, places, broken = collect_features(encoder, files, work, tell)
    first = row = 0
    for name, pictures in splits.items():
        own = [place - first for place in places if first <= place < first + len(pictures)]
        if own:
            kept[name], rows[name] = own, computed[row : row + len(own)]
        first, row = first + len(pictures), row + len(own)
    return kept, rows, broken


def project_features(encoder: PictureEncoder, rows: dict[str, HostArray], work: Path) -> dict[str, HostArray]:
    """Apply an encoder's projection to the features of each split, in files of the folder `work`."""
    projection = encoder.projection
    assert projection is not None
    return {
        name: _written(work / f"{name}.f32", (projection.apply(some) for some in _parts(own)), (len(own), encoder.dim))
        for name, own in rows.items()
    }


def _parts(array: HostArray) -> Iterator[HostArray]:
    """Go through the rows of an array some at a time."""
    for start in range(0, len(array), _ROWS_AT_ONCE):
        yield array[start : start + _ROWS_AT_ONCE]


def _written(path: Path, parts: Iterable[HostArray], shape: tuple[int, int]) -> HostArray:
    """Write rows into a file, part by part, and map it."""
    with open(path, "wb") as file:
        for part in parts:
            file.write(np.ascontiguousarray(part, np.float32).data)
    return np.memmap(path, np.float32, "r", shape=shape)
