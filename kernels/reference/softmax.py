"""The oracle of softmax cross-entropy, alone and behind the vocabulary projection."""

from __future__ import annotations

from capgpu.backend import Array, array_namespace
from capgpu.dtypes import widened
from capgpu.kernels.contract import Dropout, Precision
from capgpu.kernels.reference.precision import product
from capgpu.random import dropout_mask

__all__ = ["apply_dropout", "linear_cross_entropy", "softmax_cross_entropy"]


def apply_dropout(array: Array, dropout: Dropout) -> Array:
    """Multiply an array by a dropout mask (Srivastava et al. 2014; inverted, so that expectations stay).

    Parameters
    ----------
    array : array, shape (M, W)
        What is dropped from.
    dropout : Dropout
        Key and rate; the same ones give the same mask for every array of this shape.

    Returns
    -------
    array, shape (M, W)
        ``array * capgpu.random.dropout_mask(dropout.key, dropout.rate, array.shape, array)``, or with the rows that
        `dropout` names.
    """
    return array * _mask(array, dropout)


def _mask(array: Array, dropout: Dropout) -> Array:
    return dropout_mask(dropout.key, dropout.rate, tuple(array.shape), array, dropout.rows, dropout.size)


def softmax_cross_entropy(logits: Array, targets: Array, scale: float) -> tuple[Array, Array]:
    """Compute the cross-entropy of rows of scores, summed and scaled, and its gradient.

    Parameters
    ----------
    logits : array, shape (M, V)
        Scores. A fused kernel may overwrite them with the gradient: hand in an array of your own.
    targets : array of int, shape (M,)
        True class of each row; a negative target leaves the row out (no loss, zero gradient).
    scale : float
        Factor of the sum, e.g. ``1 / N``.

    Returns
    -------
    loss : array, shape ()
        ``-scale * sum(log softmax(logits)[row, targets[row]])``, in the dtype of `logits`; in float32 for half types,
        since the sum over many rows would leave the range of float16.
    dlogits : array, shape (M, V)
        Gradient with respect to `logits`.
    """
    return _weighted_cross_entropy(logits, targets, scale, None)


def _weighted_cross_entropy(
    logits: Array, targets: Array, scale: float, row_weights: Array | None
) -> tuple[Array, Array]:
    """Do what `softmax_cross_entropy` does, each row's loss and gradient times its weight."""
    xp = array_namespace(logits, targets)
    has_target = targets >= 0
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    exponentials = xp.exp(shifted)
    sums = xp.sum(exponentials, axis=1, keepdims=True)
    classes = xp.arange(logits.shape[1], dtype=xp.int64, device=logits.device)
    is_target = classes[None, :] == xp.astype(targets, xp.int64)[:, None]
    zero = xp.zeros_like(shifted)
    true_scores = xp.sum(xp.where(is_target, shifted, zero), axis=1)
    losses = xp.where(has_target, xp.log(sums[:, 0]) - true_scores, xp.zeros_like(true_scores))
    dlogits = (exponentials / sums - xp.astype(is_target, logits.dtype)) * scale
    dlogits = xp.where(has_target[:, None], dlogits, zero)
    return xp.sum(_weighted(widened(losses), row_weights)) * scale, _weighted(dlogits, row_weights)


def _weighted(rows: Array, row_weights: Array | None) -> Array:
    """Multiply entries or rows, of any floating dtype, by their weights."""
    if row_weights is None:
        return rows
    xp = array_namespace(rows)
    weights = row_weights if rows.ndim == 1 else row_weights[:, None]
    # in the dtype of the weights: those times the scale may leave the range of a half type
    return xp.astype(xp.astype(rows, weights.dtype) * weights, rows.dtype)


def linear_cross_entropy(
    hidden: Array,
    W: Array,
    b: Array,
    targets: Array,
    scale: float,
    gradients: bool = True,
    smoothing: float = 0.0,
    dropout: Dropout | None = None,
    precision: Precision = "float32",
    row_weights: Array | None = None,
) -> tuple[Array, Array | None, Array | None, Array | None]:
    """Project hidden states to scores and compute their cross-entropy and its gradients, never keeping the scores.

    Parameters
    ----------
    hidden : array, shape (M, H)
        One row a target.
    W, b : array, shape (H, V) and (V,)
        Vocabulary projection.
    targets : array of int, shape (M,)
        True class of each row; negative leaves the row out.
    scale : float
        Factor of the sum.
    gradients : bool
        False computes the loss alone; the gradients are then None.
    smoothing : float
        In ``[0, 1)``. The true distribution of each row is ``1 - smoothing`` on its target and `smoothing` spread
        evenly over all classes, the target among them (Szegedy et al. 2016, "Rethinking the Inception Architecture for
        Computer Vision", section 7).
    dropout : Dropout, optional
        Applied to the hidden states before the projection.
    precision : {"float32", "bf16"}
        How the products read their factors (`capgpu.kernels.contract.Precision`).
    row_weights : array, shape (M,), optional
        Factor of each row's loss and gradient, of any sign, in the dtype of the loss: that of `hidden`, float32 for
        half types. A weight of 0 leaves the row out, as a negative target does. By default all are 1.

    Returns
    -------
    loss : array, shape ()
        As `softmax_cross_entropy`: `scale` times the sum of each row's cross-entropy times its weight.
    dhidden, dW, db : array or None
        Gradients, shaped like `hidden`, `W`, `b`.
    """
    xp = array_namespace(hidden, W, b, targets)
    mask = None
    if dropout is not None:
        mask = _mask(hidden, dropout)
        hidden = hidden * mask
    logits = product(hidden, W, precision) + b
    if row_weights is not None:
        targets = xp.where(row_weights != 0, targets, xp.full_like(targets, -1))
    if smoothing > 0:
        loss, dlogits = _smoothed_cross_entropy(logits, targets, scale, smoothing, row_weights)
    else:
        loss, dlogits = _weighted_cross_entropy(logits, targets, scale, row_weights)
    if not gradients:
        return loss, None, None, None
    dhidden = product(dlogits, xp.matrix_transpose(W), precision)
    if mask is not None:
        dhidden = dhidden * mask
    dW = product(xp.matrix_transpose(hidden), dlogits, precision)
    return loss, dhidden, dW, xp.sum(dlogits, axis=0)


def _smoothed_cross_entropy(
    logits: Array, targets: Array, scale: float, smoothing: float, row_weights: Array | None
) -> tuple[Array, Array]:
    """Apply label smoothing to the loss and the gradient of the true classes."""
    xp = array_namespace(logits, targets)
    has_target = (targets >= 0)[:, None]
    loss, dlogits = _weighted_cross_entropy(logits, targets, scale, row_weights)
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    log_probs = shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
    zero = xp.zeros_like(logits)
    # a sum over all classes would leave the range of half precision
    means = widened(xp.mean(xp.where(has_target, log_probs, zero), axis=1))
    evenly = -scale * xp.sum(_weighted(means, row_weights))
    devenly = _weighted(xp.where(has_target, (xp.exp(log_probs) - 1 / logits.shape[1]) * scale, zero), row_weights)
    return (1 - smoothing) * loss + smoothing * evenly, (1 - smoothing) * dlogits + smoothing * devenly
