"""The model of a run as the server uses it: loaded, replaced when training writes a new one, and called in batches."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capgpu.checkpoint import CheckpointError
from capgpu.errors import InvalidValueError
from capgpu.serve.documents import Caption, Model, Word
from capgpu.serve.pictures import damaged
from capgpu.serve.problems import RequestError
from capgpu.training.run_folder import RunFolder
from capgpu.vocabulary import END

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN
    from capgpu.vision import PictureEncoder

__all__ = ["Captioner", "Settings"]


@dataclass(frozen=True)
class Settings:
    """How a picture is captioned: requests with equal settings are computed together.

    Attributes
    ----------
    captions : int
        Number of captions.
    beam : int
        Width of the beam search, at least `captions`; unused if captions are sampled.
    temperature : float or None
        Temperature of the sampling; None for the beam search.
    seed : int
        Seed of the sampling.
    """

    captions: int = 5
    beam: int = 5
    temperature: float | None = None
    seed: int = 0


class Captioner:
    """The model of a run.

    All methods are called by one thread, that of the `capgpu.serve.batching.Batcher`; attributes may be read by any.

    Parameters
    ----------
    run : RunFolder
        The run.

    Attributes
    ----------
    model : Model or None
        Facts of the loaded model.
    missing : str or None
        Why pictures cannot be captioned; None if they can.
    version : int
        Number of models loaded so far.
    """

    def __init__(self, run: RunFolder) -> None:
        self.model: Model | None = None
        self.missing: str | None = "The run has no model yet: it is written when training has finished."
        self.version = 0
        self._run = run
        self._signature: tuple[int, ...] | None = None
        self._captioner: CaptioningRNN | None = None
        self._encoder: PictureEncoder | None = None

    def stale(self) -> bool:
        """Return whether the run has a model that has not been loaded; may be called by any thread."""
        signature = _signature(self._run.model)
        return signature is not None and signature != self._signature

    def refresh(self) -> None:
        """Load the run's model if its file has changed since it was last loaded.

        Raises
        ------
        CheckpointError
            If the model is damaged; the one loaded before remains.
        MissingExtraError
            If a package that encodes pictures is not installed.
        """
        if not self.stale():
            return
        self._signature = _signature(self._run.model)
        try:
            self._captioner = self._run.load_model()
        except CheckpointError as error:
            if self._captioner is None:
                self.missing = str(error)
            raise
        try:
            self._encoder = self._run.load_encoder()
            self.missing = None
        except (CheckpointError, InvalidValueError) as error:
            self.missing = str(error)
        self.model = _facts(self._captioner)
        self.version += 1

    def caption_pictures(self, settings: Settings, pictures: Sequence[bytes]) -> list[list[Caption] | Exception]:
        """Caption uploaded pictures.

        Parameters
        ----------
        settings : Settings
            How.
        pictures : sequence of N bytes
            Picture files.

        Returns
        -------
        list of N lists of Caption
            For each picture its captions, the best first, or the error of a picture that cannot be decoded.
        """
        self.refresh()
        if self.missing is not None or self._captioner is None or self._encoder is None:
            raise RequestError(503, str(self.missing), retry_after=10)
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, str(i)) for i in range(len(pictures))]
            for path, content in zip(paths, pictures, strict=True):
                path.write_bytes(content)
            encoded = self._encoder.encode(paths)
            results: dict[int, list[Caption] | Exception] = {
                i: damaged(message.partition(": ")[2]) for i, message in encoded.broken
            }
        if encoded.kept:
            captions = self._decode(settings, encoded.features)
            results.update(zip(encoded.kept, captions, strict=True))
        return [results[i] for i in range(len(pictures))]

    def _decode(self, settings: Settings, features: npt.NDArray[Any]) -> list[list[Caption]]:
        from capgpu.backend import asarray, to_numpy
        from capgpu.decode import beam_search, sample

        assert self._captioner is not None
        model = self._captioner
        if settings.temperature is not None:
            rows = np.repeat(features, settings.captions, axis=0)
            result = sample(
                model, asarray(rows), temperature=settings.temperature, seed=settings.seed, suppress_unk=True
            )
        else:
            result = beam_search(model, asarray(features), settings.beam, n_best=settings.captions, suppress_unk=True)
        ids = to_numpy(result.ids).reshape(len(features), settings.captions, -1)
        log_probs = to_numpy(result.log_probs).astype(np.float64).reshape(ids.shape)
        return [
            [_caption(words, logs, model) for words, logs in zip(group_ids, group_logs, strict=True) if words.any()]
            for group_ids, group_logs in zip(ids, log_probs, strict=True)
        ]

    def caption_features(self, features: npt.NDArray[Any]) -> list[str]:
        """Caption pictures by their features."""
        from capgpu.evaluation.captioning import write_captions

        assert self._captioner is not None
        return [caption.text for caption in write_captions(self._captioner, features)]


def _caption(ids: npt.NDArray[Any], log_probs: npt.NDArray[Any], model: CaptioningRNN) -> Caption:
    from capgpu.vocabulary import caption_text

    text = caption_text(ids.astype(np.int64), model.idx_to_word)
    assert isinstance(text, str)
    words, end = [], None
    for i, log_prob in zip(ids, log_probs, strict=True):
        word = model.idx_to_word[int(i)]
        if word == END:
            end = math.exp(log_prob)
            break
        words.append(Word(text=word, probability=math.exp(log_prob)))
    total = float(log_probs.sum())
    return Caption(text=text, probability=math.exp(total), log_probability=total, words=words, end=end)


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _facts(model: CaptioningRNN) -> Model:
    from capgpu.backend import current_backend

    return Model(
        cell=model.cell_type,
        hidden=model.config["hidden_dim"],
        words=len(model.word_to_idx),
        parameters=sum(int(array.size) for array in model.params.values()),
        backend=current_backend().name,
    )
