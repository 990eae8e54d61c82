"""Temporal softmax loss: cross-entropy over the words of a batch of captions."""

from __future__ import annotations

from capgpu.backend import Array, array_namespace
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.validation import check_arrays, check_mask, check_token_ids

__all__ = ["temporal_softmax_loss"]


def temporal_softmax_loss(
    x: Array, y: Array, mask: Array | None = None, verbose: bool = False, *, ignore_index: int | None = None
) -> tuple[Array, Array]:
    """Compute the softmax cross-entropy of captions, summed over unmasked time steps and divided by N.

    Parameters
    ----------
    x : array, shape (N, T, V), or (N, ..., V)
        Scores of every word at every step.
    y : array of int, shape (N, T), or (N, ...)
        True words; those under a False mask are ignored.
    mask : array of bool, shape of `y`, optional
        Which steps count; by default all, except those of `ignore_index`.
    verbose : bool
        Print the shapes at work.
    ignore_index : int, optional
        A word, such as the id of ``<NULL>`` or -100, whose steps do not count.

    Returns
    -------
    loss : array, shape ()
        The loss, in the dtype of `x`; in float32 for half types.
    dx : array, shape of `x`
        Gradient with respect to the scores; zero where a step does not count.

    Raises
    ------
    TypeError
        For ids that are not integers, a mask that is not boolean, or neither a mask nor `ignore_index`.
    ValueError
        For shapes that do not fit or counted ids out of range.
    """
    xp = check_arrays(x=(x, "N ..."))
    array_namespace(x=x, y=y, **({} if mask is None else {"mask": mask}))
    shape, size = tuple(x.shape[:-1]), x.shape[-1]
    if x.ndim < 2 or size == 0:
        raise InvalidValueError(f"x: expected shape (N, T, V) with V >= 1, got {tuple(x.shape)}.")
    if tuple(y.shape) != shape:
        raise InvalidValueError(f"y: expected shape {shape}, as x has it, got {tuple(y.shape)}.")
    if mask is not None:
        check_mask("mask", mask, shape, xp)
    elif ignore_index is None:
        raise InvalidTypeError("mask: expected an array, got None; without a mask, pass ignore_index.")
    has_target = mask if ignore_index is None else y != ignore_index
    if mask is not None and ignore_index is not None:
        has_target = has_target & mask
    check_token_ids("y", xp.where(has_target, y, xp.zeros_like(y)), size, xp, "the last dimension of x")
    targets = xp.reshape(xp.where(has_target, xp.astype(y, xp.int64), xp.asarray(-1, dtype=xp.int64)), (-1,))
    scores = xp.reshape(x, (-1, size), copy=True)
    loss, dscores = kernels_for(x).softmax_cross_entropy(scores, targets, 1.0 / shape[0])
    if verbose:
        print(f"temporal_softmax_loss: scores {tuple(scores.shape)} -> gradient {tuple(x.shape)}")
    return loss, xp.reshape(dscores, x.shape)
