"""The course's data dictionary: its parts, its checks, and the course's way to draw from it.

The dictionary holds, for each split ("train", "val", ...), ``<split>_captions`` (integers, one caption a row,
padded with 0), ``<split>_image_idxs`` (the image of each caption) and ``<split>_features`` (one image a row),
all NumPy arrays on the host, beside ``word_to_idx`` and ``idx_to_word``. What training draws is in
`capgpu.data.batches`.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

import numpy as np

from capgpu.validation import check_count

__all__ = ["Minibatch", "known_finite", "sample_minibatch", "split_arrays", "splits_of", "validate_data"]

HostArray: TypeAlias = np.ndarray[Any, Any]
#: Captions (N, T), features (N, D), and the image index of each caption (N,).
Minibatch: TypeAlias = tuple[HostArray, HostArray, HostArray]

#: Arrays whose entries are known to be finite, by their id: an array that is made of one of them is another.
_finite: weakref.WeakValueDictionary[int, HostArray] = weakref.WeakValueDictionary()

_PARTS = ("captions", "image_idxs", "features")
_ROWS_AT_ONCE = 8192


# --- checks -----------------------------------------------------------------------------------------------


def splits_of(data: Mapping[str, Any]) -> list[str]:
    """Name the splits a data dictionary holds.

    Parameters
    ----------
    data : dict
        The course's data dictionary.

    Returns
    -------
    list of str
        Every name with a ``<name>_captions`` entry.
    """
    return [key.removesuffix("_captions") for key in data if key.endswith("_captions")]


def split_arrays(data: Mapping[str, Any], split: str) -> Minibatch:
    """Take the arrays of one split out of a data dictionary.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    split : str
        ``"train"``, ``"val"``, or another split it holds.

    Returns
    -------
    captions, features, image_idxs : numpy.ndarray
        Of shapes (Nc, T), (Ni, D) and (Nc,).

    Raises
    ------
    TypeError
        If `data` is no dictionary.
    ValueError
        For a missing entry, naming it and the splits that are there.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"data is a {type(data).__name__}; wanted a dict with train_captions and so on.")
    missing = [f"{split}_{part}" for part in _PARTS if f"{split}_{part}" not in data]
    if missing:
        have = splits_of(data)
        near = get_close_matches(split, have, n=1)
        hint = f" Did you mean {near[0]!r}?" if near and near[0] != split else ""
        wanted = ", ".join(f"{split}_{part}" for part in _PARTS)
        raise ValueError(
            f"data has no {', '.join(missing)}: the {split!r} split needs {wanted}.{hint} "
            f"Splits with captions: {', '.join(have) or 'none'}."
        )
    return data[f"{split}_captions"], data[f"{split}_features"], data[f"{split}_image_idxs"]


def validate_data(
    data: Mapping[str, Any],
    splits: Sequence[str] = ("train",),
    *,
    vocab_size: int | None = None,
    feature_dim: int | None = None,
) -> None:
    """Check a data dictionary before anything is computed with it.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    splits : sequence of str
        The splits to check.
    vocab_size : int, optional
        Number of token ids a model knows; by default that of ``idx_to_word`` or ``word_to_idx``.
    feature_dim : int, optional
        Length of the feature vectors a model takes; by default any.

    Raises
    ------
    TypeError
        For captions or image indices that are not integers, features that are not floating, or anything that
        is not a NumPy array.
    ValueError
        For missing entries, wrong ranks, lengths that differ, an empty split, image indices or token ids out
        of range, features that are not finite or not of length `feature_dim`.
    """
    if vocab_size is None:
        vocab_size = _vocabulary_size(data)
    for split in splits:
        captions, features, image_idxs = split_arrays(data, split)
        _check_array(f"{split}_captions", captions, 2, "(captions, steps)", np.integer)
        _check_array(f"{split}_image_idxs", image_idxs, 1, "(captions,)", np.integer)
        _check_array(f"{split}_features", features, 2, "(images, feature length)", np.floating)
        if captions.shape[1] < 2:
            raise ValueError(
                f"{split}_captions has shape {captions.shape}: a caption needs at least 2 steps, <START> and a word."
            )
        if image_idxs.shape[0] != captions.shape[0]:
            raise ValueError(
                f"{split}_image_idxs names the images of {image_idxs.shape[0]} captions, {split}_captions "
                f"holds {captions.shape[0]}; every caption needs one image."
            )
        if feature_dim is not None and features.shape[1] != feature_dim:
            raise ValueError(
                f"{split}_features has vectors of length {features.shape[1]}, the model takes {feature_dim}: "
                f"make the model with input_dim={features.shape[1]}."
            )
        _check_range(f"{split}_image_idxs", image_idxs, features.shape[0], f"rows of {split}_features")
        if vocab_size is not None:
            _check_range(f"{split}_captions", captions, vocab_size, "token ids of the vocabulary")
        _check_finite(f"{split}_features", features)


def _vocabulary_size(data: Mapping[str, Any]) -> int | None:
    words = data.get("idx_to_word") if isinstance(data, Mapping) else None
    if words is not None:
        return len(words)
    ids = data.get("word_to_idx") if isinstance(data, Mapping) else None
    return max(ids.values()) + 1 if ids else None


def _check_array(name: str, array: Any, ndim: int, shape: str, kind: type) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{name} is a {type(array).__module__}.{type(array).__qualname__}; wanted a NumPy array on the "
            "host. Convert it: numpy.asarray(...), or capgpu.to_numpy(...) for a device array."
        )
    if not np.issubdtype(array.dtype, kind):
        wanted, mend = ("integers", "int32") if kind is np.integer else ("floating numbers", "float32")
        raise TypeError(f"{name} has dtype {array.dtype}; wanted {wanted}: {name}.astype(numpy.{mend}).")
    if array.ndim != ndim:
        raise ValueError(f"{name} has shape {array.shape}; wanted {ndim} dimensions: {shape}.")
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: the split is empty. Leave it out or fill it.")


def _check_range(name: str, ids: HostArray, limit: int, what: str) -> None:
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= limit:
        bad = low if low < 0 else high
        row = int(np.argwhere(ids == bad)[0][0])
        raise ValueError(f"{name} holds {bad} in row {row}, but there are {limit} {what}: 0..{limit - 1}.")


def known_finite(array: HostArray) -> HostArray:
    """Note that all entries of an array are known to be finite, so that `validate_data` need not read them.

    Parameters
    ----------
    array : numpy.ndarray
        Read-only. What is known holds for this object alone, not for views, copies or what is computed from it.

    Returns
    -------
    numpy.ndarray
        The same object.

    Raises
    ------
    ValueError
        For an array that can be written to.
    """
    if array.flags.writeable:
        raise ValueError("array: expected a read-only array, got one that can be written to: its entries may change.")
    _finite[id(array)] = array
    return array


def _check_finite(name: str, features: HostArray) -> None:
    if _finite.get(id(features)) is features and not features.flags.writeable:
        return
    for start in range(0, features.shape[0], _ROWS_AT_ONCE):  # in parts: no mask as large as the whole array
        finite = np.isfinite(features[start : start + _ROWS_AT_ONCE]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ValueError(f"{name} holds NaN or infinite values, first in row {row}. Drop those images.")


# --- the course's minibatches -----------------------------------------------------------------------------


def sample_minibatch(
    data: Mapping[str, Any],
    batch_size: int = 100,
    split: str = "train",
    rng: np.random.Generator | int | None = None,
) -> Minibatch:
    """Draw captions at random, with replacement, and the features of their images.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    batch_size : int
        Captions to draw.
    split : str
        The split to draw from.
    rng : numpy.random.Generator or int, optional
        The generator, or a seed for one; by default fresh entropy.

    Returns
    -------
    captions : numpy.ndarray of int, shape (batch_size, T)
        The captions drawn.
    features : numpy.ndarray, shape (batch_size, D)
        The features of their images.
    image_idxs : numpy.ndarray of int, shape (batch_size,)
        The rows of ``<split>_features`` they came from.

    Raises
    ------
    ValueError
        For a missing split or `batch_size` below 1.
    """
    captions, features, image_idxs = split_arrays(data, split)
    check_count("batch_size", batch_size, 1)
    chosen = np.random.default_rng(rng).integers(0, captions.shape[0], size=batch_size)
    images = image_idxs[chosen]
    return captions[chosen], features[images], images
