"""Encoders: from picture files to feature vectors or grids, saved to and loaded from folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from capgpu.checkpoint import CheckpointError
from capgpu.errors import InvalidValueError
from capgpu.threads import thread_count
from capgpu.validation import check_count
from capgpu.visible_text import short
from capgpu.vision import efficientnet_lite0
from capgpu.vision.encoder_config import EncoderConfig
from capgpu.vision.network import Network, network_sha256
from capgpu.vision.preprocessing import Channels, Fit, Picture, Preprocessing, strict_pillow
from capgpu.vision.projection import Projection

__all__ = ["Encoded", "PictureEncoder", "open_encoder"]

EFFICIENTNET_LITE0 = "efficientnet-lite0"
#: Mean and standard deviation of ImageNet's pixels, 0 to 255, with which most published networks were trained.
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Encoded(NamedTuple):
    """The features of the pictures that could be read.

    Attributes
    ----------
    features : numpy.ndarray, shape (M, D) or (M, L, D)
        One row per index in `kept`, as `PictureEncoder.shape` and `PictureEncoder.dtype` say.
    kept : list of M int
        Increasing indices of the given pictures.
    broken : list of (int, str)
        The other indices, each with path (or index) and cause.
    """

    features: npt.NDArray[np.float32]
    kept: list[int]
    broken: list[tuple[int, str]]


@dataclass(frozen=True, eq=False)
class PictureEncoder:
    """A network with its preprocessing and projection; `open_encoder` creates one.

    Attributes
    ----------
    name : str
        The network: ``efficientnet-lite0`` or the path of an ONNX file.
    sha256 : str
        SHA-256 of the network's weights, or of the ONNX file and its external weight files.
    network : Network
        The network.
    preprocessing : Preprocessing
        Settings of the preprocessing.
    network_dim : int
        Length of the network's output, or of each cell of its grid.
    projection : Projection or None
        Projection of the output.
    """

    name: str
    sha256: str
    network: Network
    preprocessing: Preprocessing
    network_dim: int
    projection: Projection | None = None

    def __post_init__(self) -> None:
        if self.projection is not None and len(self.projection.mean) != self.network_dim:
            raise InvalidValueError(
                f"projection: expected one of features of length {self.network_dim}, as {self.network.output} of "
                f"{self.name}, got one of length {len(self.projection.mean)}."
            )

    @property
    def dim(self) -> int:
        """D, the length of a feature vector."""
        return self.network_dim if self.projection is None else self.projection.components.shape[1]

    @property
    def grid(self) -> int | None:
        """Side of the grid; None if a picture has one feature vector."""
        return self.network.grid

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a picture's features: (D,), or (L, D) for a grid of L cells, row by row."""
        return (self.dim,) if self.grid is None else (self.grid**2, self.dim)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 for vectors, float16 for grids: half the size, and rounded by less than networks' outputs vary."""
        return np.dtype(np.float32 if self.grid is None else np.float16)

    def with_projection(self, projection: Projection | None) -> PictureEncoder:
        """Return the same encoder with another projection, or none.

        Parameters
        ----------
        projection : Projection or None
            See `fit_projection`.

        Returns
        -------
        PictureEncoder
            An encoder with the same network object.

        Raises
        ------
        ValueError
            If the projection is for features of another length.
        """
        return PictureEncoder(self.name, self.sha256, self.network, self.preprocessing, self.network_dim, projection)

    def encode(
        self,
        pictures: Sequence[Picture],
        *,
        threads: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Encoded:
        """Compute the features of pictures.

        Files that are missing, not pictures, damaged, or larger than Pillow's limit are reported and skipped, as are
        images and arrays that cannot be pictures. The features of a picture do not depend on other pictures or on the
        number of threads.

        Parameters
        ----------
        pictures : sequence of N paths, PIL.Image.Image or numpy.ndarray of uint8
            The pictures, see `load_picture`.
        threads : int, optional
            Number of threads; by default that of `capgpu.threads.thread_count`.
        progress : callable
            Called as ``progress(done, total)`` with the number of pictures.

        Returns
        -------
        Encoded
            Features, and the skipped files, which may be all files.

        Raises
        ------
        ValueError
            If `threads` is below 1, or ``CAPGPU_THREADS`` is invalid.
        """
        count = thread_count() if threads is None else threads
        if count < 1:
            raise InvalidValueError(f"threads: expected at least 1, got {threads}.")
        pool = ThreadPoolExecutor(count)
        try:
            with strict_pillow():
                results = []
                for result in pool.map(self._encode_one, pictures):
                    results.append(result)
                    progress(len(results), len(pictures))
        finally:
            # after Ctrl-C only pictures in progress are finished
            pool.shutdown(cancel_futures=True)
        kept = [i for i, result in enumerate(results) if not isinstance(result, str)]
        broken = [
            (i, f"{_label(pictures[i], i)}: {result}") for i, result in enumerate(results) if isinstance(result, str)
        ]
        features = np.empty((len(kept), *self.shape), self.dtype)
        for row, i in zip(features, kept, strict=True):
            row[:] = results[i]
        return Encoded(features, kept, broken)

    def _encode_one(self, picture: Picture) -> npt.NDArray[Any] | str:
        """Return the features of a picture, or the cause of an error."""
        try:
            pixels = self.preprocessing.pixels(picture)
        except Exception as error:  # Pillow raises exceptions of any type for damaged files
            return _cause(error)
        output = self.network(pixels)
        if self.projection is not None and np.isfinite(output).all():
            output = self.projection.apply(output[None])[0]
        with np.errstate(over="ignore"):
            features: npt.NDArray[Any] = output.astype(self.dtype, copy=False)
        return features if np.isfinite(features).all() else f"the network's output is not finite in {self.dtype}"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the encoder's configuration into a folder: ``encoder.json`` and the projection.

        Parameters
        ----------
        folder : path
            The folder; created if it does not exist. ONNX files are not copied: path and SHA-256 are stored.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        EncoderConfig(
            self.name, self.sha256, self.network.output, self.preprocessing, self.projection, self.dim, self.grid
        ).save(Path(folder))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> PictureEncoder:
        """Open the encoder that `save` wrote.

        An ONNX file is searched at its path, then by its name in the folder.

        Parameters
        ----------
        folder : path
            The folder.

        Returns
        -------
        PictureEncoder
            An encoder with the same features.

        Raises
        ------
        CheckpointError
            If the configuration is missing or damaged, or the network has changed.
        MissingExtraError
            If a package is not installed.
        """
        stored = EncoderConfig.load(Path(folder))
        name = _find(stored.network, Path(folder))
        encoder = _open(name, stored.output, stored.grid, stored.preprocessing, stored.projection)
        if encoder.sha256 != stored.sha256 or encoder.dim != stored.dim:
            raise CheckpointError(
                f"{stored.network}: expected SHA-256 {stored.sha256}, with which the features of {folder} were "
                f"computed, got {encoder.sha256}. Restore that file, or prepare the data again."
            )
        return encoder


def _label(picture: Picture, index: int) -> str:
    return os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else f"picture {index}"


def _find(name: str, folder: Path) -> str:
    if name == EFFICIENTNET_LITE0 or Path(name).is_file():
        return name
    beside = folder / Path(name).name
    if not beside.is_file():
        raise CheckpointError(
            f"{name}: expected the network that computed the features of {folder}, got no such file. Restore it, or "
            f"copy it to {beside}."
        )
    return str(beside)


def _cause(error: Exception) -> str:
    """Return the message of an error without the path, which the caller adds."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a supported format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _three(name: str, values: float | Sequence[float]) -> tuple[float, float, float]:
    try:
        red, green, blue = (values, values, values) if isinstance(values, (int, float)) else values
        return float(red), float(green), float(blue)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"{name}: expected one number or three, got {short(values)}.") from error


def open_encoder(
    network: str | os.PathLike[str] = EFFICIENTNET_LITE0,
    *,
    output: str | None = None,
    size: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    channels: Channels = "RGB",
    fit: Fit = "stretch",
    background: str = "white",
    grid: int | None = None,
    projection: Projection | None = None,
) -> PictureEncoder:
    """Open a network as a picture encoder.

    Parameters
    ----------
    network : str or path
        ``"efficientnet-lite0"`` (1,280 pooled features), or an ONNX file with one input of pictures.
    output : str, optional
        Name of the value of an ONNX network to use; a value of shape (1, D, height, width) is averaged over height and
        width. By default the first output. Features for captions are computed before the classifier.
    size : int, optional
        Width and height of the input, in pixels; by default as the network defines it.
    mean, std : float or 3 floats, optional
        The input is ``(pixel - mean) / std`` for pixels from 0 to 255; by default ImageNet's values.
    channels : {"RGB", "BGR"}
        Order of the channels of the input, of `mean` and of `std`.
    fit : {"stretch", "crop", "pad"}
        How a picture becomes square, see `Preprocessing`.
    background : str
        Colour under transparent pixels and of the padding.
    grid : int, optional
        Compute grid x grid feature vectors for a picture, one for each cell, instead of one for all of it: from the
        last convolution of ``efficientnet-lite0`` (at most 7), or the value `output` of an ONNX network. Cells of a
        finer output are averaged.
    projection : Projection, optional
        Projection of the network's output.

    Returns
    -------
    PictureEncoder
        The encoder; the network has been run once.

    Raises
    ------
    MissingExtraError
        If a package of the extra ``vision`` is not installed.
    OSError
        If the network's file cannot be read.
    ValueError
        For a network without an input of pictures, an unknown output, a size that the network does not accept, a
        setting that ``efficientnet-lite0`` fixes, a mean or standard deviation of pixels from 0 to 1, or a grid of more
        cells than the output has.
    """
    name = os.fspath(network)
    if grid is not None:
        check_count("grid", grid, 1)
    if name == EFFICIENTNET_LITE0:
        fixed = {"output": output, "size": size, "mean": mean, "std": std}
        given = [key for key, value in fixed.items() if value is not None]
        if given or channels != "RGB":
            raise InvalidValueError(f"{name} fixes {', '.join(given) or 'channels'}: omit it, or name an ONNX file.")
        size, mean, std = efficientnet_lite0.SIZE, efficientnet_lite0.MEAN, efficientnet_lite0.STD
        output = None if grid is None else efficientnet_lite0.GRID
    else:
        size = Network(name, output).size if size is None else size
        if size is None:
            raise InvalidValueError(f"size: expected a number of pixels, which {name} does not define, got None.")
    means = _three("mean", _IMAGENET_MEAN if mean is None else mean)
    stds = _three("std", _IMAGENET_STD if std is None else std)
    _check_scale(means, stds)
    return _open(name, output, grid, Preprocessing(size, means, stds, channels, fit, background), projection)


def _check_scale(mean: Sequence[float], std: Sequence[float]) -> None:
    """Reject means and deviations of pixels from 0 to 1, as torchvision's: features would be meaningless."""
    if any(0 < value < 1 for value in mean) or any(0 < value < 1 for value in std):
        means, stds = (", ".join(f"{value:g}" for value in values) for values in (mean, std))
        remedy = " and ".join(
            f"{name} {','.join(f'{255 * value:g}' for value in values)}"
            for name, values in (("mean", mean), ("std", std))
            if max(values) <= 1
        )
        raise InvalidValueError(
            f"mean and std: expected values for pixels from 0 to 255, got {means} and {stds}, for pixels from "
            f"0 to 1. Multiply them by 255: {remedy}."
        )


def _open(
    name: str, output: str | None, grid: int | None, preprocessing: Preprocessing, projection: Projection | None
) -> PictureEncoder:
    if name == EFFICIENTNET_LITE0:
        path, sha256 = efficientnet_lite0.network_file()
        network = Network(path, output, grid)
    else:
        path = Path(name).absolute()
        name = str(path)
        network = Network(path, output, grid)
        sha256 = network_sha256(path)
    blank = network(np.zeros((3, preprocessing.size, preprocessing.size), np.float32))
    return PictureEncoder(name, sha256, network, preprocessing, blank.shape[-1], projection)
