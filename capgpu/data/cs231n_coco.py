"""The COCO set of the cs231n course, in the files that the course ships, by the functions that it calls.

One folder holds, for the splits ``train`` and ``val``:

coco2014_captions.h5
    ``SPLIT_captions`` (N, T) and ``SPLIT_image_idxs`` (N,): token ids, and the picture of each caption.
SPLIT2014_vgg16_fc7_pca.h5, SPLIT2014_vgg16_fc7.h5
    ``features`` (I, 512) and (I, 4096): a row a picture, by VGG-16; the first are principal components of the second.
coco2014_vocab.json
    ``idx_to_word`` and ``word_to_idx``.
SPLIT2014_urls.txt
    A line a picture: where it was found.

Source: cs231n, assignment 3, ``cs231n/coco_utils.py`` and ``cs231n/datasets/get_datasets.sh``.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from capgpu.data.arrays import HostArray, split_arrays
from capgpu.data.feature_files import map_dataset, open_features, open_h5
from capgpu.data.text_files import DataFileError, check_text, read_json, read_text
from capgpu.validation import check_count
from capgpu.vocabulary import Vocabulary, decode_captions

__all__ = [
    "coco_identity",
    "decode_captions",
    "has_pca_features",
    "is_cs231n_coco",
    "load_coco_data",
    "sample_coco_minibatch",
]

Random: TypeAlias = np.random.Generator | int | None

_SPLITS = ("train", "val")
_CAPTIONS = "coco2014_captions.h5"
_VOCABULARY = "coco2014_vocab.json"
#: Rows of features that tell one data set from another.
_ROWS_LOOKED_AT = 256


def _features_file(split: str, pca: bool) -> str:
    return f"{split}2014_vgg16_fc7{'_pca' if pca else ''}.h5"


def _urls_file(split: str) -> str:
    return f"{split}2014_urls.txt"


def is_cs231n_coco(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder holds the course's files, maybe not all of them."""
    names = [_CAPTIONS, *(_features_file(split, pca) for split in _SPLITS for pca in (True, False))]
    return any((Path(folder) / name).is_file() for name in names)


def has_pca_features(folder: str | os.PathLike[str]) -> bool:
    """Tell whether to take a folder's short features: not where it has the long ones alone."""
    there = {
        pca: any((Path(folder) / _features_file(split, pca)).is_file() for split in _SPLITS) for pca in (True, False)
    }
    return there[True] or not there[False]


def load_coco_data(
    base_dir: str | os.PathLike[str], max_train: int | None = None, pca_features: bool = True, *, rng: Random = None
) -> dict[str, Any]:
    """Open the course's COCO set, all of it checked.

    Parameters
    ----------
    base_dir : path
        The folder; that of the course is ``cs231n/datasets/coco_captioning``.
    max_train : int, optional
        Draw so many training captions at random, with replacement, in the place of all. Features stay as they are.
    pca_features : bool
        Whether to take the features of length 512 and not those of length 4096.
    rng : numpy.random.Generator or int, optional
        Draws for `max_train`, or the seed of what does; by default, as in the course, NumPy's global generator, so
        that ``numpy.random.seed`` gives the captions that it gives there.

    Returns
    -------
    dict
        For each split, ``<split>_captions`` (N, T) int32 and ``<split>_image_idxs`` (N,) int32, copies in memory;
        ``<split>_features`` (I, D) float32, a read-only numpy.memmap, see `capgpu.data.feature_files`;
        ``<split>_urls`` (I,) of str; and ``idx_to_word`` (list) and ``word_to_idx`` (dict).

    Raises
    ------
    FileNotFoundError
        Naming the files that are missing, and where they come from.
    DataFileError
        For files that are damaged, of another form, or don't fit each other, naming file and place.
    MissingExtraError
        Without h5py.
    OSError
        As the system gives it.
    ValueError
        For `max_train` below 1.
    """
    check_count("max_train", 1 if max_train is None else max_train, 1)
    folder = Path(base_dir)
    own = [name for split in _SPLITS for name in (_features_file(split, pca_features), _urls_file(split))]
    _check_files(folder, [_CAPTIONS, _VOCABULARY, *own])
    vocabulary = _read_vocabulary(folder / _VOCABULARY)
    data = _read_captions(folder / _CAPTIONS, len(vocabulary))
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
    """Draw captions at random, with replacement, and the features and addresses of their pictures.

    Parameters
    ----------
    data : dict
        As from `load_coco_data`.
    batch_size : int
        Captions to draw.
    split : str
        ``"train"`` or ``"val"``.
    rng : numpy.random.Generator or int, optional
        As for `load_coco_data`.

    Returns
    -------
    captions : numpy.ndarray of int32, shape (batch_size, T)
        The captions drawn.
    image_features : numpy.ndarray of float32, shape (batch_size, D)
        The features of their pictures.
    urls : numpy.ndarray of str, shape (batch_size,)
        Where their pictures were found.

    Raises
    ------
    ValueError
        For a missing split or `batch_size` below 1.
    """
    captions, features, image_idxs = split_arrays(data, split)
    if f"{split}_urls" not in data:
        raise ValueError(f"data has no {split}_urls; capgpu.data.arrays.sample_minibatch draws without them.")
    check_count("batch_size", batch_size, 1)
    chosen = _draw(len(captions), batch_size, rng)
    images = image_idxs[chosen]
    return captions[chosen], features[images], data[f"{split}_urls"][images]


def _draw(limit: int, count: int, rng: Random) -> np.ndarray[Any, np.dtype[np.int64]]:
    if rng is None:
        return np.random.randint(limit, size=count)  # noqa: NPY002 -- the course's own draws, and its own seed
    return np.random.default_rng(rng).integers(0, limit, size=count)


def coco_identity(data: Mapping[str, Any]) -> str:
    """Compute a text that differs between data sets of different contents, however their files are stored.

    Parameters
    ----------
    data : dict
        As from `load_coco_data`.

    Returns
    -------
    str
        16 hexadecimal digits, of all captions and words and of some rows of the features, spread evenly: reading
        gigabytes of them at each start would cost more than it tells.
    """
    digest = hashlib.sha256(repr(data["idx_to_word"]).encode())
    for split in _SPLITS:
        captions, features, image_idxs = split_arrays(data, split)
        rows = np.unique(np.linspace(0, len(features) - 1, _ROWS_LOOKED_AT).round().astype(np.int64))
        for array, values in ((captions, captions), (image_idxs, image_idxs), (features, features[rows])):
            digest.update(f"{array.shape} {array.dtype.str}".encode())
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:16]


# --- files -------------------------------------------------------------------------------------------------


def _check_files(folder: Path, names: list[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(missing)}: not all files of the cs231n course's COCO set are there. The "
            "course's cs231n/datasets/get_datasets.sh fetches coco_captioning.zip and unpacks it to "
            "cs231n/datasets/coco_captioning: run it, and name that folder."
        )


def _read_vocabulary(path: Path) -> Vocabulary:
    content = read_json(path)
    words, ids = (content.get(key) if isinstance(content, dict) else None for key in ("idx_to_word", "word_to_idx"))
    if not isinstance(words, list) or not isinstance(ids, dict):
        raise DataFileError(f"{path} holds no idx_to_word (a list) and word_to_idx (an object).")
    for i, word in enumerate(words):
        check_text(word, f"{path}: idx_to_word[{i}]")
    try:
        vocabulary = Vocabulary(words)
    except ValueError as error:
        raise DataFileError(f"{path}: idx_to_word: {error}.") from error
    for i, word in enumerate(words):
        if ids.get(word) != i:
            raise DataFileError(
                f"{path}: idx_to_word[{i}] is {word!a}, but word_to_idx gives {word!a} the id {ids.get(word)!a}."
            )
    if len(ids) != len(words):
        other = next(word for word in ids if word not in vocabulary)
        raise DataFileError(f"{path}: word_to_idx has the word {other!a}, which idx_to_word lacks.")
    return vocabulary


def _read_captions(path: Path, words: int) -> dict[str, Any]:
    with open_h5(path) as file:
        names = [f"{split}_{part}" for split in _SPLITS for part in ("captions", "image_idxs")]
        data = {name: np.array(map_dataset(file, name)) for name in names}
    for split in _SPLITS:
        captions, image_idxs = data[f"{split}_captions"], data[f"{split}_image_idxs"]
        where = f"{path}: {split}_captions"
        if captions.dtype.kind not in "iu" or captions.ndim != 2 or captions.size == 0 or captions.shape[1] < 2:
            raise DataFileError(
                f"{where} has shape {captions.shape} and dtype {captions.dtype}; wanted token ids, whole numbers "
                "(captions, steps), of one caption and two steps at least."
            )
        if image_idxs.dtype.kind not in "iu" or image_idxs.shape != captions.shape[:1]:
            raise DataFileError(
                f"{path}: {split}_image_idxs has shape {image_idxs.shape} and dtype {image_idxs.dtype}; wanted the "
                f"picture of each caption, whole numbers ({len(captions)},)."
            )
        _check_range(where, captions, words, f"words in {path.with_name(_VOCABULARY)}")
        empty = ~captions.any(axis=1)  # zeros, as in a file that was never written to its end
        if empty.any():
            raise DataFileError(f"{where}[{int(np.argmax(empty))}] is empty: no word, nothing but <NULL>.")
    return data


def _check_range(where: str, ids: HostArray, limit: int, what: str) -> None:
    wrong = (ids < 0) | (ids >= limit)
    if wrong.any():
        place = np.unravel_index(int(np.argmax(wrong)), ids.shape)
        raise DataFileError(
            f"{where}[{', '.join(map(str, place))}] is {ids[place]}, but there are {limit} {what}: wanted 0 to "
            f"{limit - 1}."
        )


def _read_urls(path: Path, pictures: int) -> HostArray:
    # split at line ends alone, whichever they are, as reading a file by lines does
    urls = [line.strip() for line in io.StringIO(read_text(path), newline=None)]
    if len(urls) != pictures:
        raise DataFileError(f"{path} has {len(urls)} lines, but there are features of {pictures} pictures.")
    return np.array(urls)


def _check_lengths(folder: Path, data: Mapping[str, Any], pca: bool) -> None:
    train, val = (data[f"{split}_features"].shape[1] for split in _SPLITS)
    if train != val:
        raise DataFileError(
            f"{folder / _features_file('val', pca)} holds vectors of length {val}, {_features_file('train', pca)} of "
            f"length {train}: they are not of one kind."
        )
