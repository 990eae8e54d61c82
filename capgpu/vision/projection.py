"""Projection of features onto principal components, with partial whitening."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidValueError
from capgpu.validation import check_count

__all__ = ["Projection", "fit_projection"]

#: Rows converted to float64 at a time.
_CHUNK = 4096
#: Directions whose standard deviation, relative to the largest, is at most this contain rounding errors only.
_NEGLIGIBLE = 1e-5


class Projection(NamedTuple):
    """``(features - mean) @ components``.

    Attributes
    ----------
    mean : numpy.ndarray of float, shape (D,)
        Mean of the features.
    components : numpy.ndarray of float, shape (D, K)
        Scaled principal axes.
    """

    mean: npt.NDArray[np.floating[Any]]
    components: npt.NDArray[np.floating[Any]]

    def apply(self, features: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Project features; the result of a picture does not depend on other pictures.

        Parameters
        ----------
        features : numpy.ndarray of float, shape (N, D) or (N, L, D)
            The features, or grids of them; they may be memory-mapped.

        Returns
        -------
        numpy.ndarray of float32, shape (N, K) or (N, L, K)
            The projected features.

        Raises
        ------
        ValueError
            For features of another shape.
        """
        if features.ndim not in (2, 3) or features.shape[-1] != len(self.mean):
            raise InvalidValueError(
                f"features: expected shape (N, {len(self.mean)}), as in the fit, or a grid (N, L, {len(self.mean)}), "
                f"got {features.shape}."
            )
        mean, components = self.mean.astype(np.float32), self.components.astype(np.float32)
        projected = np.empty((*features.shape[:-1], components.shape[1]), np.float32)
        for row, out in zip(features, projected, strict=True):
            # picture by picture: in a product of all rows, the order of summation depends on their number
            np.matmul(row.astype(np.float32) - mean, components, out=out)
        return projected


def fit_projection(features: npt.NDArray[np.floating[Any]], dim: int) -> Projection:
    """Fit a projection onto principal components.

    Each component is divided by the square root of its standard deviation, halfway between none and whitening: small
    components, in which variants differ, gain weight, but noise is not amplified to the size of the signal. The mean
    square of the projected training features is one.

    Parameters
    ----------
    features : numpy.ndarray of float, shape (N, D)
        Features of the training pictures only; they may be memory-mapped, and are read in parts.
    dim : int
        K, the number of components.

    Returns
    -------
    Projection
        Mean and components, float32.

    Raises
    ------
    TypeError
        If `dim` is not an integer.
    ValueError
        For features of another shape or that are not finite, or more components than directions in which they vary.
    """
    check_count("dim", dim, 1)
    if features.ndim != 2 or len(features) < 2:
        raise InvalidValueError(f"features: expected shape (N, D) with at least 2 rows, got {features.shape}.")
    count, size = features.shape
    chunks = [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]
    mean = sum((features[rows].sum(axis=0, dtype=np.float64) for rows in chunks), np.zeros(size)) / count
    if not np.isfinite(mean).all():
        raise InvalidValueError("features: expected finite values, got NaN or infinity.")
    covariance = np.zeros((size, size))
    for rows in chunks:
        centred = features[rows].astype(np.float64) - mean
        covariance += centred.T @ centred
    variance, axes = np.linalg.eigh(covariance / count)
    # eigh returns increasing eigenvalues
    deviation, axes = np.sqrt(np.maximum(variance[::-1], 0)), axes[:, ::-1]
    n_directions = int((deviation > _NEGLIGIBLE * deviation[0]).sum())
    if dim > n_directions:
        raise InvalidValueError(
            f"dim: expected at most {n_directions}, the number of directions in which the {count} features vary, "
            f"got {dim}. Lower dim, or use more pictures."
        )
    deviation, axes = deviation[:dim], axes[:, :dim]
    # the sign of an axis is arbitrary: fix it, so that all LAPACKs give the same features
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dim)])
    components = axes / np.sqrt(deviation) / np.sqrt(deviation.mean())
    return Projection(mean.astype(np.float32), components.astype(np.float32))
