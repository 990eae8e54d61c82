"""Our training step on a GPU, counted on paper: its kernels and matrix products, in the order in which they start.

Bytes are what a part cannot do without: each operand read once, each result written once.
"""

from __future__ import annotations

from bench.cuda.parts import FLOAT, Extents, Part, product

__all__ = ["step"]

# operations on one unit of one row, a special function being one: see kernels/reference/recurrence.py
_LSTM_FORWARD, _LSTM_BACKWARD, _RNN_FORWARD, _RNN_BACKWARD = 24, 27, 4, 4
_ADAM = 12


def _recurrences(e: Extents, persistent: bool) -> tuple[Part, Part]:
    launches, barriers = (1, e.steps - 1) if persistent else (e.steps, 0)
    # without a persistent kernel Wh is read again at every step
    weights = e.H * e.G * (1 if persistent else e.steps)
    states = 4 if e.lstm else 2  # hidden, hidden before; of the LSTM cell, too
    saved = e.G + (3 if e.lstm else 2) * e.H if e.lstm else 2 * e.H
    forward = Part(
        "recurrence forward",
        2.0 * e.M * e.H * e.G + (_LSTM_FORWARD if e.lstm else _RNN_FORWARD) * e.M * e.H,
        FLOAT * (weights + e.U * e.G + e.G + e.N * e.H + e.H + float(e.M * saved)) + FLOAT * float(e.M),
        launches,
        barriers,
    )
    read = e.G + 2 * e.H if e.lstm else states * e.H
    backward = Part(
        "recurrence backward",
        2.0 * e.M * e.H * e.G + (_LSTM_BACKWARD if e.lstm else _RNN_BACKWARD) * e.M * e.H,
        FLOAT * (weights + float(e.M * (read + e.G)) + e.N * e.H),
        launches,
        barriers,
    )
    return forward, backward


def _column_sums(name: str, rows: int, columns: int, launches: int = 2) -> Part:
    return Part(name, float(rows * columns), FLOAT * float(rows * columns + columns), launches)


def step(e: Extents, persistent: bool = True) -> list[Part]:
    """Return the parts of one step: loss, gradients, Adam.

    Parameters
    ----------
    e : Extents
        Of the workload.
    persistent : bool
        Whether the recurrences hold ``Wh`` on the chip; False launches one kernel a step instead.
    """
    forward, backward = _recurrences(e, persistent)
    return [
        product("h0 = features @ W_proj", e.N, e.D, e.H),
        Part("gather word vectors", 0.0, FLOAT * 2.0 * e.U * e.W),
        product("words @ Wx", e.U, e.W, e.G),
        forward,
        product("scores = hidden @ W_vocab", e.M, e.H, e.V),
        Part("softmax, gradient in place, row losses", 7.0 * e.M * e.V, FLOAT * (2.0 * e.M * e.V + e.V + 2.0 * e.M)),
        Part("loss: sum of rows", float(e.M), FLOAT * float(e.M)),
        product("gradient of W_vocab", e.H, e.M, e.V),
        _column_sums("gradient of b_vocab", e.M, e.V),
        product("gradient of hidden", e.M, e.V, e.H),
        backward,
        product("gradient of Wh", e.H, e.M, e.G),
        Part("gradient by distinct word", float(e.M * e.G), FLOAT * float((e.M + e.U) * e.G)),
        product("gradient of Wx", e.W, e.U, e.G),
        product("gradient of word vectors", e.U, e.G, e.W),
        Part("gradient of W_embed", 0.0, FLOAT * float((e.U + e.V) * e.W)),
        _column_sums("gradient of b", e.U, e.G),
        _column_sums("gradient of b_proj", e.N, e.H, 1),
        product("gradient of W_proj", e.D, e.N, e.H),
        Part("Adam, all parameters", float(_ADAM * e.P), FLOAT * 7.0 * e.P),
    ]
