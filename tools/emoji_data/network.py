"""The pictures' features: EfficientNet-Lite0's outputs, pooled and of a grid, and their projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capgpu.vision import Projection, fit_projection, open_encoder

__all__ = ["fit_pca", "grid_outputs", "pooled_outputs"]


def pooled_outputs(files: list[Path]) -> npt.NDArray[np.float32]:
    """Run every picture through the network.

    Parameters
    ----------
    files : list of Path
        N square pictures; each is composited onto white and scaled to 224 x 224.

    Returns
    -------
    numpy.ndarray of float32, shape (N, 1280)
        Outputs of the last convolution, averaged over the positions.

    Raises
    ------
    ValueError
        If a picture cannot be read.
    """
    return _outputs(files, None)


def grid_outputs(files: list[Path], side: int) -> npt.NDArray[np.float16]:
    """Run every picture through the network, and average its last convolution over a grid.

    Parameters
    ----------
    files : list of Path
        As for `pooled_outputs`.
    side : int
        Height and width of the grid.

    Returns
    -------
    numpy.ndarray of float16, shape (N, side * side, 1280)
        Outputs of the last convolution, averaged over the cells, row by row.

    Raises
    ------
    ValueError
        If a picture cannot be read.
    """
    return _outputs(files, side)


def _outputs(files: list[Path], grid: int | None) -> npt.NDArray[Any]:
    encoded = open_encoder("efficientnet-lite0", grid=grid).encode(files)
    if encoded.broken:
        raise ValueError(f"{len(encoded.broken)} pictures cannot be read, the first: {encoded.broken[0][1]}")
    return encoded.features


def fit_pca(outputs: npt.NDArray[np.floating[Any]], size: int) -> Projection:
    """Fit the projection on the training pictures' outputs, rounded to the stored dtype.

    Parameters
    ----------
    outputs : numpy.ndarray of float, shape (N, 1280)
        Pooled outputs, or cells of the grid, of the training pictures only.
    size : int
        Number of components to keep.

    Returns
    -------
    Projection
        Mean and scaled components, float16.
    """
    return Projection(*(array.astype(np.float16) for array in fit_projection(outputs, size)))
