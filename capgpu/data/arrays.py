"""The cs231n course's data dictionary: access, validation, and the course's random minibatches.

The dictionary holds, for each split ("train", "val", ...), ``<split>_captions`` (integers, one caption a row,
padded with 0), ``<split>_image_idxs`` (the image of each caption) and ``<split>_features`` (one image a row, with a
vector or, for attention, a grid of vectors), all NumPy arrays on the host, and ``word_to_idx`` and ``idx_to_word``. The
minibatches of training are in `capgpu.data.batches`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.validation import check_count
from capgpu.visible_text import hint
from capgpu.vocabulary import NULL, START

__all__ = [
    "Minibatch",
    "known_finite",
    "parts_of",
    "rows_at_once",
    "sample_minibatch",
    "split_arrays",
    "splits_of",
    "stored_dtype",
    "validate_data",
]

HostArray: TypeAlias = np.ndarray[Any, Any]
#: Captions (N, T), features (N, D) or (N, L, D), and the image index of each caption (N,).
Minibatch: TypeAlias = tuple[HostArray, HostArray, HostArray]

#: Arrays with known finite entries, by their id: views and copies of them are not included.
_finite: weakref.WeakValueDictionary[int, HostArray] = weakref.WeakValueDictionary()

_PARTS = ("captions", "image_idxs", "features")
#: Of arrays that are read in parts: they may be larger than memory.
_BYTES_AT_ONCE = 32 << 20


def rows_at_once(array: HostArray) -> int:
    """Return how many rows of an array are read at a time."""
    row: int = array.dtype.itemsize * math.prod(array.shape[1:])
    return max(_BYTES_AT_ONCE // max(row, 1), 1)


def parts_of(array: HostArray) -> Iterator[HostArray]:
    """Yield the rows of an array in parts of 32 MiB.

    Parameters
    ----------
    array : numpy.ndarray
        The array, which may be memory-mapped.

    Yields
    ------
    numpy.ndarray
        Views of consecutive rows.
    """
    step = rows_at_once(array)
    for start in range(0, len(array), step):
        yield array[start : start + step]


def stored_dtype(features: HostArray) -> np.dtype[Any]:
    """Return the dtype in which features are stored: float32, or float16 for grids of it, which are large."""
    return np.dtype(np.float16 if features.ndim == 3 and features.dtype == np.float16 else np.float32)


# --- access and validation ---------------------------------------------------------------------------------


def splits_of(data: Mapping[str, Any]) -> list[str]:
    """Return the names of the splits in a data dictionary.

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
    """Return the arrays of one split of a data dictionary.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    split : str
        ``"train"``, ``"val"``, or another split.

    Returns
    -------
    captions, features, image_idxs : numpy.ndarray
        Arrays of shapes (Nc, T), (Ni, D) or (Ni, L, D), and (Nc,).

    Raises
    ------
    TypeError
        If `data` is not a dictionary.
    ValueError
        For a missing entry.
    """
    if not isinstance(data, Mapping):
        raise InvalidTypeError(f"data: expected a dict with train_captions and so on, got {type(data).__name__}.")
    missing = [f"{split}_{part}" for part in _PARTS if f"{split}_{part}" not in data]
    if missing:
        have = splits_of(data)
        raise InvalidValueError(
            f"data: expected the entries {', '.join(missing)} of the split {split!r}, got none of them."
            f"{hint(split, have)} Splits with captions: {', '.join(have) or 'none'}."
        )
    return data[f"{split}_captions"], data[f"{split}_features"], data[f"{split}_image_idxs"]


def validate_data(
    data: Mapping[str, Any],
    splits: Sequence[str] = ("train",),
    *,
    vocab_size: int | None = None,
    feature_dim: int | None = None,
) -> None:
    """Validate a data dictionary before anything is computed with it.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    splits : sequence of str
        The splits to check.
    vocab_size : int, optional
        Vocabulary size of the model; by default that of ``idx_to_word`` or ``word_to_idx``.
    feature_dim : int, optional
        Length of the model's feature vectors; by default any.

    Raises
    ------
    TypeError
        For captions or image indices that are not integers, features that are not floating-point, or entries that are
        not NumPy arrays.
    ValueError
        For missing entries, wrong ranks, different lengths, an empty split, image indices or token ids out of range,
        captions that do not begin with ``<START>`` where ``word_to_idx`` has it, training captions without any word,
        and features that are not finite or not of length `feature_dim`.
    """
    if vocab_size is None:
        vocab_size = _vocabulary_size(data)
    for split in splits:
        captions, features, image_idxs = split_arrays(data, split)
        _check_array(f"{split}_captions", captions, (2,), "(captions, steps)", np.integer)
        _check_array(f"{split}_image_idxs", image_idxs, (1,), "(captions,)", np.integer)
        _check_array(f"{split}_features", features, (2, 3), "(images, [cells,] feature length)", np.floating)
        if captions.shape[1] < 2:
            raise InvalidValueError(
                f"{split}_captions: expected at least 2 steps, <START> and a word, got shape {captions.shape}."
            )
        if image_idxs.shape[0] != captions.shape[0]:
            raise InvalidValueError(
                f"{split}_image_idxs: expected one image for each of {captions.shape[0]} captions, got "
                f"{image_idxs.shape[0]}."
            )
        if feature_dim is not None and features.shape[-1] != feature_dim:
            raise InvalidValueError(
                f"{split}_features: expected vectors of length {feature_dim}, as the model's input_dim, got "
                f"{features.shape[-1]}. Create the model with input_dim={features.shape[-1]}."
            )
        _check_range(f"{split}_image_idxs", image_idxs, features.shape[0], f"rows of {split}_features")
        if vocab_size is not None:
            _check_range(f"{split}_captions", captions, vocab_size, "token ids of the vocabulary")
        _check_words(data, split, captions)
        _check_finite(f"{split}_features", features)


def _check_words(data: Mapping[str, Any], split: str, captions: HostArray) -> None:
    """Check that captions begin with START, which decoding reads first, and that there is something to learn."""
    ids = data.get("word_to_idx") or {}
    start = ids.get(START)
    if start is not None and (captions[:, 0] != start).any():
        row = int(np.argmax(captions[:, 0] != start))
        raise InvalidValueError(
            f"{split}_captions: expected {START} (id {start}) first in each caption, got id {captions[row, 0]} in row "
            f"{row}. A model that has never read {START} writes arbitrary words: put it before the words."
        )
    if split == "train" and not (captions[:, 1:] != ids.get(NULL, 0)).any():
        raise InvalidValueError(f"{split}_captions: expected words to learn, got {NULL} only.")


def _vocabulary_size(data: Mapping[str, Any]) -> int | None:
    words = data.get("idx_to_word") if isinstance(data, Mapping) else None
    if words is not None:
        return len(words)
    ids = data.get("word_to_idx") if isinstance(data, Mapping) else None
    return max(ids.values()) + 1 if ids else None


def _check_array(name: str, array: Any, ndims: tuple[int, ...], shape: str, kind: type) -> None:
    if not isinstance(array, np.ndarray):
        raise InvalidTypeError(
            f"{name}: expected a NumPy array on the host, got {type(array).__module__}.{type(array).__qualname__}. "
            "Convert it: numpy.asarray(...), or capgpu.to_numpy(...) for a device array."
        )
    if not np.issubdtype(array.dtype, kind):
        expected, dtype = ("integers", "int32") if kind is np.integer else ("floating-point numbers", "float32")
        raise InvalidTypeError(
            f"{name}: expected {expected}, got dtype {array.dtype}. Convert: {name}.astype(numpy.{dtype})."
        )
    if array.ndim not in ndims:
        raise InvalidValueError(f"{name}: expected shape {shape}, got {array.shape}.")
    if array.size == 0:
        raise InvalidValueError(
            f"{name}: expected at least one entry, got shape {array.shape}. Remove the empty split."
        )


def _check_range(name: str, ids: HostArray, limit: int, what: str) -> None:
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= limit:
        bad = low if low < 0 else high
        row = int(np.argwhere(ids == bad)[0][0])
        raise InvalidValueError(f"{name}: expected 0..{limit - 1} for {limit} {what}, got {bad} in row {row}.")


def known_finite(array: HostArray) -> HostArray:
    """Mark an array as finite, so that `validate_data` does not read it.

    Parameters
    ----------
    array : numpy.ndarray
        A read-only array. The mark is that of this object, not of views and copies.

    Returns
    -------
    numpy.ndarray
        The same object.

    Raises
    ------
    ValueError
        For a writable array.
    """
    if array.flags.writeable:
        raise InvalidValueError("array: expected a read-only array, got a writable one, whose entries may change.")
    _finite[id(array)] = array
    return array


def _check_finite(name: str, features: HostArray) -> None:
    if _finite.get(id(features)) is features and not features.flags.writeable:
        return
    start = 0
    for part in parts_of(features):  # without a mask as large as the array
        finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise InvalidValueError(
                f"{name}: expected finite values, got NaN or infinity in row {row}. Remove those images."
            )
        start += len(part)


# --- the course's minibatches -----------------------------------------------------------------------------


def sample_minibatch(
    data: Mapping[str, Any],
    batch_size: int = 100,
    split: str = "train",
    rng: np.random.Generator | int | None = None,
) -> Minibatch:
    """Sample captions with replacement, and the features of their images.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    batch_size : int
        Number of captions.
    split : str
        The split.
    rng : numpy.random.Generator or int, optional
        A generator, or a seed; by default entropy from the system.

    Returns
    -------
    captions : numpy.ndarray of int, shape (batch_size, T)
        The captions.
    features : numpy.ndarray, shape (batch_size, D) or (batch_size, L, D)
        The features of their images.
    image_idxs : numpy.ndarray of int, shape (batch_size,)
        Their rows in ``<split>_features``.

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
