"""Temporal softmax loss: cross-entropy over the words of a batch of captions."""

from __future__ import annotations

from capgpu.backend import Array, array_namespace
from capgpu.errors import InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.validation import check_arrays, check_mask, check_token_ids

__all__ = ["temporal_softmax_loss"]


def temporal_softmax_loss(x: Array, y: Array, mask: Array, verbose: bool = False) -> tuple[Array, Array]:
    """Compute the softmax cross-entropy of captions, summed over unmasked time steps and divided by N.

    Parameters
    ----------
    x : array, shape (N, T, V)
        Scores of every word at every step.
    y : array of int, shape (N, T)
        True words; those under a False mask are not looked at.
    mask : array of bool, shape (N, T)
        Which steps count.
    verbose : bool
        Print the shapes at work.

    Returns
    -------
    loss : array, shape ()
        The loss, in the dtype of `x`; in float32 for half types.
    dx : array, shape (N, T, V)
        Gradient with respect to the scores; zero where the mask is False.

    Raises
    ------
    TypeError
        For ids that are not integers or a mask that is not boolean.
    ValueError
        For shapes that do not fit or counted ids out of range.
    """
    check_arrays(x=(x, "N T V"))
    xp = array_namespace(x=x, y=y, mask=mask)
    count, steps, size = x.shape
    if tuple(y.shape) != (count, steps):
        raise InvalidValueError(f"y: expected shape ({count}, {steps}), as x has it, got {tuple(y.shape)}.")
    check_mask("mask", mask, (count, steps), xp)
    check_token_ids("y", xp.where(mask, y, xp.zeros_like(y)), size, xp, "the last dimension of x")
    targets = xp.reshape(xp.where(mask, xp.astype(y, xp.int64), xp.asarray(-1, dtype=xp.int64)), (-1,))
    scores = xp.reshape(x, (count * steps, size), copy=True)
    loss, dscores = kernels_for(x).softmax_cross_entropy(scores, targets, 1.0 / count)
    if verbose:
        print(f"temporal_softmax_loss: scores {tuple(scores.shape)} -> gradient {tuple(x.shape)}")
    return loss, xp.reshape(dscores, x.shape)
