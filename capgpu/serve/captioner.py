"""The model of a run as the server uses it: loaded, replaced when training writes a new one, and called in batches."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from capgpu.checkpoint import CheckpointError
from capgpu.decode import Ensemble
from capgpu.errors import CapgpuError, InvalidValueError
from capgpu.serve.documents import Caption, Grid, Model, Word
from capgpu.serve.pictures import damaged
from capgpu.serve.problems import RequestError
from capgpu.trained import TrainedCaptioner, load
from capgpu.training.run_folder import RunFolder
from capgpu.vocabulary import END

if TYPE_CHECKING:
    from capgpu.captions import Caption as ModelCaption
    from capgpu.data.datasets import Dataset
    from capgpu.decode import GenerationConfig

__all__ = ["Captioner", "Settings"]


#: Of attention weights in documents: more than a picture can show.
_DIGITS = 5


@dataclass(frozen=True)
class Settings:
    """How a picture is captioned: requests with equal settings are computed together.

    Attributes
    ----------
    captions : int
        Number of captions.
    beam : int
        Width of the beam search, at least `captions`; 1 if captions are sampled.
    temperature : float or None
        Temperature of the sampling; None for the beam search.
    seed : int
        Seed of the sampling.
    """

    captions: int = 5
    beam: int = 5
    temperature: float | None = None
    seed: int = 0

    def config(self) -> GenerationConfig:
        """Return the settings as the decoders take them."""
        from capgpu.decode import GenerationConfig

        return GenerationConfig(captions=self.captions, beam=self.beam, temperature=self.temperature, seed=self.seed)


class Captioner:
    """The model of a run.

    Methods are called by one thread, that of the `capgpu.serve.batching.Batcher`, but for `stale`; attributes may be
    read by any.

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
        self._captioner: TrainedCaptioner | None = None

    def stale(self) -> bool:
        """Return whether the run has a model that has not been loaded."""
        signature = _signature(self._run.model)
        return signature is not None and signature != self._signature

    def refresh(self) -> None:
        """Load the run's model if its file has changed since it was last loaded, and compile what it needs.

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
        missing = None
        try:
            captioner = load(self._run.path)
            try:
                # opens the encoder, compiles the kernels
                captioner.caption_pictures([_blank()], Settings().config())
            except (CheckpointError, InvalidValueError) as error:  # features that were computed elsewhere, for example
                missing = str(error)
        except CapgpuError as error:
            if self._captioner is None:
                self.missing = str(error)
            raise
        self._captioner, self.missing = captioner, missing
        self.model = _model_document(captioner, can_encode=missing is None)
        self.version += 1

    def check_data(self, dataset: Dataset) -> None:
        """Check that the features of a data set are those that the model reads, as far as that is known.

        Parameters
        ----------
        dataset : Dataset
            The data set of the run, which may have been prepared again since.

        Raises
        ------
        CheckpointError
            If they are not.
        """
        self._run.check_encoder(dataset)
        if self._captioner is not None and not isinstance(self._captioner.model, Ensemble):
            self._run.check_data(self._captioner.model, dataset)

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

        Raises
        ------
        RequestError
            With status 503 without a model.
        """
        with suppress(CapgpuError):  # the model that was loaded before remains, or `missing` has the cause
            self.refresh()
        if self.missing is not None or self._captioner is None:
            raise RequestError(503, str(self.missing), retry_after=10)
        config = replace(settings.config(), attention=self._captioner.model.attends)
        if config.samples and len(pictures) > 1:
            # random numbers depend on the position in a batch: each picture is a batch of its own
            return [self.caption_pictures(settings, [picture])[0] for picture in pictures]
        found = self._captioner.caption_pictures([io.BytesIO(picture) for picture in pictures], config)
        return [
            damaged(found.errors[i].partition(": ")[2])
            if i in found.errors
            else [_document(caption) for caption in found.captions[i]]
            for i in range(len(pictures))
        ]

    def caption_features(self, features: npt.NDArray[Any]) -> list[str]:
        """Caption pictures of the data set by their features, greedily.

        Parameters
        ----------
        features : numpy.ndarray, shape (N, D)
            The features.

        Returns
        -------
        list of str
            N captions.
        """
        assert self._captioner is not None
        return [captions[0].text for captions in self._captioner.caption_features(features)]


def _document(caption: ModelCaption) -> Caption:
    maps: list[list[float] | None] = [[round(weight, _DIGITS) for weight in row] for row in caption.attention]
    words = [
        Word(text=token, probability=probability, attention=attention)
        for token, probability, attention in zip(
            caption.tokens, caption.probabilities, maps or [None] * len(caption.tokens), strict=True
        )
    ]
    end = words.pop() if words and words[-1]["text"] == END else None
    return Caption(
        text=caption.text,
        probability=caption.probability,
        log_probability=caption.log_probability,
        words=words,
        end=None if end is None else end["probability"],
        end_attention=None if end is None else end["attention"],
    )


def _blank() -> Any:
    from PIL import Image

    return Image.new("RGB", (8, 8), "grey")


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _model_document(captioner: TrainedCaptioner, *, can_encode: bool) -> Model:
    from capgpu.backend import current_backend

    model, grid = captioner.model, None
    assert not isinstance(model, Ensemble)  # a run has one model
    if model.attends and can_encode:
        encoder = captioner.encoder
        assert encoder.grid is not None  # or the encoder would not fit the model
        grid = Grid(side=encoder.grid, fit=encoder.preprocessing.fit)
    return Model(
        cell=model.cell_type,
        layers=model.n_layers,
        hidden=model.config["hidden_dim"],
        words=len(model.word_to_idx),
        parameters=sum(int(array.size) for array in model.params.values()),
        backend=current_backend().name,
        grid=grid,
    )
