"""Features to fewer features: principal components, half-way whitened."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from capgpu.validation import check_count

__all__ = ["Projection", "fit_projection"]

#: Rows that are in memory at a time as float64.
_CHUNK = 4096
#: Directions whose spread is less than this part of the largest hold rounding errors, not pictures.
_NEGLIGIBLE = 1e-5


class Projection(NamedTuple):
    """``(features - mean) @ components``.

    Attributes
    ----------
    mean : numpy.ndarray of float, shape (D,)
        What is taken away.
    components : numpy.ndarray of float, shape (D, K)
        The directions, scaled.
    """

    mean: npt.NDArray[np.floating[Any]]
    components: npt.NDArray[np.floating[Any]]

    def apply(self, features: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Project features, each row by itself: a row's result does not depend on the others.

        Parameters
        ----------
        features : numpy.ndarray of float, shape (N, D)
            The features; they may be mapped from a file.

        Returns
        -------
        numpy.ndarray of float32, shape (N, K)
            The projected features.

        Raises
        ------
        ValueError
            For another shape.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features has shape {features.shape}; wanted (N, {len(self.mean)}), as in the fit.")
        mean, components = self.mean.astype(np.float32), self.components.astype(np.float32)
        projected = np.empty((len(features), components.shape[1]), np.float32)
        for row, out in zip(features, projected, strict=True):
            # a product of all rows sums in an order that depends on their number
            np.matmul(row.astype(np.float32) - mean, components, out=out)
        return projected


def fit_projection(features: npt.NDArray[np.floating[Any]], dim: int) -> Projection:
    """Fit a projection onto principal components.

    Each component is divided by the square root of its standard deviation. That is half way to whitening: the small
    components, which tell variants apart, gain weight, and noise isn't blown up to the size of the signal. All is
    scaled such that the features' mean square is one.

    Parameters
    ----------
    features : numpy.ndarray of float, shape (N, D)
        Features of the training pictures only; they may be mapped from a file, and are read in parts.
    dim : int
        K, the components to keep.

    Returns
    -------
    Projection
        Mean and components, float32.

    Raises
    ------
    TypeError
        For a `dim` that is no whole number.
    ValueError
        For another shape, features that are not finite, or more components than directions in which the features
        vary.
    """
    check_count("dim", dim, 1)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features has shape {features.shape}; wanted (N, D) with at least 2 rows.")
    count, size = features.shape
    chunks = [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]
    mean = sum((features[rows].sum(axis=0, dtype=np.float64) for rows in chunks), np.zeros(size)) / count
    if not np.isfinite(mean).all():
        raise ValueError("features holds values that are not finite; wanted finite ones.")
    covariance = np.zeros((size, size))
    for rows in chunks:
        centred = features[rows].astype(np.float64) - mean
        covariance += centred.T @ centred
    variance, axes = np.linalg.eigh(covariance / count)
    # eigh gives the smallest first
    deviation, axes = np.sqrt(np.maximum(variance[::-1], 0)), axes[:, ::-1]
    found = int((deviation > _NEGLIGIBLE * deviation[0]).sum()) if deviation[0] > 0 else 0
    if dim > found:
        raise ValueError(
            f"dim is {dim}, but the {count} features vary in {found} directions only: ask for at most {found}, "
            "or give more pictures."
        )
    deviation, axes = deviation[:dim], axes[:, :dim]
    # the sign of an axis is arbitrary: fix it, so that every LAPACK gives the same features
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dim)])
    components = axes / np.sqrt(deviation) / np.sqrt(deviation.mean())
    return Projection(mean.astype(np.float32), components.astype(np.float32))
