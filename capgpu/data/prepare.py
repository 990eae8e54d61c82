"""Preparation of a data set: splits, words, vocabulary, token ids and features of captioned pictures in any format.

The vocabulary is built from the training captions only. During a preparation, the output folder contains
``preparing/`` with the settings and the features computed so far (`capgpu.data.staging`), from which the same
preparation resumes. Earlier contents are replaced when the new data set is complete.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from capgpu.data.arrays import HostArray, stored_dtype
from capgpu.data.feature_files import FeatureFile
from capgpu.data.feature_journal import Helpers
from capgpu.data.picture_folder import is_file, nearest_file, printable
from capgpu.data.prepared_dataset import save_prepared
from capgpu.data.source import UNSPLIT, Pictures, Source
from capgpu.data.split import split_pictures
from capgpu.data.split_features import attach_features, gather_features, project_features
from capgpu.data.staging import check_output_folder, open_staging, publish
from capgpu.data.text_files import DataFileError
from capgpu.errors import InvalidValueError
from capgpu.folder_lock import folder_lock
from capgpu.tokens import TOKENIZERS, interned
from capgpu.visible_text import short
from capgpu.vocabulary import END, SPECIAL_WORDS, UNK, UNKNOWN_WORD, Vocabulary

if TYPE_CHECKING:
    from capgpu.vision import PictureEncoder

__all__ = ["MAX_UNREADABLE", "PrepareConfig", "PrepareResult", "fingerprint", "prepare"]

#: The largest fraction of pictures that may be missing or unreadable.
MAX_UNREADABLE = 0.5
#: The default minimum count of words: at most this, and lower as long as more than this fraction would be unknown.
#: 5 is usual for COCO, where 1% become unknown; of a few hundred captions, most words would.
_MAX_MIN_COUNT, _MAX_UNKNOWN = 5, 0.05
#: Unknown words in captions that other programs have processed.
_UNKNOWN = re.compile(r"[<\[] ?unk ?[>\]]", re.IGNORECASE)
_URL = re.compile(r"(?:^|/)(?:https?|ftp|s3|gs):/")


@dataclass(frozen=True)
class PrepareConfig:
    """Settings of a preparation.

    Attributes
    ----------
    tokens : str
        The tokenizer, one of `capgpu.tokens.TOKENIZERS`.
    min_count : int or None
        Words that occur fewer times in the training captions become ``<UNK>``. None: the largest of 1 to 5 that makes
        at most 5% of the words in the training captions unknown, which is 5 for large sets and less for small ones.
    max_words : int or None
        Maximum vocabulary size, special tokens included.
    max_length : int or None
        Maximum number of words per caption; longer captions are truncated.
    val, test : float
        Fractions of the pictures for these splits, if the source has no splits.
    seed : int
        Seed of the random split.
    pca : int or None
        Number of principal components of the features.
    """

    tokens: str = "coco"
    min_count: int | None = None
    max_words: int | None = None
    max_length: int | None = None
    val: float = 0.1
    test: float = 0.1
    seed: int = 0
    pca: int | None = None


@dataclass(frozen=True)
class PrepareResult:
    """Result of a preparation.

    Attributes
    ----------
    report : dict
        Statistics, as JSON can hold them: vocabulary, and for each split pictures, captions, words and their lengths.
    broken : list of str
        Path and cause for each picture that is missing or could not be read; they are omitted.
    wordless : list of str
        Captions without words, with their pictures; they are omitted.
    """

    report: dict[str, Any]
    broken: list[str]
    wordless: list[str]


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def prepare(
    source: Source,
    folder: Path,
    config: PrepareConfig,
    features: FeatureFile | None = None,
    open_encoder: Callable[[], PictureEncoder] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    max_unreadable: float = MAX_UNREADABLE,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    helpers: Helpers | None = None,
) -> PrepareResult:
    """Create a prepared folder.

    Parameters
    ----------
    source : Source
        The captioned pictures.
    folder : path
        The output folder. An interrupted preparation in it with the same settings is resumed: only features of
        pictures that have changed are computed again.
    config : PrepareConfig
        Settings.
    features : FeatureFile, optional
        The features of the pictures.
    open_encoder : callable, optional
        Opens the encoder that computes features from the source's picture files, if `features` is not given.
    settings : mapping, optional
        Further settings, as JSON can hold them: stored in the manifest, and compared with those of an interrupted
        preparation.
    max_unreadable : float
        The largest fraction of pictures, of all and of each split of the source, that may be missing or unreadable.
    force : bool
        Whether an earlier data set or preparation in the folder may be replaced.
    progress : callable
        ``progress(done, total)``, in pictures.
    helpers : Helpers, optional
        Other processes, which compute features, too. The result is that of one process.

    Returns
    -------
    PrepareResult
        Statistics and omitted pictures and captions.

    Raises
    ------
    ValueError
        For a folder with other files or another preparation, or that another process writes, for invalid settings, and
        if all words would be ``<UNK>``.
    DataFileError
        For pictures without features or files, if more pictures than `max_unreadable` are missing or unreadable, and
        if no caption has words.
    OSError
        If a file cannot be read or written.
    """
    _check_config(config)
    if config.pca is not None and features is not None:
        raise InvalidValueError(f"pca: expected None with a file of features, got {config.pca}. Omit pca.")
    if features is None and (
        open_encoder is None or any(pictures.files is None for pictures in source.splits.values())
    ):
        raise DataFileError(
            f"{source.path}: expected pictures or features, got captions only. Name the folder of the pictures "
            "(--images), or a file of features (--features)."
        )
    check_output_folder(folder, force)
    with folder_lock(folder):
        described = source  # also the pictures without captions: a feature file may have rows in this order
        source = _captioned(source)
        if features is None:
            _check_present(source, max_unreadable)
        splits = split_pictures(source, config.val, config.test, config.seed)
        words, wordless = _tokenize(splits, config)
        vocabulary, counts = _vocabulary(words["train"], config)  # its errors are raised before features are computed
        everything = {
            **asdict(config),
            **(settings or {}),
            "source's sha256": " ".join(map(fingerprint, (source.path, *source.more))),
        }
        encoder = None
        if features is None:
            encoder = _encoder(open_encoder, config, len(splits["train"]))
            everything["network's sha256"] = encoder.sha256
        else:
            everything["features' sha256"] = fingerprint(features.path)
            splits = attach_features(splits, described, features)
        total = sum(map(len, splits.values()))
        work = open_staging(folder, everything, force)
        kept, rows, broken = gather_features(splits, encoder, work, lambda done: progress(done, total), helpers)
        if "train" not in kept:
            if not kept:
                shutil.rmtree(work)  # nothing to resume
            raise DataFileError(
                f"{source.path}: expected at least one readable training picture, got none. The first: {broken[0]}."
            )
        unreadable = {name: len(splits[name]) - len(kept.get(name, ())) for name in splits}
        _check_readable(source, unreadable, max_unreadable, lambda: broken[0])
        splits = {name: splits[name].take(indices) for name, indices in kept.items()}
        words = {name: [words[name][index] for index in indices] for name, indices in kept.items()}
        if unreadable["train"]:  # words of pictures without features cannot be learnt
            vocabulary, counts = _vocabulary(words["train"], config)
        if config.pca is not None:
            from capgpu.vision.projection import fit_projection

            assert encoder is not None
            cells = rows["train"].reshape(-1, encoder.network_dim)
            encoder = encoder.with_projection(fit_projection(cells, config.pca))
            rows = project_features(encoder, rows, work)
        data, report = _encode(splits, words, rows, vocabulary, config)
        report["words in training captions"], report["minimum count"] = len(counts), _min_count(counts, config)
        report["unreadable pictures"], report["captions without words"] = broken, wordless
        finished = work / "finished"
        shutil.rmtree(finished, ignore_errors=True)  # of a killed process
        if encoder is not None:
            encoder.save(finished)
        save_prepared(finished, data, tokens=config.tokens, settings=everything, report=report)
        publish(finished, folder)
        shutil.rmtree(work, ignore_errors=True)  # the data set is complete, even if this fails
        return PrepareResult(report, broken, wordless)


def _encoder(
    open_encoder: Callable[[], PictureEncoder] | None, config: PrepareConfig, n_pictures: int
) -> PictureEncoder:
    """Open the encoder, and check that the training pictures have the number of principal components."""
    assert open_encoder is not None
    encoder = open_encoder()
    max_components = min(encoder.network_dim, n_pictures * (encoder.grid or 1) ** 2 - 1)
    if config.pca is not None and config.pca > max_components:
        raise InvalidValueError(
            f"pca: expected at most {max_components} components of {encoder.network_dim} features of "
            f"{n_pictures} training pictures, got {config.pca}."
        )
    return encoder


def _encode(
    splits: Mapping[str, Pictures],
    words: Mapping[str, list[list[list[str]]]],
    rows: Mapping[str, HostArray],
    vocabulary: Vocabulary,
    config: PrepareConfig,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the data dictionary of pictures with features, and its statistics."""
    data: dict[str, Any] = {"idx_to_word": vocabulary.idx_to_word, "word_to_idx": vocabulary.word_to_idx}
    report: dict[str, Any] = {"vocabulary": len(vocabulary), "splits": {}}
    dtype = stored_dtype(rows["train"])
    shape = rows["train"].shape[1:]
    report["features"] = {
        "shape": list(shape),
        "dtype": dtype.name,
        "bytes a picture": dtype.itemsize * math.prod(shape),
    }
    for name, pictures in splits.items():
        flat = [caption for captions in words[name] for caption in captions]
        captions = vocabulary.encode_all(flat, None if config.max_length is None else config.max_length + 2)
        data[f"{name}_captions"] = captions
        data[f"{name}_image_idxs"] = np.repeat(np.arange(len(pictures)), [len(tokenized) for tokenized in words[name]])
        data[f"{name}_features"] = rows[name]
        data[f"{name}_texts"] = [text for texts in pictures.captions for text in texts]
        data[f"{name}_image_ids"] = pictures.image_ids
        if pictures.files is not None:
            # as UTF-8 in any locale
            paths = (os.fsencode(file.absolute()) for file in pictures.files)
            data[f"{name}_files"] = [path.decode("utf-8", "surrogateescape") for path in paths]
        report["splits"][name] = _statistics(flat, len(pictures), captions, vocabulary)
    return data, report


def _check_config(config: PrepareConfig) -> None:
    if config.tokens not in TOKENIZERS:
        raise InvalidValueError(f"tokens: expected one of {', '.join(TOKENIZERS)}, got {short(config.tokens)}.")
    minima = {"min_count": 1, "max_words": len(SPECIAL_WORDS) + 1, "max_length": 1, "seed": 0, "pca": 1}
    for name, limit in minima.items():
        value = getattr(config, name)
        if value is not None and value < limit:
            special = f" with the {len(SPECIAL_WORDS)} special tokens" if name == "max_words" else ""
            raise InvalidValueError(f"{name}: expected at least {limit}{special}, got {value}.")


def _captioned(source: Source) -> Source:
    """Return the pictures that have captions."""
    splits = {}
    for name, pictures in source.splits.items():
        chosen = [index for index, captions in enumerate(pictures.captions) if captions]
        if not chosen:
            split = "" if name == UNSPLIT else f" of the split {name}"
            raise DataFileError(f"{source.path}: expected captions{split}, got none for {len(pictures):,} pictures.")
        splits[name] = pictures if len(chosen) == len(pictures) else pictures.take(chosen)
    return replace(source, splits=splits)


def _check_present(source: Source, max_unreadable: float) -> None:
    """Check that the picture files are no addresses and that enough of them exist."""
    missing: dict[str, int] = {}
    first: Path | None = None
    for name, pictures in source.splits.items():
        for file in pictures.files or ():
            if _URL.search(file.as_posix()):
                address = _URL.split(file.as_posix())[-1].lstrip("/")
                raise DataFileError(
                    f"{source.path}: expected names of picture files, got an address, the first of {address}. Download "
                    "the pictures, write the names of the files in place of the addresses, and name their folder "
                    "(--images)."
                )
            if not is_file(file):
                missing[name] = missing.get(name, 0) + 1
                first = first or file
    if first is not None:
        _check_readable(source, missing, max_unreadable, partial(_missing, first), "existing")


def _missing(file: Path) -> str:
    """Return the name of a missing file, for a message, and where it is, or the most similar one."""
    folder = next((parent for parent in file.parents if parent.is_dir()), file.parent)
    outer = folder.parent / file.relative_to(folder)
    if is_file(outer):
        return (
            f"{printable(str(file))} (there is {printable(str(outer))} in the folder {printable(str(folder.parent))})"
        )
    nearest = nearest_file(file)
    return printable(str(file)) + (f" (the most similar file is {nearest})" if nearest else "")


def _check_readable(
    source: Source, broken: Mapping[str, int], max_unreadable: float, cause: Callable[[], str], what: str = "readable"
) -> None:
    """Check the numbers of pictures that are missing or unreadable: all, and those of each split of the source."""
    total = sum(map(len, source.splits.values()))
    counts = {"": (sum(broken.values()), total)}
    counts |= {
        f" of the split {name}": (broken.get(name, 0), len(pictures)) for name, pictures in source.splits.items()
    }
    for split, (count, size) in counts.items():
        if count > max_unreadable * size:
            raise DataFileError(
                f"{source.path}: expected {what} pictures, got none for {count:,} of {size:,}{split}, the first "
                f"{cause()}. Name their folder (--images), or omit them with --max-unreadable 1."
            )


def _counted(words: list[list[list[str]]]) -> Counter[str]:
    """Count the words of the captions of some pictures."""
    counts: Counter[str] = Counter()
    for captions in words:
        for caption in captions:
            counts.update(caption)
    del counts[UNKNOWN_WORD]
    return counts


def _min_count(counts: Counter[str], config: PrepareConfig) -> int:
    """Return the minimum count of words, by default one suited to the number of captions."""
    if config.min_count is not None:
        return config.min_count
    total = counts.total()
    for count in range(_MAX_MIN_COUNT, 1, -1):
        if sum(number for number in counts.values() if number < count) <= _MAX_UNKNOWN * total:
            return count
    return 1


def _vocabulary(words: list[list[list[str]]], config: PrepareConfig) -> tuple[Vocabulary, Counter[str]]:
    """Build the vocabulary of the training captions; return the number of occurrences of each word, too."""
    counts = _counted(words)
    min_count = _min_count(counts, config)
    vocabulary = Vocabulary.from_counts(counts, min_count=min_count, max_size=config.max_words)
    if len(vocabulary) == len(SPECIAL_WORDS):
        raise InvalidValueError(
            f"min_count: expected a count that a word reaches in the {sum(map(len, words)):,} training "
            f"captions, got {min_count}: all words would be {UNK}. Lower min_count."
        )
    return vocabulary, counts


def _tokenize(splits: dict[str, Pictures], config: PrepareConfig) -> tuple[dict[str, list[list[list[str]]]], list[str]]:
    """Tokenize all captions; captions without words, and pictures without captions, are removed from `splits`."""
    split = interned(TOKENIZERS[config.tokens])

    def tokenize(text: str) -> list[str]:
        return split(_UNKNOWN.sub(UNKNOWN_WORD, text))

    words: dict[str, list[list[list[str]]]] = {}
    wordless: list[str] = []
    for name, pictures in list(splits.items()):
        tokenized = [[tokenize(text) for text in texts] for texts in pictures.captions]
        for index, texts in enumerate(pictures.captions):
            wordless += [
                f"{pictures.image_ids[index]}: {text}"
                for text, tokens in zip(texts, tokenized[index], strict=True)
                if not tokens
            ]
        indices = [index for index, captions in enumerate(tokenized) if any(captions)]
        if not indices:
            raise DataFileError(
                f"{name}: expected a caption with words, got none; the first is {short(pictures.captions[0][0])}."
            )
        chosen = pictures.take(indices)
        with_words = [
            [text for text, tokens in zip(pictures.captions[index], tokenized[index], strict=True) if tokens]
            for index in indices
        ]
        splits[name] = Pictures(chosen.image_ids, with_words, chosen.files, chosen.features, chosen.rows)
        words[name] = [[caption for caption in tokenized[index] if caption] for index in indices]
    return words, wordless


def _statistics(words: list[list[str]], pictures: int, captions: HostArray, vocabulary: Vocabulary) -> dict[str, Any]:
    """Compute the statistics of a split."""
    lengths = np.array([len(caption) for caption in words])
    ids = vocabulary.word_to_idx
    kept = int((captions > ids[END]).sum())  # words and UNK: the only ids above that of END
    return {
        "pictures": pictures,
        "captions": len(words),
        "words": int(lengths.sum()),
        "words cut off": int(lengths.sum()) - kept,
        "unknown words": int((captions == ids[UNK]).sum()),
        "words a caption": {
            "least": int(lengths.min()),
            "median": float(np.median(lengths)),
            "95th percentile": float(np.percentile(lengths, 95)),
            "most": int(lengths.max()),
        },
    }
