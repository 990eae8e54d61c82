"""The pictures' features: EfficientNet-Lite0's pooled outputs, and their projection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from capgpu.vision import Projection, fit_projection, open_encoder

__all__ = ["fit_pca", "pooled_outputs"]


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
    encoded = open_encoder("efficientnet-lite0").encode(files)
    if encoded.broken:
        raise ValueError(f"{len(encoded.broken)} pictures cannot be read, the first: {encoded.broken[0][1]}")
    return encoded.features


def fit_pca(pooled: npt.NDArray[np.float32], size: int) -> Projection:
    """Fit the projection on the training pictures' pooled outputs, rounded to the stored dtype.

    Parameters
    ----------
    pooled : numpy.ndarray of float32, shape (N, 1280)
        Pooled outputs of the training pictures only.
    size : int
        Number of components to keep.

    Returns
    -------
    Projection
        Mean and scaled components, float16.
    """
    return Projection(*(array.astype(np.float16) for array in fit_projection(pooled, size)))
