"""The features of each split's pictures, from a feature file or computed from the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from capgpu.data.arrays import HostArray, parts_of, rows_at_once, stored_dtype
from capgpu.data.feature_files import FeatureFile
from capgpu.data.feature_journal import Helpers, collect_features
from capgpu.data.source import UNSPLIT, Pictures, Source
from capgpu.data.text_files import DataFileError
from capgpu.errors import name_os_errors

if TYPE_CHECKING:
    from capgpu.vision import PictureEncoder

__all__ = ["attach_features", "gather_features", "project_features"]


def attach_features(splits: dict[str, Pictures], source: Source, features: FeatureFile) -> dict[str, Pictures]:
    """Assign each picture its row of a feature file.

    Parameters
    ----------
    splits : dict of str to Pictures
        The pictures.
    source : Source
        Their source: a file without ids has one row per picture in this order. It is refused if the source has splits,
        even one: its rows may be in the order of that split's list.
    features : FeatureFile
        The feature file.

    Returns
    -------
    dict of str to Pictures
        The same pictures, with features.

    Raises
    ------
    DataFileError
        If the row of a picture is missing or unknown.
    """
    if features.image_ids is None and UNSPLIT not in source.splits:
        raise DataFileError(
            f"{features.path}: expected image_ids, since {source.path} has splits, got none. Store image_ids with the "
            "features, in .npz or .h5."
        )
    described = source.splits if features.image_ids is None else splits
    all_ids = [image for pictures in described.values() for image in pictures.image_ids]
    repeated = next((image for image, count in Counter(all_ids).items() if count > 1), None)
    if repeated is not None:
        raise DataFileError(
            f"{features.path}: expected features of distinct images, got {repeated!r} in several splits of "
            f"{source.path}: their rows cannot be told apart. Give each image its own id, or compute features from the "
            "pictures (--images)."
        )
    row = dict(zip(all_ids, features.rows_of(all_ids).tolist(), strict=True))
    return {
        name: replace(pictures, features=features.rows, rows=np.array([row[image] for image in pictures.image_ids]))
        for name, pictures in splits.items()
    }


def gather_features(
    splits: dict[str, Pictures],
    encoder: PictureEncoder | None,
    work: Path,
    progress: Callable[[int], None],
    helpers: Helpers | None = None,
) -> tuple[dict[str, list[int]], dict[str, HostArray], list[str]]:
    """Gather or compute the features of each split.

    Parameters
    ----------
    splits : dict of str to Pictures
        With picture files, or with features if `encoder` is None.
    encoder : PictureEncoder or None
        Computes features.
    work : path
        Folder of the results.
    progress : callable
        Called with the number of finished pictures.
    helpers : Helpers, optional
        Other processes, which compute features, too.

    Returns
    -------
    kept : dict of str to list of int
        Indices of each split's pictures with features; splits without any are omitted.
    rows : dict of str to numpy.memmap
        Their features: float32, or float16 for grids that are computed or stored in it.
    broken : list of str
        Path and cause for each other picture.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    kept: dict[str, list[int]] = {}
    rows: dict[str, HostArray] = {}
    if encoder is None:
        for name, pictures in splits.items():
            features, chosen = pictures.features, pictures.rows
            assert features is not None
            assert chosen is not None
            kept[name] = list(range(len(pictures)))
            shape = len(pictures), *features.shape[1:]
            dtype = stored_dtype(features)
            step = rows_at_once(features)
            parts = (features[chosen[start : start + step]] for start in range(0, len(chosen), step))
            rows[name] = _written(work / f"{name}.bin", parts, shape, dtype)
        return kept, rows, []
    progress(0)
    files = [file for pictures in splits.values() for file in pictures.files or ()]
    computed, readable, broken = collect_features(encoder, files, work, progress, helpers)
    first = row = 0
    for name, pictures in splits.items():
        indices = [index - first for index in readable if first <= index < first + len(pictures)]
        if indices:
            kept[name], rows[name] = indices, computed[row : row + len(indices)]
        first, row = first + len(pictures), row + len(indices)
    return kept, rows, broken


def project_features(encoder: PictureEncoder, rows: dict[str, HostArray], work: Path) -> dict[str, HostArray]:
    """Apply an encoder's projection to the features of each split, in files of the folder `work`."""
    projection = encoder.projection
    assert projection is not None
    return {
        name: _written(
            work / f"{name}.bin",
            (projection.apply(part) for part in parts_of(array)),
            (len(array), *encoder.shape),
            encoder.dtype,
        )
        for name, array in rows.items()
    }


def _written(path: Path, parts: Iterable[HostArray], shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
    """Write rows to a file in parts, and map it."""
    with name_os_errors(path), open(path, "wb") as file:
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).data)
    return np.memmap(path, dtype, "r", shape=shape)
