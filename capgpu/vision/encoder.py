"""Picture files to feature vectors, and the encoder's place in a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capgpu.checkpoint import CheckpointError
from capgpu.threads import thread_count
from capgpu.vision import efficientnet_lite0
from capgpu.vision.encoder_config import EncoderConfig
from capgpu.vision.network import Network, network_sha256
from capgpu.vision.preprocessing import Channels, Fit, Preprocessing, strict_pillow
from capgpu.vision.projection import Projection

__all__ = ["Encoded", "PictureEncoder", "open_encoder"]

EFFICIENTNET_LITE0 = "efficientnet-lite0"
#: Mean and standard deviation of ImageNet's pixels, 0 to 255: what most published networks were trained with.
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Encoded(NamedTuple):
    """The features of those pictures that could be read.

    Attributes
    ----------
    features : numpy.ndarray of float32, shape (M, D)
        One row for each index in `kept`.
    kept : list of M int
        Rising indices of the paths that were given.
    broken : list of (int, str)
        The other indices, and for each the path and the cause.
    """

    features: npt.NDArray[np.float32]
    kept: list[int]
    broken: list[tuple[int, str]]


@dataclass(frozen=True, eq=False)
class PictureEncoder:
    """A network and what comes before and behind it; `open_encoder` makes one.

    Attributes
    ----------
    name : str
        The network: ``efficientnet-lite0`` or the path of an ONNX file.
    sha256 : str
        Of the network's weights, or of the ONNX file and the files of weights beside it.
    network : Network
        Runs it.
    preprocessing : Preprocessing
        How pixels are prepared.
    network_dim : int
        Length of the network's output.
    projection : Projection or None
        What is applied to that output.
    """

    name: str
    sha256: str
    network: Network
    preprocessing: Preprocessing
    network_dim: int
    projection: Projection | None = None

    def __post_init__(self) -> None:
        if self.projection is not None and len(self.projection.mean) != self.network_dim:
            raise ValueError(
                f"the projection takes features of length {len(self.projection.mean)}, but {self.network.output} of "
                f"{self.name} has length {self.network_dim}."
            )

    @property
    def dim(self) -> int:
        """D, the length of a feature vector."""
        return self.network_dim if self.projection is None else self.projection.components.shape[1]

    def with_projection(self, projection: Projection | None) -> PictureEncoder:
        """Return the same encoder with another projection, or none.

        Parameters
        ----------
        projection : Projection or None
            See `fit_projection`.

        Returns
        -------
        PictureEncoder
            It shares the network.

        Raises
        ------
        ValueError
            If the projection is for features of another length.
        """
        return PictureEncoder(self.name, self.sha256, self.network, self.preprocessing, self.network_dim, projection)

    def encode(self, paths: Sequence[str | os.PathLike[str]], *, threads: int | None = None) -> Encoded:
        """Compute the features of pictures.

        A file that is missing, no picture, damaged, or larger than Pillow's limit is reported and skipped. A
        picture's features do not depend on the other pictures, nor on the number of threads.

        Parameters
        ----------
        paths : sequence of N paths
            The files.
        threads : int, optional
            Pictures worked on at a time; ``CAPGPU_THREADS`` or the number of cores if not given.

        Returns
        -------
        Encoded
            Features, and the files that were skipped. All may be: the caller says whether that is an error.

        Raises
        ------
        ValueError
            If `threads` is below 1, or ``CAPGPU_THREADS`` is no number of threads.
        """
        count = thread_count() if threads is None else threads
        if count < 1:
            raise ValueError(f"threads is {threads}; wanted at least 1.")
        pool = ThreadPoolExecutor(count)
        try:
            with strict_pillow():
                results = list(pool.map(self._encode_one, paths))
        finally:
            # after Ctrl-C only the pictures at hand are finished
            pool.shutdown(cancel_futures=True)
        kept = [i for i, result in enumerate(results) if not isinstance(result, str)]
        broken = [
            (i, f"{os.fspath(paths[i])}: {result}") for i, result in enumerate(results) if isinstance(result, str)
        ]
        features = np.empty((len(kept), self.network_dim), np.float32)
        for row, i in zip(features, kept, strict=True):
            row[:] = results[i]
        return Encoded(features if self.projection is None else self.projection.apply(features), kept, broken)

    def _encode_one(self, path: str | os.PathLike[str]) -> npt.NDArray[np.float32] | str:
        """Return the network's output, or why there is none."""
        try:
            pixels = self.preprocessing.pixels(path)
        except Exception as error:  # Pillow meets damaged files with errors of any kind
            return _cause(error)
        vector = self.network(pixels)
        return vector if np.isfinite(vector).all() else "the network gives numbers that are not finite"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the encoder's description into a folder: ``encoder.json``, and the projection beside it.

        Parameters
        ----------
        folder : path
            The folder; made if it is missing. An ONNX file is not copied: its path and SHA-256 are noted.

        Raises
        ------
        OSError
            As the system gives it.
        """
        EncoderConfig(self.name, self.sha256, self.network.output, self.preprocessing, self.projection, self.dim).save(
            Path(folder)
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> PictureEncoder:
        """Open the encoder that `save` described.

        An ONNX file is looked for at its path, then by its name in the folder.

        Parameters
        ----------
        folder : path
            The folder.

        Returns
        -------
        PictureEncoder
            It gives the same features.

        Raises
        ------
        CheckpointError
            If the description is missing or damaged, or the network is another by now.
        MissingExtraError
            If a package is not installed.
        """
        stored = EncoderConfig.load(Path(folder))
        encoder = _open(_find(stored.network, Path(folder)), stored.output, stored.preprocessing, stored.projection)
        if encoder.sha256 != stored.sha256 or encoder.dim != stored.dim:
            raise CheckpointError(
                f"the features of {folder} were computed by {stored.network} with SHA-256 {stored.sha256}, but what is "
                f"there now has {encoder.sha256}: the model would see other features. Restore that file, or prepare "
                "again."
            )
        return encoder


def _find(name: str, folder: Path) -> str:
    if name == EFFICIENTNET_LITE0 or Path(name).is_file():
        return name
    beside = folder / Path(name).name
    if not beside.is_file():
        raise CheckpointError(
            f"the network {name}, which computed the features of {folder}, is missing: put it back, or copy it to "
            f"{beside}."
        )
    return str(beside)


def _cause(error: Exception) -> str:
    """Put an error into words, without the path that is told anyway."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "is no picture in a format that is known"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _three(name: str, values: float | Sequence[float]) -> tuple[float, float, float]:
    try:
        red, green, blue = (values, values, values) if isinstance(values, (int, float)) else values
        return float(red), float(green), float(blue)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {values!r}; wanted one number or three.") from error


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
    projection: Projection | None = None,
) -> PictureEncoder:
    """Open a network as an encoder of pictures.

    Parameters
    ----------
    network : str or path
        ``"efficientnet-lite0"`` (1,280 pooled features), or an ONNX file with one input of pictures.
    output : str, optional
        The value of an ONNX network to take, by its name; one of shape (1, D, height, width) is averaged over its
        places. The network's first output if not given. Features for captions lie before the classifier.
    size : int, optional
        Width and height of the input, in pixels; what the network says if not given.
    mean, std : float or 3 floats, optional
        The network gets ``(pixel - mean) / std`` of pixels from 0 to 255. ImageNet's values if not given.
    channels : {"RGB", "BGR"}
        The order of the input's channels (and of `mean` and `std`).
    fit : {"stretch", "crop", "pad"}
        What becomes of a picture that is not square, see `Preprocessing`.
    background : str
        The colour under transparent pixels and beside padded pictures.
    projection : Projection, optional
        Applied to the network's output.

    Returns
    -------
    PictureEncoder
        Ready: the network has run once.

    Raises
    ------
    MissingExtraError
        If a package of the extra ``vision`` is not installed.
    OSError
        If the network's file cannot be read, or the cache folder cannot be written into.
    ValueError
        For a network that is none of pictures, an unknown output, a size that does not fit, a setting that
        ``efficientnet-lite0`` fixes, or a mean or deviation of pixels from 0 to 1.
    """
    name = os.fspath(network)
    if name == EFFICIENTNET_LITE0:
        fixed = {"output": output, "size": size, "mean": mean, "std": std}
        given = [key for key, value in fixed.items() if value is not None]
        if given or channels != "RGB":
            raise ValueError(f"{name} fixes {', '.join(given) or 'channels'}: leave it out, or name an ONNX file.")
        size, mean, std = efficientnet_lite0.SIZE, efficientnet_lite0.MEAN, efficientnet_lite0.STD
    else:
        size = Network(name, output).size if size is None else size
        if size is None:
            raise ValueError(f"{name} leaves the size of its pictures open: give size, in pixels.")
    means = _three("mean", _IMAGENET_MEAN if mean is None else mean)
    stds = _three("std", _IMAGENET_STD if std is None else std)
    _check_scale(means, stds)
    return _open(name, output, Preprocessing(size, means, stds, channels, fit, background), projection)


def _check_scale(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse a mean and deviations of pixels from 0 to 1, as torchvision has them: features would mean nothing."""
    if any(0 < value < 1 for value in mean) or any(0 < value < 1 for value in std):
        means, stds = (", ".join(f"{value:g}" for value in values) for values in (mean, std))
        remedy = " and ".join(
            f"{name} {','.join(f'{255 * value:g}' for value in values)}"
            for name, values in (("mean", mean), ("std", std))
            if max(values) <= 1
        )
        raise ValueError(
            f"mean and std: expected values for pixels from 0 to 255, got {means} and {stds}, for pixels from "
            f"0 to 1. Multiply them by 255: {remedy}."
        )


def _open(name: str, output: str | None, preprocessing: Preprocessing, projection: Projection | None) -> PictureEncoder:
    if name == EFFICIENTNET_LITE0:
        path, sha256 = efficientnet_lite0.network_file()
        network = Network(path, output)
    else:
        path = Path(name).absolute()
        name = str(path)
        network = Network(path, output)
        sha256 = network_sha256(path)
    blank = network(np.zeros((3, preprocessing.size, preprocessing.size), np.float32))
    return PictureEncoder(name, sha256, network, preprocessing, len(blank), projection)
