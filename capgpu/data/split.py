"""Pictures into splits, by chance but reproducibly."""

from __future__ import annotations

import numpy as np

from capgpu.data.source import UNSPLIT, Pictures, Source
from capgpu.data.text_files import DataFileError

__all__ = ["split_pictures"]


def split_pictures(source: Source, val: float, test: float, seed: int) -> dict[str, Pictures]:
    """Divide a source's pictures into splits, all captions of a picture in one.

    Parameters
    ----------
    source : Source
        The pictures; where they have splits, these are kept.
    val, test : float
        Shares of the pictures for these splits, in [0, 1); each above 0 gets a picture at least.
    seed : int
        The same seed divides the same pictures in the same way.

    Returns
    -------
    dict of str to Pictures
        ``"train"``, ``"val"`` and ``"test"`` first.

    Raises
    ------
    ValueError
        For shares that leave nothing to train on.
    DataFileError
        For a source whose splits lack ``train``.
    """
    if UNSPLIT not in source.splits:
        if "train" not in source.splits:
            raise DataFileError(f"{source.path} has the splits {', '.join(source.splits)}; wanted one named train.")
        usual = [name for name in ("train", "val", "test") if name in source.splits]
        return {name: source.splits[name] for name in (*usual, *sorted(set(source.splits) - set(usual)))}
    pictures = source.splits[UNSPLIT]
    counts = {}
    for name, share in (("val", val), ("test", test)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} is {share!r}; wanted a share of the pictures, in [0, 1).")
        counts[name] = max(round(share * len(pictures)), 1) if share > 0 else 0
    held_out = sum(counts.values())
    if held_out >= len(pictures):
        raise ValueError(
            f"val {val:g} and test {test:g} are {counts['val']} and {counts['test']} of {len(pictures)} pictures, so "
            "none is left to train on: lower them, or set one to 0."
        )
    order = np.random.default_rng(seed).permutation(len(pictures))
    chosen = {"train": order[held_out:], "val": order[: counts["val"]], "test": order[counts["val"] : held_out]}
    # in the order of the source: only which split a picture is in is left to chance
    return {name: pictures.take(np.sort(places).tolist()) for name, places in chosen.items() if len(places)}
