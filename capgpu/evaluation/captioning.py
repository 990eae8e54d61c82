"""From features or picture files to sentences: a model's captions as text, with their probabilities."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from capgpu.backend import asarray, to_numpy
from capgpu.captions import Caption
from capgpu.checkpoint import CheckpointError
from capgpu.decode import DecodeResult, GenerationConfig
from capgpu.distributed import ALONE, Communicator
from capgpu.validation import check_count
from capgpu.vocabulary import END, caption_text

if TYPE_CHECKING:
    from capgpu.decode.word_model import WordModel
    from capgpu.vision import Encoded, Picture, PictureEncoder

__all__ = ["PictureCaptions", "caption_pictures", "write_caption_lists", "write_captions"]

#: ``progress(done, total)``.
Progress: TypeAlias = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class PictureCaptions:
    """Captions of pictures.

    Attributes
    ----------
    captions : dict of int to list of Caption
        The captions of each readable picture, the best first, by its index among the given pictures.
    errors : dict of int to str
        Path (or index) and cause for each other picture.
    """

    captions: dict[int, list[Caption]]
    errors: dict[int, str]

    def as_json(self, paths: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
        """Return one object per path: ``picture``, and the best caption's `Caption.as_json`, or ``error``.

        Where there are several captions per picture, ``captions`` has all of them.

        Parameters
        ----------
        paths : sequence of N paths
            The paths given to `caption_pictures`.

        Returns
        -------
        list of N dict
            In the order of the paths.
        """
        return [
            {
                "picture": os.fspath(path),
                **({"error": self.errors[i]} if i in self.errors else _caption_as_json(self.captions[i])),
            }
            for i, path in enumerate(paths)
        ]


def _caption_as_json(captions: list[Caption]) -> dict[str, Any]:
    several = {"captions": [caption.as_json() for caption in captions]} if len(captions) > 1 else {}
    return captions[0].as_json() | several


def write_captions(
    model: WordModel,
    features: npt.NDArray[Any],
    config: GenerationConfig | None = None,
    *,
    batch_size: int = 256,
    progress: Progress = _silent,
    communicator: Communicator = ALONE,
) -> list[Caption]:
    """Generate a caption for each feature vector.

    Parameters
    ----------
    model : WordModel
        A model whose vocabulary contains ``<START>`` and ``<END>``.
    features : numpy.ndarray, shape (N, D), or (N, L, D) for a model with attention
        Features on the host; moved to the current backend batch by batch.
    config : GenerationConfig, optional
        Settings of the decoder; greedy by default.
    batch_size : int
        Hypotheses decoded at a time: a beam search takes fewer pictures.
    progress : callable
        Called as ``progress(done, total)`` with the number of captioned pictures.
    communicator : Communicator
        Joins the processes that call this together: each reads and captions its batches, and all get the same result,
        that of one process.

    Returns
    -------
    list of Caption
        N captions.

    Raises
    ------
    TypeError, ValueError
        For features that do not fit the model, `batch_size` below 1, or settings out of range.
    """
    lists = write_caption_lists(
        model, features, config, batch_size=batch_size, progress=progress, communicator=communicator
    )
    return [captions[0] for captions in lists]


def write_caption_lists(
    model: WordModel,
    features: npt.NDArray[Any],
    config: GenerationConfig | None = None,
    *,
    sources: Sequence[str | int] | None = None,
    batch_size: int = 256,
    progress: Progress = _silent,
    communicator: Communicator = ALONE,
) -> list[list[Caption]]:
    """Generate the captions of each feature vector, `GenerationConfig.captions` of them.

    Parameters
    ----------
    model, features, config, batch_size, progress, communicator
        As for `write_captions`.
    sources : sequence of N str or int, optional
        The pictures' files or indices; by default the rows of `features`.

    Returns
    -------
    list of list of Caption
        For each of N pictures its captions, the best first; a beam search may find fewer than asked for.

    Raises
    ------
    TypeError, ValueError
        As `write_captions`.
    """
    check_count("batch_size", batch_size, 1)
    config = GenerationConfig() if config is None else config
    names = range(len(features)) if sources is None else sources
    pictures = max(batch_size // max(config.beam, 1), 1)
    batches: dict[int, list[list[Caption]]] = {}  # by their first row
    # whole batches to each process: on any backend, the results are those of one process
    for start in range(communicator.rank * pictures, len(features), communicator.size * pictures):
        progress(start, len(features))
        result = config(model, asarray(features[start : start + pictures]), start)
        batches[start] = _caption_lists(model, result, names[start : start + pictures])
    if communicator.size > 1:
        own = [(start, [list(map(astuple, captions)) for captions in batch]) for start, batch in batches.items()]
        for part in communicator.gather(own):
            batches |= {start: list(map(_from_json, batch)) for start, batch in part}
    progress(len(features), len(features))
    return [captions for _, batch in sorted(batches.items()) for captions in batch]


def _from_json(captions: list[Any]) -> list[Caption]:
    """Return captions whose fields have passed through JSON, which has lists alone."""
    return [
        Caption(text, tuple(tokens), tuple(log_probabilities), score, source, tuple(map(tuple, attention)))
        for text, tokens, log_probabilities, score, source, attention in captions
    ]


def _caption_lists(model: WordModel, result: DecodeResult, sources: Sequence[str | int]) -> list[list[Caption]]:
    """Return the captions of a decoder's result as texts."""
    ids = to_numpy(result.ids).astype(np.int64)
    log_probs = to_numpy(result.log_probs).astype(np.float64)
    scores = to_numpy(result.scores).astype(np.float64)
    maps = None if result.attention is None else to_numpy(result.attention).astype(np.float64)
    count, several, steps = ids.shape
    texts = caption_text(ids.reshape(-1, steps), model.idx_to_word)
    end, null = model.word_to_idx[END], model.null
    captions: list[list[Caption]] = []
    for n in range(count):
        of_picture = []
        for k in range(several):
            if not np.isfinite(scores[n, k]):
                continue  # a beam search may find fewer
            words = ids[n, k]
            stops = np.flatnonzero((words == end) | (words == null))
            length = steps if not len(stops) else int(stops[0]) + (words[stops[0]] == end)
            of_picture.append(
                Caption(
                    texts[n * several + k],
                    tuple(model.idx_to_word[index] for index in words[:length].tolist()),
                    tuple(log_probs[n, k, :length].tolist()),
                    float(scores[n, k]),
                    sources[n],
                    () if maps is None else tuple(map(tuple, maps[n, k, :length].tolist())),
                )
            )
        captions.append(of_picture)
    return captions


def caption_pictures(
    model: WordModel,
    encoder: PictureEncoder,
    pictures: Sequence[Picture],
    config: GenerationConfig | None = None,
    *,
    progress: Progress = _silent,
    communicator: Communicator = ALONE,
) -> PictureCaptions:
    """Caption pictures.

    Parameters
    ----------
    model : WordModel
        The model.
    encoder : PictureEncoder
        The encoder of the features that the model was trained on.
    pictures : sequence of N paths, PIL.Image.Image or numpy.ndarray of uint8
        The pictures; paths, where several processes divide them.
    config : GenerationConfig, optional
        Settings of the decoder; greedy by default.
    progress : callable
        Called as ``progress(done, total)`` with the number of encoded pictures.
    communicator : Communicator
        Joins the processes that call this together: each encodes and captions a part of the pictures, and all get the
        same result, that of one process.

    Returns
    -------
    PictureCaptions
        Captions, and errors of pictures that cannot be read.

    Raises
    ------
    CheckpointError
        If the encoder's features do not have the length that the model expects.
    TypeError, ValueError
        As `write_captions`.
    """
    if encoder.dim != model.config["input_dim"]:
        raise CheckpointError(
            f"encoder: expected features of length {model.config['input_dim']}, as the model's, got {encoder.dim}: the "
            "run is inconsistent. Train again."
        )
    if model.attends != (encoder.grid is not None):
        raise CheckpointError(
            "encoder: expected feature grids, as the model's, got vectors: the run is inconsistent. Train again."
            if model.attends
            else "encoder: expected feature vectors, as the model's, got grids: the run is inconsistent. Train again."
        )
    encoded = _encode(encoder, pictures, progress, communicator)
    sources = [_source(pictures[i], i) for i in encoded.kept]
    captions = write_caption_lists(model, encoded.features, config, sources=sources, communicator=communicator)
    return PictureCaptions(dict(zip(encoded.kept, captions, strict=True)), dict(encoded.broken))


def _encode(
    encoder: PictureEncoder, pictures: Sequence[Picture], progress: Progress, communicator: Communicator
) -> Encoded:
    """Return the features of all pictures, of which each process computes a part."""
    if communicator.size == 1:
        return encoder.encode(pictures, progress=progress)
    from capgpu.vision import Encoded

    bounds = [len(pictures) * rank // communicator.size for rank in range(communicator.size + 1)]
    start, stop = bounds[communicator.rank : communicator.rank + 2]
    own = encoder.encode(pictures[start:stop], progress=progress)
    parts = communicator.gather([[start + i for i in own.kept], [(start + i, message) for i, message in own.broken]])
    counts = [len(kept) for kept, _ in parts]
    features = np.zeros((sum(counts), *own.features.shape[1:]), own.features.dtype)
    first = sum(counts[: communicator.rank])
    features[first : first + len(own.kept)] = own.features
    communicator.all_reduce(features)  # each row is of one rank, zeros of the others
    return Encoded(
        features, [i for kept, _ in parts for i in kept], [(i, message) for _, broken in parts for i, message in broken]
    )


def _source(picture: Picture, index: int) -> str | int:
    """Return the file of a picture, also of an opened one; or its index."""
    if isinstance(picture, (str, os.PathLike)):
        return os.fspath(picture)
    return getattr(picture, "filename", "") or index
