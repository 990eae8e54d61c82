"""Softmax cross-entropy on the device, alone and behind the vocabulary projection; the kernels are in softmax.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.contract import Dropout, Precision, check_precision
from capgpu.kernels.cuda.array_checks import (
    NULL,
    check_device,
    contiguous,
    empty,
    indices,
    is_allocating_anew,
    sum_dtype,
)
from capgpu.kernels.cuda.compile import kernel
from capgpu.kernels.cuda.constants import HELD_SCORES, PACK_BYTES, ROW_THREADS, THREADS, WARP, WARP_ROWS
from capgpu.kernels.cuda.device_calls import add_into
from capgpu.kernels.cuda.dropout import drop_into
from capgpu.kernels.cuda.embedding import sum_columns, sum_columns_later
from capgpu.kernels.cuda.gemm import product
from capgpu.kernels.cuda.workspace import Workspace, workspace

__all__ = [
    "SCORE_BYTES",
    "cross_entropy_rows",
    "linear_cross_entropy",
    "softmax_cross_entropy",
    "sum_losses",
]

#: Maximum scores per row for which a warp computes a row; longer rows take a block, in registers if the row fits.
WARP_SCORES = 512
#: Maximum bytes of scores in memory at once; more rows are processed in blocks.
SCORE_BYTES = 256 * 2**20


def _row_threads(size: int, itemsize: int) -> int:
    """Return the number of threads that hold a row of scores in registers: whole warps, at least two."""
    packs, packs_per_thread = size * itemsize // PACK_BYTES, HELD_SCORES * itemsize // PACK_BYTES
    return max(-(-packs // (packs_per_thread * WARP)), 2) * WARP


def cross_entropy_rows(
    scores: Any, bias: Any, targets: Any, losses: Any, scale: float, smoothing: float = 0.0, weights: Any = None
) -> None:
    """Turn scores into their gradient, and write each row's loss; one launch.

    Parameters
    ----------
    scores : array, shape (M, V)
        Without gaps; overwritten.
    bias : array, shape (V,), or None
        Added to the scores.
    targets : array of int32, shape (M,)
        True classes; negative leaves a row out.
    losses : array, shape (M,)
        Gets the losses, without `scale`; float64 for float64, else float32.
    scale : float
        Factor of the gradient.
    smoothing : float
        Label smoothing in ``[0, 1)``: the probability that is distributed evenly over all classes.
    weights : array, shape (M,), optional
        Factor of each row's loss and gradient, in the dtype of `losses`; 0 leaves a row out.
    """
    count, size = scores.shape
    acc = sum_dtype(scores.dtype).type
    numbers = np.int32(count), np.int32(size), acc(scale), acc(smoothing)
    optional = (NULL if bias is None else bias, targets, NULL if weights is None else weights)
    args = (scores, *optional, losses, *numbers)
    if size <= WARP_SCORES:
        kernel("softmax_warps", scores.dtype)(-(-count // WARP_ROWS), WARP * WARP_ROWS, args)
    elif scores.dtype.itemsize < 8 and (threads := _row_threads(size, scores.dtype.itemsize)) <= ROW_THREADS:
        kernel("softmax_registers", scores.dtype)(count, threads, args)
    else:
        kernel("softmax_blocks", scores.dtype)(count, THREADS, args)


def sum_losses(losses: Any, loss: Any, dtype: Any, scale: float) -> None:
    """Add the rows' losses up, in a fixed order; one launch.

    Parameters
    ----------
    losses : array, shape (M,)
        From `cross_entropy_rows`.
    loss : array, shape (), of the same dtype
        Gets the sum times `scale`.
    dtype : dtype
        Of the scores.
    scale : float
        Factor.
    """
    kernel("sum_losses", dtype)(1, THREADS, (losses, loss, np.int32(losses.size), np.float64(scale)))


def _row_losses(space: Workspace, count: int, dtype: Any) -> Any:
    return space.take("row losses", (count,), sum_dtype(dtype))


def softmax_cross_entropy(logits: Any, targets: Any, scale: float) -> tuple[Any, Any]:
    """Compute loss and gradient; see `capgpu.kernels.reference.softmax.softmax_cross_entropy`."""
    check_device(logits=logits, targets=targets)
    scores = contiguous(logits)
    losses = _row_losses(workspace(), scores.shape[0], scores.dtype)
    loss = _empty_loss(workspace(), scores.dtype)
    cross_entropy_rows(scores, None, indices(targets), losses, scale)
    sum_losses(losses, loss, scores.dtype, scale)
    return loss, scores


def linear_cross_entropy(
    hidden: Any,
    W: Any,
    b: Any,
    targets: Any,
    scale: float,
    gradients: bool = True,
    smoothing: float = 0.0,
    dropout: Dropout | None = None,
    precision: Precision = "float32",
    row_weights: Any = None,
) -> tuple[Any, Any, Any, Any]:
    """Compute loss and gradients; see `capgpu.kernels.reference.linear_cross_entropy`.

    `SCORE_BYTES` of scores are kept at once, or fewer: more rows are processed in blocks, whose gradients of the
    weights are added in order. W may be a transposed view; its gradient then lies in memory as it does.
    """
    check_precision(precision, hidden.dtype)
    check_device(hidden=hidden, W=W, b=b, targets=targets, row_weights=row_weights)
    hidden, b, targets = contiguous(hidden), contiguous(b), indices(targets)
    weights = None if row_weights is None else contiguous(row_weights)
    space, dtype, (count, size) = workspace(), hidden.dtype, (hidden.shape[0], W.shape[1])
    # all results are allocated first, so that nothing has been launched if memory is short
    loss = _empty_loss(space, dtype)
    dhidden: Any = None
    dW: Any = None
    db: Any = None
    if gradients:
        dhidden = empty(hidden.shape, dtype, "the gradient of the hidden states")
        dW, db = _empty_like(W, "the gradient of W"), empty(b.shape, dtype, "the gradient of b")
    max_rows = max(SCORE_BYTES // (size * dtype.itemsize), 1)
    losses = _row_losses(space, count, dtype)
    block_dW = block_db = None
    if count > max_rows and gradients:
        block_dW = space.take("a block's gradient of W", W.shape, dtype)
        block_db = space.take("a block's gradient of b", b.shape, dtype)
    if dropout is not None:
        dropped_hidden = space.take("hidden states after dropout", hidden.shape, dtype)
        drop_into(hidden, dropout, dropped_hidden)
        hidden = dropped_hidden
    for start in range(0, max(count, 1), max_rows):
        first, rows = start == 0, slice(start, start + max_rows)
        block, block_targets, block_losses, block_weights = hidden, targets, losses, weights
        if count > max_rows:
            block, block_targets, block_losses = hidden[rows], targets[rows], losses[rows]
            block_weights = None if weights is None else weights[rows]
        scores = space.take("scores", (block.shape[0], size), dtype, min(space.capacity(count), max_rows) * size)
        product(block, W, scores, precision)
        cross_entropy_rows(scores, b, block_targets, block_losses, scale, smoothing, block_weights)
        if dhidden is None:
            continue
        product(scores, W.T, dhidden[rows] if count > max_rows else dhidden, precision)
        product(block.T, scores, dW if first else block_dW, precision)
        if count <= max_rows:
            sum_columns_later(space, scores, db)
            continue
        sum_columns(space, [(scores, db if first else block_db)])
        if not first:
            add_into(dW, block_dW)
            add_into(db, block_db)
    if dropout is not None and dhidden is not None:
        drop_into(dhidden, dropout, dhidden)
    sum_losses(losses, loss, dtype, scale)
    return loss, dhidden, dW, db


def _empty_loss(space: Workspace, dtype: Any) -> Any:
    """Return a zero-dimensional array; new ones share an allocation, since a training run keeps many of them."""
    return space.scalar(sum_dtype(dtype)) if is_allocating_anew() else empty((), sum_dtype(dtype), "the loss")


def _empty_like(matrix: Any, purpose: str) -> Any:
    """Return an uninitialized matrix with the memory order of the given one."""
    if matrix.flags.f_contiguous and not matrix.flags.c_contiguous:
        return empty(matrix.shape[::-1], matrix.dtype, purpose).T
    return empty(matrix.shape, matrix.dtype, purpose)
