"""The oracle: every operation of the contract in plain array-namespace code.

Runs on NumPy, CuPy and any library of the array API standard. Fused kernels are checked against it; it serves
every dtype and shape that they do not.

Layout
------
Packed rows are time-major (see `capgpu.sequence`): ``batch_sizes`` is a host array, never rising; step t owns the
next ``batch_sizes[t]`` of the M rows; row r of a step belongs to the same sequence as row r of the step before.
The pre-activations from the input, ``projected``, are either one row a packed row (``rows`` is None) or a table
addressed by ``rows`` (M,): a word that occurs often in a batch is projected once.
Gates lie in the order i, f, o, g along the last axis (input, forget, output, candidate).
"""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array, array_namespace
from capgpu.kernels import Kernels

__all__ = [
    "KERNELS",
    "decode_step",
    "embedding_gradient",
    "linear_cross_entropy",
    "lstm_backward",
    "lstm_forward",
    "matmul",
    "rnn_backward",
    "rnn_forward",
    "softmax_cross_entropy",
]


def _sigmoid(xp: Any, a: Array) -> Array:
    # the form with tanh cannot overflow, whatever the sign of a
    return 0.5 * xp.tanh(0.5 * a) + 0.5


def _step_rows(xp: Any, projected: Array, rows: Array | None, start: int, stop: int) -> Array:
    if rows is None:
        return projected[start:stop, :]
    return xp.take(projected, rows[start:stop], axis=0)


def _join(xp: Any, steps: list[Array], width: int, like: Array) -> Array:
    if not steps:
        return xp.zeros((0, width), dtype=like.dtype, device=like.device)
    return steps[0] if len(steps) == 1 else xp.concat(steps, axis=0)


def _padded_add(xp: Any, long: Array, short: Array) -> Array:
    """Add `short` to the first rows of `long`: sequences that have ended receive nothing from later steps."""
    count = short.shape[0]
    if count == long.shape[0]:
        return long + short
    return xp.concat([long[:count, :] + short, long[count:, :]], axis=0)


def matmul(
    a: Array, b: Array, bias: Array | None = None, *, transpose_a: bool = False, transpose_b: bool = False
) -> Array:
    """Multiply two matrices.

    Parameters
    ----------
    a, b : array, shape (m, k) and (k, n)
        The factors; (k, m) and (n, k) where their transpose is to be taken.
    bias : array, shape (n,), optional
        Added to every row.
    transpose_a, transpose_b : bool
        Take the transpose of a factor.

    Returns
    -------
    array, shape (m, n)
        ``op(a) @ op(b) + bias``.
    """
    xp = array_namespace(a, b)
    if transpose_a:
        a = xp.matrix_transpose(a)
    if transpose_b:
        b = xp.matrix_transpose(b)
    return a @ b if bias is None else a @ b + bias


def lstm_forward(
    projected: Array, rows: Array | None, h0: Array, c0: Array | None, Wh: Array, batch_sizes: Any
) -> tuple[Array, Array, Array]:
    """Run an LSTM over packed sequences.

    Parameters
    ----------
    projected : array, shape (M, 4H), or (U, 4H) with `rows`
        ``x @ Wx + b``.
    rows : array of int, shape (M,), or None
        Row of `projected` for each packed row.
    h0 : array, shape (batch_sizes[0], H)
        Initial hidden state.
    c0 : array, shape (batch_sizes[0], H), or None
        Initial cell state; None is zero.
    Wh : array, shape (H, 4H)
        Recurrent weights.
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Rows of each step.

    Returns
    -------
    hidden, cell : array, shape (M, H)
        States after each step.
    gates : array, shape (M, 4H)
        Activated gates, for the backward pass.

    Notes
    -----
    ``i, f, o = sigmoid(a_i, a_f, a_o); g = tanh(a_g); c' = f c + i g; h' = o tanh(c')`` with
    ``a = x Wx + h Wh + b`` (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).
    """
    xp = array_namespace(projected, h0, Wh)
    size = h0.shape[1]
    h, c = h0, xp.zeros_like(h0) if c0 is None else c0
    hidden_steps: list[Array] = []
    cell_steps: list[Array] = []
    gate_steps: list[Array] = []
    start = 0
    for count in batch_sizes.tolist():
        h, c = h[:count, :], c[:count, :]
        a = _step_rows(xp, projected, rows, start, start + count) + h @ Wh
        ifo = _sigmoid(xp, a[:, : 3 * size])
        i, f, o = ifo[:, :size], ifo[:, size : 2 * size], ifo[:, 2 * size :]
        g = xp.tanh(a[:, 3 * size :])
        c = f * c + i * g
        h = o * xp.tanh(c)
        hidden_steps.append(h)
        cell_steps.append(c)
        gate_steps.append(xp.concat([ifo, g], axis=1))
        start += count
    return (
        _join(xp, hidden_steps, size, h0),
        _join(xp, cell_steps, size, h0),
        _join(xp, gate_steps, 4 * size, h0),
    )


def lstm_backward(
    dhidden: Array,
    dcell: Array | None,
    gates: Array,
    cell: Array,
    c0: Array | None,
    Wh: Array,
    batch_sizes: Any,
) -> tuple[Array, Array, Array]:
    """Run the LSTM's recurrence backward, down to the pre-activations.

    The gradients of weights and inputs are products over all rows at once, left to the caller.

    Parameters
    ----------
    dhidden : array, shape (M, H)
        Gradient of the loss with respect to each hidden state, from outside the recurrence.
    dcell : array, shape (M, H), or None
        The same for the cell states; None is zero.
    gates, cell : array, shape (M, 4H) and (M, H)
        From the forward pass.
    c0 : array, shape (batch_sizes[0], H), or None
        Initial cell state; None is zero.
    Wh : array, shape (H, 4H)
        Recurrent weights.
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Rows of each step.

    Returns
    -------
    dprojected : array, shape (M, 4H)
        Gradient with respect to the pre-activations of each packed row.
    dh0, dc0 : array, shape (batch_sizes[0], H)
        Gradients with respect to the initial states.
    """
    xp = array_namespace(dhidden, gates, cell, Wh)
    size = cell.shape[1]
    stop = dhidden.shape[0]
    dh = dc = xp.zeros((0, size), dtype=cell.dtype, device=cell.device)
    out: list[Array] = []
    counts = batch_sizes.tolist()
    for step in reversed(range(len(counts))):
        count = counts[step]
        start = stop - count
        if step:
            c_before = cell[start - counts[step - 1] : start - counts[step - 1] + count, :]
        else:
            c_before = xp.zeros((count, size), dtype=cell.dtype, device=cell.device) if c0 is None else c0
        i = gates[start:stop, :size]
        f = gates[start:stop, size : 2 * size]
        o = gates[start:stop, 2 * size : 3 * size]
        g = gates[start:stop, 3 * size :]
        tanh_c = xp.tanh(cell[start:stop, :])
        dh = _padded_add(xp, dhidden[start:stop, :], dh)
        dc_here = dh * o * (1 - tanh_c * tanh_c)
        if dcell is not None:
            dc_here = dc_here + dcell[start:stop, :]
        dc = _padded_add(xp, dc_here, dc)
        da = xp.concat(
            [
                dc * g * i * (1 - i),
                dc * c_before * f * (1 - f),
                dh * tanh_c * o * (1 - o),
                dc * i * (1 - g * g),
            ],
            axis=1,
        )
        out.append(da)
        dc = dc * f
        dh = da @ xp.matrix_transpose(Wh)
        stop = start
    return _join(xp, out[::-1], 4 * size, cell), dh, dc


def rnn_forward(projected: Array, rows: Array | None, h0: Array, Wh: Array, batch_sizes: Any) -> Array:
    """Run a vanilla RNN, ``h' = tanh(x Wx + h Wh + b)``, over packed sequences (Elman 1990).

    Parameters
    ----------
    projected : array, shape (M, H), or (U, H) with `rows`
        ``x @ Wx + b``.
    rows : array of int, shape (M,), or None
        Row of `projected` for each packed row.
    h0 : array, shape (batch_sizes[0], H)
        Initial hidden state.
    Wh : array, shape (H, H)
        Recurrent weights.
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Rows of each step.

    Returns
    -------
    hidden : array, shape (M, H)
        States after each step.
    """
    xp = array_namespace(projected, h0, Wh)
    h, steps, start = h0, [], 0
    for count in batch_sizes.tolist():
        h = xp.tanh(_step_rows(xp, projected, rows, start, start + count) + h[:count, :] @ Wh)
        steps.append(h)
        start += count
    return _join(xp, steps, h0.shape[1], h0)


def rnn_backward(dhidden: Array, hidden: Array, Wh: Array, batch_sizes: Any) -> tuple[Array, Array]:
    """Run the RNN's recurrence backward, down to the pre-activations.

    Parameters
    ----------
    dhidden : array, shape (M, H)
        Gradient of the loss with respect to each hidden state, from outside the recurrence.
    hidden : array, shape (M, H)
        From the forward pass.
    Wh : array, shape (H, H)
        Recurrent weights.
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Rows of each step.

    Returns
    -------
    dprojected : array, shape (M, H)
        Gradient with respect to the pre-activations of each packed row.
    dh0 : array, shape (batch_sizes[0], H)
        Gradient with respect to the initial hidden state.
    """
    xp = array_namespace(dhidden, hidden, Wh)
    size = hidden.shape[1]
    stop = dhidden.shape[0]
    dh = xp.zeros((0, size), dtype=hidden.dtype, device=hidden.device)
    out: list[Array] = []
    for count in reversed(batch_sizes.tolist()):
        start = stop - count
        h = hidden[start:stop, :]
        da = _padded_add(xp, dhidden[start:stop, :], dh) * (1 - h * h)
        out.append(da)
        dh = da @ xp.matrix_transpose(Wh)
        stop = start
    return _join(xp, out[::-1], size, hidden), dh


def decode_step(
    projected: Array, rows: Array | None, h: Array, c: Array | None, Wh: Array, W_vocab: Array, b_vocab: Array
) -> tuple[Array, Array, Array | None]:
    """Advance N sequences by one word: cell, then scores over the vocabulary.

    Parameters
    ----------
    projected, rows
        As for the recurrence, one packed row a sequence.
    h : array, shape (N, H)
        Hidden state.
    c : array, shape (N, H), or None
        Cell state of an LSTM; None runs a vanilla RNN.
    Wh : array, shape (H, 4H), or (H, H) for an RNN
        Recurrent weights.
    W_vocab, b_vocab : array, shape (H, V) and (V,)
        Vocabulary projection.

    Returns
    -------
    logits : array, shape (N, V)
        Scores of the next word.
    h, c
        The next states.
    """
    import numpy as np

    batch_sizes = np.array([h.shape[0]])
    if c is None:
        h = rnn_forward(projected, rows, h, Wh, batch_sizes)
    else:
        h, c, _ = lstm_forward(projected, rows, h, c, Wh, batch_sizes)
    return h @ W_vocab + b_vocab, h, c


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
        ``-scale * sum(log softmax(logits)[row, targets[row]])``, in the dtype of `logits`.
    dlogits : array, shape (M, V)
        Gradient with respect to `logits`.
    """
    xp = array_namespace(logits, targets)
    counted = targets >= 0
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    exponentials = xp.exp(shifted)
    sums = xp.sum(exponentials, axis=1, keepdims=True)
    classes = xp.arange(logits.shape[1], dtype=xp.int64, device=logits.device)
    hit = classes[None, :] == xp.astype(targets, xp.int64)[:, None]
    nothing = xp.zeros_like(shifted)
    true_scores = xp.sum(xp.where(hit, shifted, nothing), axis=1)
    losses = xp.where(counted, xp.log(sums[:, 0]) - true_scores, xp.zeros_like(true_scores))
    dlogits = (exponentials / sums - xp.astype(hit, logits.dtype)) * scale
    return xp.sum(losses) * scale, xp.where(counted[:, None], dlogits, nothing)


def linear_cross_entropy(
    hidden: Array, W: Array, b: Array, targets: Array, scale: float, gradients: bool = True
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

    Returns
    -------
    loss : array, shape ()
        As `softmax_cross_entropy`.
    dhidden, dW, db : array or None
        Gradients, shaped like `hidden`, `W`, `b`.
    """
    xp = array_namespace(hidden, W, b, targets)
    loss, dlogits = softmax_cross_entropy(hidden @ W + b, targets, scale)
    if not gradients:
        return loss, None, None, None
    dhidden = dlogits @ xp.matrix_transpose(W)
    return loss, dhidden, xp.matrix_transpose(hidden) @ dlogits, xp.sum(dlogits, axis=0)


def embedding_gradient(drows: Array, index: Array, count: int) -> Array:
    """Sum rows by index, in a fixed order: the gradient of ``table[index]`` with respect to the table.

    Parameters
    ----------
    drows : array, shape (M, W)
        Gradient of each gathered row.
    index : array of int, shape (M,)
        Row of the table that each came from, in ``[0, count)``.
    count : int
        Rows of the table.

    Returns
    -------
    array, shape (count, W)
        ``out[k] = sum(drows[index == k])``; zeros for rows never taken.

    Notes
    -----
    Written as a product with the 0/1 matrix of the rows that occur, so that it needs neither atomics nor an
    unordered scatter.
    """
    xp = array_namespace(drows, index)
    out = xp.zeros((count, drows.shape[1]), dtype=drows.dtype, device=drows.device)
    if drows.shape[0] == 0:
        return out
    # in the caller's dtype the range below could wrap: 8-bit ids of a table of 300
    index = xp.astype(index, xp.int64)
    distinct, place = xp.unique_inverse(index)
    taken = xp.arange(distinct.shape[0], dtype=place.dtype, device=drows.device)
    membership = xp.astype(taken[:, None] == xp.reshape(place, (1, -1)), drows.dtype)
    sums = membership @ drows
    # spread the occurring rows over the table by a gather: slot 0 is the zero row of all others
    slots = xp.searchsorted(distinct, xp.arange(count, dtype=xp.int64, device=drows.device))
    slots = xp.clip(slots, 0, distinct.shape[0] - 1)
    present = xp.take(distinct, slots) == xp.arange(count, dtype=xp.int64, device=drows.device)
    return xp.where(present[:, None], xp.take(sums, slots, axis=0), out)


KERNELS = Kernels(
    name="reference",
    matmul=matmul,
    lstm_forward=lstm_forward,
    lstm_backward=lstm_backward,
    rnn_forward=rnn_forward,
    rnn_backward=rnn_backward,
    decode_step=decode_step,
    softmax_cross_entropy=softmax_cross_entropy,
    linear_cross_entropy=linear_cross_entropy,
    embedding_gradient=embedding_gradient,
)
