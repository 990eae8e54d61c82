"""Reproducible random split of pictures into train, val and test."""

from __future__ import annotations

import numpy as np

from capgpu.data.source import UNSPLIT, Pictures, Source
from capgpu.data.text_files import DataFileError
from capgpu.errors import InvalidValueError

__all__ = ["split_pictures"]


def split_pictures(source: Source, val: float, test: float, seed: int) -> dict[str, Pictures]:
    """Split a source's pictures; all captions of a picture are in the same split.

    Parameters
    ----------
    source : Source
        The pictures; existing splits are kept.
    val, test : float
        Fractions of the pictures for these splits, in [0, 1); each fraction above 0 gives at least one picture.
    seed : int
        Seed of the permutation.

    Returns
    -------
    dict of str to Pictures
        ``"train"``, ``"val"`` and ``"test"`` first.

    Raises
    ------
    ValueError
        For fractions that leave no training pictures.
    DataFileError
        For a source with splits but without ``train``.
    """
    if UNSPLIT not in source.splits:
        if "train" not in source.splits:
            raise DataFileError(f"{source.path}: expected a split named train, got {', '.join(source.splits)}.")
        usual = [name for name in ("train", "val", "test") if name in source.splits]
        return {name: source.splits[name] for name in (*usual, *sorted(set(source.splits) - set(usual)))}
    pictures = source.splits[UNSPLIT]
    counts = {}
    for name, fraction in (("val", val), ("test", test)):
        if not 0 <= fraction < 1:
            raise InvalidValueError(f"{name}: expected a fraction of the pictures in [0, 1), got {fraction!r}.")
        counts[name] = max(round(fraction * len(pictures)), 1) if fraction > 0 else 0
    held_out = sum(counts.values())
    if held_out >= len(pictures):
        raise InvalidValueError(
            f"val, test: expected fractions that leave training pictures, got {val:g} and {test:g}: {counts['val']} "
            f"and {counts['test']} of {len(pictures)} pictures. Lower them, or set one to 0."
        )
    order = np.random.default_rng(seed).permutation(len(pictures))
    chosen = {"train": order[held_out:], "val": order[: counts["val"]], "test": order[counts["val"] : held_out]}
    # each split in the order of the source
    return {name: pictures.take(np.sort(indices).tolist()) for name, indices in chosen.items() if len(indices)}
