"""The COCO set of the cs231n course: its files, and functions with the course's names.

One folder contains, for the splits ``train`` and ``val``:

coco2014_captions.h5
    ``SPLIT_captions`` (N, T) and ``SPLIT_image_idxs`` (N,): token ids, and the picture of each caption.
SPLIT2014_vgg16_fc7_pca.h5, SPLIT2014_vgg16_fc7.h5
    ``features`` (I, 512) and (I, 4096): one row per picture, by VGG-16; the first are principal components of the
    second.
coco2014_vocab.json
    ``idx_to_word`` and ``word_to_idx``.
SPLIT2014_urls.txt
    One line per picture: its address.

Source: cs231n, assignment 3, ``cs231n/coco_utils.py`` and ``cs231n/datasets/get_datasets.sh``.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from capgpu.data.arrays import HostArray, split_arrays
from capgpu.data.feature_files import open_features
from capgpu.data.text_files import DataFileError, check_text, read_json, read_text
from capgpu.errors import InvalidValueError
from capgpu.file_formats.hdf5 import open_hdf5
from capgpu.validation import check_count
from capgpu.visible_text import short, visible
from capgpu.vocabulary import START, Vocabulary, decode_captions

__all__ = [
    "coco_identity",
    "decode_captions",
    "has_pca_features",
    "image_from_url",
    "is_cs231n_coco",
    "load_coco_data",
    "sample_coco_minibatch",
]

Random: TypeAlias = np.random.Generator | int | None

_SPLITS = ("train", "val")
_CAPTIONS = "coco2014_captions.h5"
_VOCABULARY = "coco2014_vocab.json"
#: Bytes of a picture that `image_from_url` accepts.
_LARGEST_PICTURE = 2**26
#: Number of rows of features in the identity of a data set.
_N_IDENTITY_ROWS = 256


def _features_file(split: str, pca: bool) -> str:
    return f"{split}2014_vgg16_fc7{'_pca' if pca else ''}.h5"


def _urls_file(split: str) -> str:
    return f"{split}2014_urls.txt"


def is_cs231n_coco(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder contains at least one of the course's files."""
    names = [_CAPTIONS, *(_features_file(split, pca) for split in _SPLITS for pca in (True, False))]
    return any((Path(folder) / name).is_file() for name in names)


def has_pca_features(folder: str | os.PathLike[str]) -> bool:
    """Return whether to use a folder's short features: unless it contains only the long ones."""
    exists = {
        pca: any((Path(folder) / _features_file(split, pca)).is_file() for split in _SPLITS) for pca in (True, False)
    }
    return exists[True] or not exists[False]


def load_coco_data(
    base_dir: str | os.PathLike[str] = "cs231n/datasets/coco_captioning",
    max_train: int | None = None,
    pca_features: bool = True,
    *,
    rng: Random = None,
) -> dict[str, Any]:
    """Open and validate the course's COCO set.

    Parameters
    ----------
    base_dir : path
        The folder; the default is the course's, relative to the working directory.
    max_train : int, optional
        Number of training captions to sample with replacement; by default all captions. Features are unchanged.
    pca_features : bool
        Whether to use the features of length 512 instead of those of length 4096.
    rng : numpy.random.Generator or int, optional
        Generator, or seed, for `max_train`; by default, as in the course, NumPy's global generator, so that
        ``numpy.random.seed`` gives the same captions as there.

    Returns
    -------
    dict
        For each split, ``<split>_captions`` (N, T) int32 and ``<split>_image_idxs`` (N,) int32, copies in memory;
        ``<split>_features`` (I, D) float32, a read-only numpy.memmap, see `capgpu.data.feature_files`;
        ``<split>_urls`` (I,) of str; and ``idx_to_word`` (list) and ``word_to_idx`` (dict).

    Raises
    ------
    FileNotFoundError
        If files are missing.
    DataFileError
        For files that are damaged, have another format, or are inconsistent.
    MissingExtraError
        If h5py is not installed.
    OSError
        If a file cannot be read.
    ValueError
        For `max_train` below 1.
    """
    check_count("max_train", 1 if max_train is None else max_train, 1)
    folder = Path(base_dir)
    split_files = [name for split in _SPLITS for name in (_features_file(split, pca_features), _urls_file(split))]
    _check_files(folder, [_CAPTIONS, _VOCABULARY, *split_files])
    vocabulary = _read_vocabulary(folder / _VOCABULARY)
    data = _read_captions(folder / _CAPTIONS, vocabulary)
    for split in _SPLITS:
        file = open_features(folder / _features_file(split, pca_features))
        pictures = len(file.rows)
        _check_range(
            f"{folder / _CAPTIONS}: {split}_image_idxs", data[f"{split}_image_idxs"], pictures, f"rows in {file.path}"
        )
        data[f"{split}_features"] = file.rows
        data[f"{split}_urls"] = _read_urls(folder / _urls_file(split), pictures)
    _check_lengths(folder, data, pca_features)
    data |= {"idx_to_word": vocabulary.idx_to_word, "word_to_idx": vocabulary.word_to_idx}
    if max_train is not None:
        chosen = _draw(len(data["train_captions"]), max_train, rng)
        for name in ("train_captions", "train_image_idxs"):
            data[name] = data[name][chosen]
    return data


def sample_coco_minibatch(
    data: Mapping[str, Any], batch_size: int = 100, split: str = "train", *, rng: Random = None
) -> tuple[HostArray, HostArray, HostArray]:
    """Sample captions with replacement, and the features and addresses of their pictures.

    Parameters
    ----------
    data : dict
        As from `load_coco_data`.
    batch_size : int
        Number of captions.
    split : str
        ``"train"`` or ``"val"``.
    rng : numpy.random.Generator or int, optional
        As for `load_coco_data`.

    Returns
    -------
    captions : numpy.ndarray of int32, shape (batch_size, T)
        The captions.
    image_features : numpy.ndarray of float32, shape (batch_size, D)
        The features of their pictures.
    urls : numpy.ndarray of str, shape (batch_size,)
        The addresses of their pictures.

    Raises
    ------
    ValueError
        For a missing split or `batch_size` below 1.
    """
    captions, features, image_idxs = split_arrays(data, split)
    if f"{split}_urls" not in data:
        raise InvalidValueError(
            f"data: expected the entry {split}_urls, got none. capgpu.data.arrays.sample_minibatch does not need it."
        )
    check_count("batch_size", batch_size, 1)
    chosen = _draw(len(captions), batch_size, rng)
    images = image_idxs[chosen]
    return captions[chosen], features[images], data[f"{split}_urls"][images]


def image_from_url(url: str, *, timeout: float = 10.0) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """Download a picture. Many of the course's addresses no longer exist.

    Parameters
    ----------
    url : str
        An http or https address.
    timeout : float
        Seconds to wait for the server.

    Returns
    -------
    numpy.ndarray of uint8, shape (height, width, 3), or None
        RGB; None, after printing the cause, where the address gives no picture.

    Raises
    ------
    ValueError
        For an address that is not http or https.
    """
    from PIL import Image

    from capgpu.vision.preprocessing import openable_formats

    if not url.startswith(("http://", "https://")):
        raise InvalidValueError(f"url: expected an http or https address, got {url!r}.")
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            content = response.read(_LARGEST_PICTURE + 1)
        if len(content) > _LARGEST_PICTURE:
            raise OSError(f"expected at most {_LARGEST_PICTURE} bytes, got more")
        with Image.open(io.BytesIO(content), formats=openable_formats()) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, http.client.HTTPException, Image.DecompressionBombError) as error:
        # Pillow raises SyntaxError for damaged PNG files
        print(visible(f"image_from_url: {url}: {error}"))
        return None


def _draw(limit: int, count: int, rng: Random) -> np.ndarray[Any, np.dtype[np.int64]]:
    if rng is None:
        return np.random.randint(limit, size=count)  # noqa: NPY002 -- the course's own draws, and its own seed
    return np.random.default_rng(rng).integers(0, limit, size=count)


def coco_identity(data: Mapping[str, Any]) -> str:
    """Return an identity that differs between data sets of different contents, independent of their storage.

    Parameters
    ----------
    data : dict
        As from `load_coco_data`.

    Returns
    -------
    str
        16 hexadecimal digits, of all captions and words and of evenly spaced rows of the features: reading gigabytes of
        features at each start would take too long.
    """
    digest = hashlib.sha256(repr(data["idx_to_word"]).encode())
    for split in _SPLITS:
        captions, features, image_idxs = split_arrays(data, split)
        rows = np.unique(np.linspace(0, len(features) - 1, _N_IDENTITY_ROWS).round().astype(np.int64))
        for array, values in ((captions, captions), (image_idxs, image_idxs), (features, features[rows])):
            digest.update(f"{array.shape} {array.dtype.str}".encode())
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:16]


# --- files -------------------------------------------------------------------------------------------------


def _check_files(folder: Path, names: list[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: expected all files of the cs231n course's COCO set, got none named {', '.join(missing)}. The "
            "course's cs231n/datasets/get_datasets.sh downloads them to cs231n/datasets/coco_captioning: run it, and "
            "name that folder."
        )


def _read_vocabulary(path: Path) -> Vocabulary:
    content = read_json(path)
    words, ids = (content.get(key) if isinstance(content, dict) else None for key in ("idx_to_word", "word_to_idx"))
    if not isinstance(words, list) or not isinstance(ids, dict):
        raise DataFileError(f"{path}: expected idx_to_word (a list) and word_to_idx (an object).")
    for i, word in enumerate(words):
        check_text(word, f"{path}: idx_to_word[{i}]")
    try:
        vocabulary = Vocabulary(words)
    except ValueError as error:
        raise DataFileError(f"{path}: idx_to_word: {error}.") from error
    for i, word in enumerate(words):
        if ids.get(word) != i:
            raise DataFileError(
                f"{path}: word_to_idx: expected the id {i} of {short(word)}, as in idx_to_word, got "
                f"{short(ids.get(word))}."
            )
    if len(ids) != len(words):
        other = next(word for word in ids if word not in vocabulary)
        raise DataFileError(f"{path}: word_to_idx: expected the words of idx_to_word, got {short(other)}.")
    return vocabulary


def _read_captions(path: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    start = vocabulary.word_to_idx.get(START)
    with open_hdf5(path, DataFileError) as file:
        names = [f"{split}_{part}" for split in _SPLITS for part in ("captions", "image_idxs")]
        data = {name: np.array(file.map(name)) for name in names}
    for split in _SPLITS:
        captions, image_idxs = data[f"{split}_captions"], data[f"{split}_image_idxs"]
        where = f"{path}: {split}_captions"
        if captions.dtype.kind not in "iu" or captions.ndim != 2 or captions.size == 0 or captions.shape[1] < 2:
            raise DataFileError(
                f"{where}: expected integer token ids (captions, steps), at least one caption and two steps, got shape "
                f"{captions.shape} and dtype {captions.dtype}."
            )
        if image_idxs.dtype.kind not in "iu" or image_idxs.shape != captions.shape[:1]:
            raise DataFileError(
                f"{path}: {split}_image_idxs: expected one integer for each caption, shape ({len(captions)},), got "
                f"shape {image_idxs.shape} and dtype {image_idxs.dtype}."
            )
        _check_range(where, captions, len(vocabulary), f"words in {path.with_name(_VOCABULARY)}")
        empty = ~captions.any(axis=1)  # zeros, as in a truncated file
        if empty.any():
            raise DataFileError(f"{where}[{int(np.argmax(empty))}]: expected at least one word, got only <NULL>.")
        other = captions[:, 0] != start
        if start is not None and other.any():
            row = int(np.argmax(other))
            raise DataFileError(f"{where}[{row}, 0]: expected {START} (id {start}), got id {captions[row, 0]}.")
    return data


def _check_range(where: str, ids: HostArray, limit: int, what: str) -> None:
    wrong = (ids < 0) | (ids >= limit)
    if wrong.any():
        index = np.unravel_index(int(np.argmax(wrong)), ids.shape)
        raise DataFileError(
            f"{where}[{', '.join(map(str, index))}]: expected 0 to {limit - 1} for {limit} {what}, got {ids[index]}."
        )


def _read_urls(path: Path, pictures: int) -> HostArray:
    # split at line ends of any kind only, as reading a file by lines does
    urls = [line.strip() for line in io.StringIO(read_text(path), newline=None)]
    if len(urls) != pictures:
        raise DataFileError(
            f"{path}: expected one line for each of {pictures} pictures with features, got {len(urls)}."
        )
    return np.array(urls)


def _check_lengths(folder: Path, data: Mapping[str, Any], pca: bool) -> None:
    train, val = (data[f"{split}_features"].shape[1] for split in _SPLITS)
    if train != val:
        raise DataFileError(
            f"{folder / _features_file('val', pca)}: expected vectors of length {train}, as in "
            f"{_features_file('train', pca)}, got {val}."
        )
