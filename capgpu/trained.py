"""A trained captioner: a model and the encoder of its features, which write captions of pictures."""

from __future__ import annotations

import html
import io
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack, overload

import numpy as np
import numpy.typing as npt

from capgpu.array_origin import torch_advice
from capgpu.backend import is_device_array, to_numpy
from capgpu.captions import Caption
from capgpu.data.picture_folder import is_companion, without_suffix
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.visible_text import short

if TYPE_CHECKING:
    from PIL.Image import Image

    from capgpu.decode import Ensemble, GenerationConfig
    from capgpu.decode.generation_config import GenerationSettings, OneCaptionSettings
    from capgpu.evaluation.captioning import PictureCaptions
    from capgpu.model import CaptioningRNN
    from capgpu.training.run_folder import RunFolder
    from capgpu.vision import Picture, PictureEncoder

__all__ = ["Captions", "Pictures", "TrainedCaptioner", "load", "picture_files"]

logger = logging.getLogger("capgpu")

#: What `TrainedCaptioner.caption` returns: one picture gives one caption, several pictures give a list of them; with
#: ``captions=`` above 1, each picture gives a list.
Captions: TypeAlias = "Caption | list[Caption] | list[list[Caption]]"
#: What `TrainedCaptioner.caption` takes.
Pictures: TypeAlias = "Picture | npt.NDArray[Any] | Iterable[Picture | npt.NDArray[Any]]"


def load(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, encoder: PictureEncoder | None = None
) -> TrainedCaptioner:
    """Load a trained captioner onto the current backend.

    Parameters
    ----------
    path : path, or sequence of path
        A run folder that ``capgpu train`` wrote, or the file or folder of `CaptioningRNN.save`. Several make an
        ensemble, see `capgpu.decode.Ensemble`, with the encoder of the first.
    encoder : PictureEncoder, optional
        The encoder of the features that the model was trained on, see `capgpu.vision.open_encoder`. By default that of
        the run. A model without one captions features.

    Returns
    -------
    TrainedCaptioner
        The captioner. Its encoder is opened at the first picture.

    Raises
    ------
    TypeError, ValueError
        For anything but a path.
    CheckpointError
        If there is no run or model, or it is damaged.
    ValueError
        For models that are no ensemble: with different vocabularies, or features.

    Examples
    --------
    >>> import capgpu
    >>> captioner = capgpu.load("runs/demo")  # doctest: +SKIP
    >>> print(captioner.caption("cat.jpg"))  # doctest: +SKIP
    cat face
    """
    from capgpu.checkpoint import load_model
    from capgpu.training.run_folder import RunFolder
    from capgpu.vision.encoder_config import ENCODER_FILE

    if not isinstance(path, (str, os.PathLike)):
        paths = list(path) if isinstance(path, Iterable) else []
        others = [each for each in paths if not isinstance(each, (str, os.PathLike))]
        if not paths or others:
            raise InvalidTypeError(
                "path: expected the path of a run folder or a model's file, or several, got "
                f"{short(others[0] if others else path)}."
            )
        return _ensemble([load(each, encoder=encoder) for each in paths], [str(os.fspath(each)) for each in paths])
    if not os.fspath(path):  # of pathlib it would be the current folder
        raise InvalidValueError("path: expected the path of a run folder or a model's file, got an empty text.")
    run = RunFolder(path)
    is_file = run.path.suffix == ".safetensors" and not run.path.is_dir()
    if not is_file and (run.config.is_file() or not run.model.is_file()):
        return TrainedCaptioner(run.load_model(), run.load_encoder if encoder is None else encoder, run)
    if encoder is None and (run.path / ENCODER_FILE).is_file():
        from capgpu.vision import PictureEncoder

        return TrainedCaptioner(load_model(run.path), lambda: PictureEncoder.load(run.path))
    return TrainedCaptioner(load_model(run.path), encoder)


def _ensemble(members: Sequence[TrainedCaptioner], names: Sequence[str]) -> TrainedCaptioner:
    """Return captioners as one: that of a single one, or an ensemble with the encoder of the first."""
    from capgpu.decode import Ensemble
    from capgpu.vision.encoder_config import check_same_encoder

    if len(members) == 1:
        return members[0]
    ensemble = Ensemble([member.model for member in members if not isinstance(member.model, Ensemble)], names)
    check_same_encoder(names)
    return TrainedCaptioner(ensemble, members[0]._encoder)


class TrainedCaptioner:
    """A model with the encoder of its features: captions of pictures.

    Parameters
    ----------
    model : CaptioningRNN or Ensemble
        A model whose vocabulary contains ``<START>`` and ``<END>``.
    encoder : PictureEncoder or callable, optional
        The encoder of the features that the model was trained on, or a function that opens it. Without one, features
        are captioned, but no pictures.
    run : RunFolder, optional
        The run of the model.

    Attributes
    ----------
    model : CaptioningRNN or Ensemble
        The model.
    run : RunFolder or None
        The run of the model.
    """

    def __init__(
        self,
        model: CaptioningRNN | Ensemble,
        encoder: PictureEncoder | Callable[[], PictureEncoder] | None = None,
        run: RunFolder | None = None,
    ) -> None:
        self.model, self.run = model, run
        self._encoder = encoder

    @property
    def encoder(self) -> PictureEncoder:
        """The encoder of the features, opened at the first use.

        Raises
        ------
        ValueError
            If the encoder is unknown.
        MissingExtraError
            If a package that it needs is not installed.
        """
        if self._encoder is None:
            raise InvalidValueError(
                "encoder: expected one, which computes the features of pictures, got none. Pass it: "
                "capgpu.load(path, encoder=capgpu.vision.open_encoder(...)); or pass features instead of pictures."
            )
        if callable(self._encoder):
            self._encoder = self._encoder()
        return self._encoder

    @overload
    def caption(
        self,
        pictures: Image | io.BytesIO,
        *,
        on_error: Literal["raise", "skip"] = "raise",
        **settings: Unpack[OneCaptionSettings],
    ) -> Caption: ...

    @overload
    def caption(  # type: ignore[overload-overlap] # a text is also an iterable of texts
        self,
        pictures: str | os.PathLike[str] | npt.NDArray[Any],
        *,
        on_error: Literal["raise", "skip"] = "raise",
        **settings: Unpack[OneCaptionSettings],
    ) -> Caption | list[Caption]: ...

    @overload
    def caption(
        self,
        pictures: Iterable[Picture | npt.NDArray[Any]],
        *,
        on_error: Literal["raise", "skip"] = "raise",
        **settings: Unpack[OneCaptionSettings],
    ) -> list[Caption]: ...

    @overload
    def caption(
        self,
        pictures: Pictures,
        *,
        on_error: Literal["raise", "skip"] = "raise",
        **settings: Unpack[GenerationSettings],
    ) -> Captions: ...

    def caption(
        self,
        pictures: Pictures,
        *,
        on_error: Literal["raise", "skip"] = "raise",
        **settings: Unpack[GenerationSettings],
    ) -> Captions:
        """Write captions of pictures: greedily, unless a beam or a temperature is given.

        Parameters
        ----------
        pictures : path, io.BytesIO, PIL.Image.Image, numpy.ndarray, or iterable of these
            A picture file, a folder of picture files, the contents of a file, an open image, pixels (uint8, of shape
            (height, width), (height, width, 3 or 4), or (N, height, width, 3 or 4) for several), features (floating, of
            shape (D,) or (N, D), of grids (L, D) or (N, L, D)), or several of them.
        on_error : {"raise", "skip"}
            What to do about pictures that cannot be read; skipped ones are logged, and missing in the result, whose
            captions have their ``source``.
        **settings
            As for `capgpu.decode.GenerationConfig`: ``beam=5``, ``temperature=0.8``, ``top_k``, ``top_p``, ``seed``,
            ``captions=3`` (per picture), ``max_length``, ``attention=True`` for the weights of attention, and others.

        Returns
        -------
        Caption, list of Caption, or list of list of Caption
            One picture gives a caption; a folder, a list or an array of several gives a list. With ``captions`` above
            1, each picture gives a list, the best caption first.

        Raises
        ------
        TypeError, ValueError
            For pictures that cannot be read, features that do not fit the model, or settings out of range.
        FileNotFoundError
            For a file that does not exist.
        MissingExtraError
            If a package that the encoder needs is not installed.

        Examples
        --------
        >>> import numpy as np, capgpu
        >>> words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3, "cat": 4}
        >>> captioner = capgpu.TrainedCaptioner(capgpu.CaptioningRNN(words, 4, 5, 6, "lstm", seed=0))
        >>> caption = captioner.caption(np.ones(4, np.float32), max_length=3)
        >>> len(caption.tokens) == len(caption.probabilities)
        True
        >>> [len(captions) for captions in captioner.caption(np.ones((2, 4), np.float32), beam=3, captions=2)]
        [2, 2]
        """
        from capgpu.decode import GenerationConfig

        config = GenerationConfig.of(**settings)
        if on_error not in ("raise", "skip"):
            raise InvalidValueError(f"on_error: expected 'raise' or 'skip', got {on_error!r}.")
        axes = 2 if self.model.attends else 1
        items, single = _items(pictures, axes)
        features = _features(items, axes)
        if not items:
            lists: list[list[Caption]] = []
        elif features is not None:
            lists = self.caption_features(features, config)
        else:
            for item in items:
                _check_picture(item, must_exist=on_error == "raise")
            result = self.caption_pictures(items, config)
            if result.errors and (on_error == "raise" or single):
                raise InvalidValueError(
                    f"pictures: expected readable pictures, got {'; '.join(result.errors.values())}"
                )
            for message in result.errors.values():
                logger.warning("skipped %s", message)
            lists = list(result.captions.values())
        if config.captions > 1:
            return lists[0] if single else lists
        best = [captions[0] for captions in lists]
        return best[0] if single else best

    def caption_pictures(
        self,
        pictures: Sequence[Picture],
        config: GenerationConfig | None = None,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> PictureCaptions:
        """Caption pictures, and report those that cannot be read.

        Parameters
        ----------
        pictures : sequence of N paths, PIL.Image.Image or numpy.ndarray of uint8
            The pictures.
        config : GenerationConfig, optional
            Settings of the decoder; greedy by default.
        progress : callable
            Called as ``progress(done, total)`` with the number of pictures read.

        Returns
        -------
        PictureCaptions
            Captions and errors, by the index of the picture.

        Raises
        ------
        CheckpointError
            If the encoder's features do not have the length that the model expects.
        TypeError, ValueError
            As `caption`.
        """
        from capgpu.evaluation.captioning import caption_pictures

        return caption_pictures(self.model, self.encoder, pictures, config, progress=progress)

    def caption_features(
        self, features: npt.NDArray[Any], config: GenerationConfig | None = None
    ) -> list[list[Caption]]:
        """Caption feature vectors.

        Parameters
        ----------
        features : numpy.ndarray, shape (N, D), or (N, L, D) for a model with attention
            Features, moved to the current backend batch by batch.
        config : GenerationConfig, optional
            Settings of the decoder; greedy by default.

        Returns
        -------
        list of list of Caption
            The captions of each vector, the best first.

        Raises
        ------
        TypeError, ValueError
            As `caption`.
        """
        from capgpu.evaluation.captioning import write_caption_lists

        return write_caption_lists(self.model, features, config)

    def history(self) -> list[dict[str, Any]]:
        """Return the record of the run's training, see `capgpu.training.history`.

        Returns
        -------
        list of dict
            Its lines. ``pandas.read_json(captioner.run.history, lines=True)`` reads them as a table.

        Raises
        ------
        ValueError
            If the captioner is not of a run, or the record is damaged.
        FileNotFoundError
            If the run has no record.
        """
        from capgpu.training.history import read_history

        if self.run is None:
            raise InvalidValueError("history: expected the captioner of a run folder, got that of a model's file.")
        return read_history(self.run.history)

    def __repr__(self) -> str:
        where = "" if self.run is None else f" of {self.run.path}"
        return f"<{type(self).__name__}{where}: {self.model!r}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the model, the run's loss curve, and captioned pictures."""
        from capgpu.decode import Ensemble
        from capgpu.report.run_html import run_html

        if isinstance(self.model, Ensemble):
            return f"<pre>{html.escape(repr(self))}</pre>"
        return run_html(self.model, self.run)


def _items(pictures: Any, axes: int) -> tuple[list[Any], bool]:
    """Return the given pictures one by one, and whether it was a single one; a picture's features have so many axes."""
    from PIL.Image import Image

    if isinstance(pictures, (str, os.PathLike)):
        if not os.fspath(pictures):  # of pathlib it would be the current folder
            raise InvalidValueError("pictures: expected a path, got an empty text.")
        path = Path(pictures)
        return (picture_files(path), False) if path.is_dir() else ([pictures], True)
    if isinstance(pictures, (Image, io.BytesIO)):
        return [pictures], True
    if type(pictures).__module__.split(".")[0] == "torch":
        raise InvalidTypeError(torch_advice("pictures"))
    if is_device_array(pictures):
        pictures = to_numpy(pictures)
    if isinstance(pictures, np.ndarray):
        if pictures.ndim == 1 and pictures.dtype.kind in "OU":  # such as a column of file names
            return list(pictures), False
        if np.issubdtype(pictures.dtype, np.floating):
            if pictures.ndim == axes + 1:
                return list(pictures), False
            if pictures.ndim == axes:
                return [pictures], True
        return (list(pictures), False) if pictures.ndim == 4 else ([pictures], True)
    if not isinstance(pictures, Iterable) or isinstance(pictures, (bytes, dict)):
        raise InvalidTypeError(
            "pictures: expected a path, an io.BytesIO, a PIL.Image.Image, a numpy.ndarray, or several of them, got a "
            f"{type(pictures).__name__}."
        )
    return list(pictures), False


def picture_files(folder: Path) -> list[Path]:
    """Return the picture files of a folder.

    Parameters
    ----------
    folder : path
        The folder; those in it are not searched.

    Returns
    -------
    list of path
        Files with a picture's suffix, by name.

    Raises
    ------
    ValueError
        If there is none.
    """
    files = sorted(
        file
        for file in folder.iterdir()
        if without_suffix(file.name) != file.name and not is_companion(file.name) and file.is_file()
    )
    if not files:
        raise InvalidValueError(
            f"{folder}: expected a folder with picture files, got none. Name the files, or another."
        )
    return files


def _features(items: list[Any], axes: int) -> npt.NDArray[Any] | None:
    """Return features as one array; None for pictures."""
    vectors = [
        isinstance(item, np.ndarray)
        and (item.ndim == 1 or (item.ndim == axes and np.issubdtype(item.dtype, np.floating)))
        for item in items
    ]
    if not any(vectors):
        return None
    lengths = {item.shape for item, is_vector in zip(items, vectors, strict=True) if is_vector}
    if not all(vectors) or len(lengths) > 1:
        raise InvalidTypeError(
            "pictures: expected pictures, or feature vectors of one length, got both, or vectors of the lengths "
            f"{', '.join('x'.join(map(str, shape)) for shape in sorted(lengths))}. Caption them apart."
        )
    return np.stack(items)


def _check_picture(picture: Any, *, must_exist: bool) -> None:
    """Check the type of a picture and whether its file exists, before the encoder is opened."""
    from PIL.Image import Image

    if isinstance(picture, (str, os.PathLike)):
        name = os.fspath(picture)
        if "://" in str(name):
            raise InvalidValueError(f"{name}: expected a file on this machine, got an address. Download it first.")
        if must_exist and not os.path.exists(name):
            raise FileNotFoundError(2, "No such file or directory", name)
    elif type(picture).__module__.split(".")[0] == "torch":
        raise InvalidTypeError(torch_advice("pictures"))
    elif not isinstance(picture, (Image, np.ndarray, io.BytesIO)):
        raise InvalidTypeError(
            f"pictures: expected paths, io.BytesIO, PIL.Image.Image or numpy.ndarray, got a {type(picture).__name__}."
        )
