"""From captioned pictures in whatever form to a prepared folder: split, words, vocabulary, token ids, features.

The vocabulary is made from the training captions only. While a preparation is under way its folder holds
``preparing/`` with the settings and the features computed so far; the same preparation started again goes on from
there. The manifest is written last, see `capgpu.data.prepared`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from capgpu.checkpoint import atomic_write
from capgpu.data.arrays import HostArray
from capgpu.data.feature_files import FeatureFile
from capgpu.data.feature_journal import collect_features
from capgpu.data.prepared import ENCODER_FILES, MANIFEST, is_prepared, save_prepared
from capgpu.data.source import UNSPLIT, Pictures, Source
from capgpu.data.text_files import DataFileError
from capgpu.tokens import TOKENIZERS
from capgpu.vocabulary import UNK, Vocabulary

if TYPE_CHECKING:
    from capgpu.vision import PictureEncoder

__all__ = ["Preparation", "Wanted", "divide", "fingerprint", "prepare"]

_WORK = "preparing"
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Wanted:
    """What a preparation is asked for.

    Attributes
    ----------
    tokens : str
        The tokeniser, one of `capgpu.tokens.TOKENIZERS`.
    min_count : int
        Words that occur fewer times in the training captions become ``<UNK>``.
    max_words : int or None
        The most words of the vocabulary, the special words included.
    max_length : int or None
        Longer captions lose their last words.
    val, test : float
        Shares of the pictures for these splits, where the source has no splits.
    seed : int
        Of that division.
    pca : int or None
        Principal components to reduce the features to.
    """

    tokens: str = "coco"
    min_count: int = 5
    max_words: int | None = None
    max_length: int | None = None
    val: float = 0.1
    test: float = 0.1
    seed: int = 0
    pca: int | None = None


@dataclass(frozen=True)
class Preparation:
    """What a preparation found and made.

    Attributes
    ----------
    report : dict
        Figures, as JSON can hold them: vocabulary, and for each split pictures, captions, words and their lengths.
    broken : list of str
        Pictures that could not be read: path and cause. They are left out.
    wordless : list of str
        Captions without a word, by their pictures. They are left out.
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


def divide(source: Source, wanted: Wanted) -> dict[str, Pictures]:
    """Divide a source's pictures into splits, all captions of a picture in one.

    Parameters
    ----------
    source : Source
        The pictures.
    wanted : Wanted
        The shares, and the seed, for a source without splits; one with splits keeps them.

    Returns
    -------
    dict of str to Pictures
        ``"train"`` first.

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
        return {name: source.splits[name] for name in sorted(source.splits, key=lambda name: (name != "train", name))}
    pictures = source.splits[UNSPLIT]
    counts = {}
    for name, share in (("val", wanted.val), ("test", wanted.test)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} is {share!r}; wanted a share of the pictures, in [0, 1).")
        counts[name] = max(round(share * len(pictures)), 1) if share > 0 else 0
    held_out = sum(counts.values())
    if held_out >= len(pictures):
        raise ValueError(
            f"val {wanted.val:g} and test {wanted.test:g} of {len(pictures)} pictures leave none to train on: lower "
            "them."
        )
    order = np.random.default_rng(wanted.seed).permutation(len(pictures))
    chosen = {"train": order[held_out:], "val": order[: counts["val"]], "test": order[counts["val"] : held_out]}
    # in the order of the source: only which split a picture is in is left to chance
    return {name: pictures.take(np.sort(places).tolist()) for name, places in chosen.items() if len(places)}


def prepare(
    source: Source,
    folder: Path,
    wanted: Wanted,
    features: FeatureFile | None = None,
    open_encoder: Callable[[], PictureEncoder] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Preparation:
    """Make a prepared folder.

    Parameters
    ----------
    source : Source
        The captioned pictures.
    folder : path
        What to make. A preparation that was interrupted there, with the same settings, is taken up.
    wanted : Wanted
        How.
    features : FeatureFile, optional
        The pictures' features.
    open_encoder : callable, optional
        Opens what computes them from the source's picture files, where `features` is not given.
    settings : mapping, optional
        What else the preparation was asked for, as JSON can hold it: kept in the manifest, and compared with that of an
        interrupted preparation.
    force : bool
        Whether what is in the folder, finished or not, may go.
    progress : callable
        ``progress(done, total)``, in pictures.

    Returns
    -------
    Preparation
        What was found.

    Raises
    ------
    ValueError
        For a folder that holds something else, or another preparation, and for settings that cannot work.
    DataFileError
        For pictures without features or files, and where no picture could be read or no caption has a word.
    OSError
        As the system gives it.
    """
    if wanted.tokens not in TOKENIZERS:
        raise ValueError(f"tokens is {wanted.tokens!r}; wanted one of {', '.join(TOKENIZERS)}.")
    if wanted.max_length is not None and wanted.max_length < 1:
        raise ValueError(f"max_length is {wanted.max_length}; wanted at least 1 word.")
    if wanted.pca is not None and features is not None:
        raise ValueError("pca reduces the features of pictures; those of a file are taken as they are.")
    splits = divide(source, wanted)
    words, wordless = _tokenise(splits, wanted)
    vocabulary = Vocabulary.build(
        [caption for own in words["train"] for caption in own], min_count=wanted.min_count, max_size=wanted.max_words
    )
    everything = {**asdict(wanted), **(settings or {}), "source": fingerprint(source.path)}
    encoder = None
    if features is None:
        if open_encoder is None or any(pictures.files is None for pictures in splits.values()):
            raise DataFileError(
                f"{source.path} gives captions, but nothing to see: name the folder of its pictures, or a file of "
                "features."
            )
        encoder = open_encoder()
        everything["encoder"] = encoder.sha256
    else:
        everything["features"] = fingerprint(features.path)
        splits = _with_features(splits, source, features)
    work = _take_up(folder, everything, force)

    def tell(done: int) -> None:
        progress(done, sum(map(len, splits.values())))

    kept, rows, broken = _features(splits, encoder, work, tell)
    if "train" not in kept:
        raise DataFileError(f"no training picture of {source.path} could be read. The first: {(broken or ['none'])[0]}")
    if wanted.pca is not None:
        from capgpu.vision.projection import fit_projection

        assert encoder is not None
        encoder = encoder.with_projection(fit_projection(rows["train"], wanted.pca))
        rows = {name: _projected(encoder, own, work / f"{name}.f32") for name, own in rows.items()}

    data: dict[str, Any] = {"idx_to_word": vocabulary.idx_to_word, "word_to_idx": vocabulary.word_to_idx}
    report: dict[str, Any] = {"vocabulary": len(vocabulary), "splits": {}}
    report["words in training captions"] = len({word for own in words["train"] for caption in own for word in caption})
    for name, places in kept.items():
        pictures = splits[name].take(places)
        own = [words[name][place] for place in places]
        flat = [caption for captions in own for caption in captions]
        captions = vocabulary.encode_all(flat, None if wanted.max_length is None else wanted.max_length + 2)
        data[f"{name}_captions"] = captions
        data[f"{name}_image_idxs"] = np.repeat(np.arange(len(own)), [len(captions) for captions in own])
        data[f"{name}_features"] = rows[name]
        data[f"{name}_texts"] = [text for texts in pictures.captions for text in texts]
        data[f"{name}_image_ids"] = pictures.image_ids
        if pictures.files is not None:
            data[f"{name}_files"] = [str(file.absolute()) for file in pictures.files]
        report["splits"][name] = _figures(flat, len(own), captions, vocabulary)
    report["unreadable pictures"], report["captions without words"] = broken, wordless
    for name in (MANIFEST, *ENCODER_FILES):  # of what was there before, where it may go
        (folder / name).unlink(missing_ok=True)
    if encoder is not None:
        encoder.save(folder)
    save_prepared(folder, data, tokens=wanted.tokens, settings=everything, report=report)
    shutil.rmtree(work)
    return Preparation(report, broken, wordless)


def _tokenise(splits: dict[str, Pictures], wanted: Wanted) -> tuple[dict[str, list[list[list[str]]]], list[str]]:
    """Split all captions into words; those without any, and pictures left without one, are taken out of `splits`."""
    tokenize = TOKENIZERS[wanted.tokens]
    words: dict[str, list[list[list[str]]]] = {}
    wordless: list[str] = []
    for name, pictures in list(splits.items()):
        own = [[tokenize(text) for text in texts] for texts in pictures.captions]
        for place, texts in enumerate(pictures.captions):
            wordless += [
                f"{pictures.image_ids[place]}: {text}"
                for text, found in zip(texts, own[place], strict=True)
                if not found
            ]
        places = [place for place, captions in enumerate(own) if any(captions)]
        if not places:
            raise DataFileError(f"no caption of the split {name} has a word; the first is {pictures.captions[0][0]!r}.")
        left = pictures.take(places)
        with_words = [
            [text for text, found in zip(pictures.captions[place], own[place], strict=True) if found]
            for place in places
        ]
        splits[name] = Pictures(left.image_ids, with_words, left.files, left.features, left.rows)
        words[name] = [[caption for caption in own[place] if caption] for place in places]
    return words, wordless


def _with_features(splits: dict[str, Pictures], source: Source, features: FeatureFile) -> dict[str, Pictures]:
    """Give each picture its row of the feature file; a file without ids has a row a picture in the source's order."""
    if features.image_ids is not None:
        return {name: pictures.with_features(features) for name, pictures in splits.items()}
    everyone = [image for pictures in source.splits.values() for image in pictures.image_ids]
    if len(source.splits) > 1:
        raise DataFileError(
            f"{features.path} has no image_ids, but {source.path} has splits: which row is whose cannot be told. Store "
            "image_ids beside features, in .npz or .h5."
        )
    row = dict(zip(everyone, features.rows_of(everyone).tolist(), strict=True))
    return {
        name: Pictures(
            pictures.image_ids,
            pictures.captions,
            pictures.files,
            features.rows,
            np.array([row[image] for image in pictures.image_ids]),
        )
        for name, pictures in splits.items()
    }


def _take_up(folder: Path, settings: dict[str, Any], force: bool) -> Path:
    """Begin, or take up, a preparation; returns the folder of its work."""
    work = folder / _WORK
    noted = work / "settings.json"
    if force:
        if folder.exists() and not (is_prepared(folder) or work.is_dir() or not any(folder.iterdir())):
            raise ValueError(f"{folder} holds something else; --force only overwrites what was prepared. Name another.")
        shutil.rmtree(work, ignore_errors=True)
    elif is_prepared(folder):
        raise ValueError(f"{folder} holds a finished data set. Name another folder, or overwrite it with --force.")
    elif noted.is_file():
        stored = json.loads(noted.read_text(encoding="utf-8"))
        if stored != json.loads(json.dumps(settings)):
            other = sorted(key for key in stored.keys() | settings.keys() if stored.get(key) != settings.get(key))
            raise ValueError(
                f"{folder} holds an unfinished preparation with other settings ({', '.join(other)}). Go on with the "
                "same ones, or start over with --force."
            )
        return work
    elif folder.exists() and (not folder.is_dir() or any(entry.name != _WORK for entry in folder.iterdir())):
        raise ValueError(f"{folder} exists and is no prepared folder. Name another.")
    work.mkdir(parents=True, exist_ok=True)
    with atomic_write(noted, "w") as file:
        json.dump(settings, file)
    return work


def _features(
    splits: dict[str, Pictures], encoder: PictureEncoder | None, work: Path, tell: Callable[[int], None]
) -> tuple[dict[str, list[int]], dict[str, HostArray], list[str]]:
    """Gather each split's features; returns the places of its pictures that have some, the features, and the others."""
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


def _figures(words: list[list[str]], pictures: int, captions: HostArray, vocabulary: Vocabulary) -> dict[str, Any]:
    """Count what a split holds."""
    lengths = np.array([len(caption) for caption in words])
    ids = vocabulary.word_to_idx
    kept = int((captions > ids["<END>"]).sum())  # words, and UNK, which is behind END
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
