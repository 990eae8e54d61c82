"""From captioned pictures in whatever form to a prepared folder: split, words, vocabulary, token ids, features.

The vocabulary is made from the training captions only. While a preparation is under way its folder holds
``preparing/`` with the settings and the features computed so far (`capgpu.data.staging`); the same preparation
started again goes on from there. What was in the folder before goes when the new data set is whole.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from capgpu.data.arrays import HostArray
from capgpu.data.feature_files import FeatureFile
from capgpu.data.prepared_dataset import save_prepared
from capgpu.data.source import Pictures, Source
from capgpu.data.split import split_pictures
from capgpu.data.split_features import attach_features, gather_features, project_features
from capgpu.data.staging import check_output_folder, open_staging, publish
from capgpu.data.text_files import DataFileError
from capgpu.tokens import TOKENIZERS, interned
from capgpu.vocabulary import END, SPECIAL_WORDS, UNK, Vocabulary

if TYPE_CHECKING:
    from capgpu.vision import PictureEncoder

__all__ = ["PrepareConfig", "PrepareResult", "fingerprint", "prepare"]


@dataclass(frozen=True)
class PrepareConfig:
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
class PrepareResult:
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


def prepare(
    source: Source,
    folder: Path,
    config: PrepareConfig,
    features: FeatureFile | None = None,
    open_encoder: Callable[[], PictureEncoder] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareResult:
    """Make a prepared folder.

    Parameters
    ----------
    source : Source
        The captioned pictures.
    folder : path
        What to make. A preparation that was interrupted there, with the same settings, is taken up: features that were
        computed are not computed again, but of pictures that have changed.
    config : PrepareConfig
        How.
    features : FeatureFile, optional
        The pictures' features.
    open_encoder : callable, optional
        Opens what computes them from the source's picture files, where `features` is not given.
    settings : mapping, optional
        What else the preparation was asked for, as JSON can hold it: kept in the manifest, and compared with that of an
        interrupted preparation.
    force : bool
        Whether what was prepared in the folder, finished or not, may go: it does when the new is whole.
    progress : callable
        ``progress(done, total)``, in pictures.

    Returns
    -------
    PrepareResult
        What was found.

    Raises
    ------
    ValueError
        For a folder that holds something else, or another preparation, and for settings that cannot work, or leave no
        word but ``<UNK>``.
    DataFileError
        For pictures without features or files, and where no picture could be read or no caption has a word.
    OSError
        As the system gives it.
    """
    _check_config(config)
    if config.pca is not None and features is not None:
        raise ValueError("pca reduces the features of pictures; those of a file are taken as they are.")
    if features is None and (
        open_encoder is None or any(pictures.files is None for pictures in source.splits.values())
    ):
        raise DataFileError(
            f"{source.path} gives captions, but nothing to see: name the folder of its pictures (--images), or a file "
            "of features (--features)."
        )
    check_output_folder(folder, force)
    splits = split_pictures(source, config.val, config.test, config.seed)
    words, wordless = _tokenise(splits, config)
    counts = _counted(words["train"])
    _vocabulary(
        counts, sum(map(len, words["train"])), config
    )  # what is wrong with it shows before the features are computed
    everything = {**asdict(config), **(settings or {}), "source's sha256": fingerprint(source.path)}
    encoder = None
    if features is None:
        assert open_encoder is not None
        encoder = open_encoder()
        everything["network's sha256"] = encoder.sha256
        most = min(encoder.network_dim, len(splits["train"]) - 1)
        if config.pca is not None and config.pca > most:
            raise ValueError(
                f"pca is {config.pca}, but {encoder.network_dim} features of {len(splits['train'])} training pictures "
                f"have at most {most} principal components."
            )
    else:
        everything["features' sha256"] = fingerprint(features.path)
        splits = attach_features(splits, source, features)
    work = open_staging(folder, everything, force)

    def tell(done: int) -> None:
        progress(done, sum(map(len, splits.values())))

    kept, rows, broken = gather_features(splits, encoder, work, tell)
    if "train" not in kept:
        if not kept:
            shutil.rmtree(work)  # there is nothing to go on with
        raise DataFileError(f"no training picture of {source.path} could be read. The first: {broken[0]}.")
    # of pictures that have features: a word that stands with others alone could not be learnt
    held = set(kept["train"])
    counts -= _counted([own for place, own in enumerate(words["train"]) if place not in held])
    words = {name: [words[name][place] for place in places] for name, places in kept.items()}
    vocabulary = _vocabulary(counts, sum(map(len, words["train"])), config)
    if config.pca is not None:
        from capgpu.vision.projection import fit_projection

        assert encoder is not None
        encoder = encoder.with_projection(fit_projection(rows["train"], config.pca))
        rows = project_features(encoder, rows, work)

    data: dict[str, Any] = {"idx_to_word": vocabulary.idx_to_word, "word_to_idx": vocabulary.word_to_idx}
    report: dict[str, Any] = {"vocabulary": len(vocabulary), "splits": {}}
    report["words in training captions"] = len(counts)
    for name, places in kept.items():
        pictures = splits[name].take(places)
        own = words[name]
        flat = [caption for captions in own for caption in captions]
        captions = vocabulary.encode_all(flat, None if config.max_length is None else config.max_length + 2)
        data[f"{name}_captions"] = captions
        data[f"{name}_image_idxs"] = np.repeat(np.arange(len(own)), [len(captions) for captions in own])
        data[f"{name}_features"] = rows[name]
        data[f"{name}_texts"] = [text for texts in pictures.captions for text in texts]
        data[f"{name}_image_ids"] = pictures.image_ids
        if pictures.files is not None:
            data[f"{name}_files"] = [str(file.absolute()) for file in pictures.files]
        report["splits"][name] = _figures(flat, len(own), captions, vocabulary)
    report["unreadable pictures"], report["captions without words"] = broken, wordless
    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)  # of a run that was killed
    if encoder is not None:
        encoder.save(finished)
    save_prepared(finished, data, tokens=config.tokens, settings=everything, report=report)
    publish(finished, folder)
    shutil.rmtree(work, ignore_errors=True)  # the data set is whole, whatever becomes of the rest
    return PrepareResult(report, broken, wordless)


def _check_config(config: PrepareConfig) -> None:
    if config.tokens not in TOKENIZERS:
        raise ValueError(f"tokens is {config.tokens!r}; wanted one of {', '.join(TOKENIZERS)}.")
    least = {"min_count": 1, "max_words": len(SPECIAL_WORDS) + 1, "max_length": 1, "seed": 0, "pca": 1}
    for name, limit in least.items():
        value = getattr(config, name)
        if value is not None and value < limit:
            special = f": the {len(SPECIAL_WORDS)} special words count" if name == "max_words" else ""
            raise ValueError(f"{name} is {value}; wanted at least {limit}{special}.")


def _counted(words: list[list[list[str]]]) -> Counter[str]:
    """Count the words of the captions of some pictures."""
    counts: Counter[str] = Counter()
    for own in words:
        for caption in own:
            counts.update(caption)
    return counts


def _vocabulary(counts: Counter[str], captions: int, config: PrepareConfig) -> Vocabulary:
    """Choose the vocabulary among the words of the training pictures' captions."""
    vocabulary = Vocabulary.from_counts(counts, min_count=config.min_count, max_size=config.max_words)
    if len(vocabulary) == len(SPECIAL_WORDS):
        raise ValueError(
            f"no word occurs {config.min_count} times in the {captions:,} training captions, so all would be "
            f"{UNK}: lower min_count."
        )
    return vocabulary


def _tokenise(splits: dict[str, Pictures], config: PrepareConfig) -> tuple[dict[str, list[list[list[str]]]], list[str]]:
    """Split all captions into words; those without any, and pictures left without one, are taken out of `splits`."""
    tokenize = interned(TOKENIZERS[config.tokens])
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


def _figures(words: list[list[str]], pictures: int, captions: HostArray, vocabulary: Vocabulary) -> dict[str, Any]:
    """Count what a split holds."""
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
