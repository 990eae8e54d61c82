"""The features of each split's pictures, from a feature file or from the pictures themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
            assert pictures.features is not None
            kept[name] = list(range(len(pictures)))
            rows[name] = _gathered(pictures.features, pictures.rows, work / f"{name}.f32")
        return kept, rows, []
    tell(0)
    files = [file for pictures in splits.values() for file in pictures.files or ()]
    features, places, broken = collect_features(encoder, files, work, tell)
    first = row = 0
    for name, pictures in splits.items():
        own = [place - first for place in places if first <= place < first + len(pictures)]
        if own:
            kept[name], rows[name] = own, features[row : row + len(own)]
        first, row = first + len(pictures), row + len(own)
    return kept, rows, broken


def project_features(encoder: PictureEncoder, rows: dict[str, HostArray], work: Path) -> dict[str, HostArray]:
    """Apply an encoder's projection to the features of each split, in files of the folder `work`."""
    return {name: _projected(encoder, own, work / f"{name}.f32") for name, own in rows.items()}


def _gathered(features: HostArray, chosen: Any, path: Path) -> HostArray:
    """Copy rows of mapped features into a file, some at a time, and map that."""
    with open(path, "wb") as file:
        for start in range(0, len(chosen), _ROWS_AT_ONCE):
            file.write(np.ascontiguousarray(features[chosen[start : start + _ROWS_AT_ONCE]], np.float32).data)
    return np.memmap(path, np.float32, "r", shape=(len(chosen), features.shape[1]))


def _projected(encoder: PictureEncoder, features: HostArray, path: Path) -> HostArray:
    assert encoder.projection is not None
    with open(path, "wb") as file:
        for start in range(0, len(features), _ROWS_AT_ONCE):
            file.write(encoder.projection.apply(features[start : start + _ROWS_AT_ONCE]).data)
    return np.memmap(path, np.float32, "r", shape=(len(features), encoder.dim))
