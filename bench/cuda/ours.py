"""Operation counts of capgpu's training step on a GPU: its launches in their order (`capgpu.model`, Adam).

Bytes are the necessary minimum: each operand read once, each result written once. Repeated reads of the persistent
recurrences hit the L2 cache and are not counted.
"""

from __future__ import annotations

from bench.cuda.parts import FLOAT, Extents, Part, product
from capgpu.kernels.cells import CELLS
from capgpu.kernels.cuda.embedding import SLICE

__all__ = ["step"]

# operations per unit and row, with a special function counted as one: see kernels/reference/recurrence.py
_POINTWISE = {"lstm": (24, 27), "gru": (21, 17), "rnn": (4, 4)}
_ADAM = 12
_DROPOUT = 14  # two rounds of the hash, the comparison, the product


def _recurrences(e: Extents, persistent: bool) -> tuple[Part, Part]:
    cell, suffix = e.cell, ("" if persistent else "_step")
    (forward_flops, backward_flops), shape = _POINTWISE[cell], CELLS[cell]
    # numbers of a unit and row. Forward, written: hidden and previous hidden states, cell states and what is saved.
    # Backward, read: dhidden, one of the states and what is saved; written: the gradient of the gates, or both
    written = 2 + shape.has_state + shape.n_saved
    moved = 2 + shape.n_saved + shape.n_gates * (1 + shape.splits_gradient)
    # one launch per step reads Wh again at each step
    weights = e.H * e.G * (1 if persistent else e.steps)
    units = e.M * e.H
    forward = Part(
        "recurrence forward",
        2.0 * units * e.G + forward_flops * units,
        float(FLOAT * (weights + e.U * e.G + e.B + e.N * e.H + e.H + e.M + units * written)),
        1 if persistent else e.steps,
        e.steps - 1 if persistent else 0,
        kernel=f"{cell}_forward{suffix}",
    )
    backward = Part(
        "recurrence backward",
        2.0 * units * e.G + backward_flops * units,
        float(FLOAT * (weights + e.N * e.H + units * moved)),
        1 if persistent else e.steps + 1,
        e.steps if persistent else 0,
        kernel=f"{cell}_backward{suffix}",
    )
    return forward, backward


def _column_sums(matrices: list[tuple[int, int]]) -> list[Part]:
    """Count the two launches that sum the columns of several (rows, width) matrices."""
    slices = [(-(-rows // SLICE), width) for rows, width in matrices]
    input_elements = sum(rows * width for rows, width in matrices)
    partial_elements = sum(rows * width for rows, width in slices)
    unfinished = [(rows, width) for rows, width in slices if rows > 1]
    unfinished_elements = sum(rows * width for rows, width in unfinished)
    parts = [
        Part(
            "biases: sums of slices",
            input_elements,
            float(FLOAT * (input_elements + partial_elements)),
            kernel="column_sums",
        )
    ]
    if unfinished:
        moved = FLOAT * (unfinished_elements + sum(width for _, width in unfinished))
        parts.append(Part("biases: sums of sums", unfinished_elements, float(moved), kernel="column_sums"))
    return parts


def _dropout(name: str, elements: int, dropout: bool) -> list[Part]:
    moved = float(FLOAT * 2 * elements)
    return [Part(name, float(_DROPOUT * elements), moved, kernel="dropout")] if dropout else []


def step(e: Extents, persistent: bool = True, update: bool = True, dropout: bool = False) -> list[Part]:
    """Return the parts of one step: loss, gradients, Adam.

    Parameters
    ----------
    e : Extents
        Extents of the workload.
    persistent : bool
        Whether the recurrences keep ``Wh`` on the chip; False: one launch per step.
    update : bool
        Whether to include Adam.
    dropout : bool
        Whether to include dropout on the features and on the hidden states before the vocabulary.
    """
    forward, backward = _recurrences(e, persistent)
    layout = FLOAT * (2 * e.N + 4 * e.M + 2 * e.U)
    adam = Part("Adam, all parameters", float(_ADAM * e.P), FLOAT * 7.0 * e.P, kernel="adam")
    scores = float(e.M * e.V)
    return [
        Part("layout of the captions", 0.0, float(layout), kernel="copy"),
        *_dropout("dropout of features", e.N * e.D, dropout),
        product("h0 = features @ W_proj", e.N, e.D, e.H),
        Part("gather word vectors", 0.0, FLOAT * 2.0 * e.U * e.W, kernel="gather_rows"),
        product("words @ Wx", e.U, e.W, e.G),
        forward,
        *_dropout("dropout of hidden", e.M * e.H, dropout),
        product("scores = hidden @ W_vocab", e.M, e.H, e.V),
        Part("softmax, gradient in place", 7.0 * scores, FLOAT * (2.0 * scores + e.V), kernel="softmax_registers"),
        product("gradient of hidden", e.M, e.V, e.H),
        product("gradient of W_vocab", e.H, e.M, e.V),
        *_dropout("dropout of the gradient of hidden", e.M * e.H, dropout),
        Part("loss", float(e.M), FLOAT * float(e.M), kernel="sum_losses"),
        backward,
        product("gradient of Wh", e.H, e.M, e.G),
        Part("gradient by distinct word", e.M * e.G, float(FLOAT * (e.M + e.U) * e.G), kernel="segment_sums"),
        product("gradient of Wx", e.W, e.U, e.G),
        product("gradient of word vectors", e.U, e.G, e.W),
        Part("gradient of W_embed", 0.0, float(FLOAT * (e.U + e.V) * e.W), kernel="scatter_rows"),
        product("gradient of W_proj", e.D, e.N, e.H),
        # the GRU's last bias belongs to some columns of the recurrent gradient
        *_column_sums([(e.M, e.V), (e.U, e.G), *([(e.M, e.B - e.G)] if e.B > e.G else []), (e.N, e.H)]),
        *([adam] if update else []),
    ]
