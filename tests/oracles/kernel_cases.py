"""The operations of the kernels' contract as data: arguments on the host, and the plain loops' results.

The oracle runs sequences one by one, each at its own length; the results are then packed step by step, longest first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from capgpu.kernels import Dropout, RowGroups
from oracles import recurrences
from oracles.halves import sums
from oracles.masks import plain_mask
from oracles.packing import batch_sizes_of, packed, unpacked
from oracles.recurrences import Floats

Arguments = dict[str, Any]
DROPOUT = Dropout(-12345678901234567890, 0.4)


class Extents(NamedTuple):
    """Extents of a case: length of each sequence, hidden size H, vocabulary V."""

    lengths: tuple[int, ...]
    H: int
    V: int


#: Degenerate, odd, and ragged batches. Lengths are falling, as packed batches are.
EXTENTS = (
    Extents((1,), 1, 1),
    Extents((7, 3, 3, 1), 3, 7),
    Extents((3,) * 7, 33, 3),
    Extents((5, 4, 2), 7, 33),
    Extents((2,) * 33, 1, 2),
)


#: Arguments that an operation may write into.
OVERWRITABLE = {"softmax_cross_entropy": {"logits"}, "add_rows": {"table"}}


@dataclass(frozen=True)
class KernelCase:
    """One operation in one of its variants.

    Attributes
    ----------
    operation : str
        Name in the contract.
    variant : str
        Which optional arguments are given.
    arguments : callable
        (random, Extents, dtype) -> arguments on the host, values rounded to the dtype.
    plain : callable
        (arguments in float64, Extents) -> tuple of results.
    kinds : tuple of str
        ``"forward"`` or ``"gradient"`` for each result: its tolerance.
    """

    operation: str
    variant: str
    arguments: Callable[[np.random.Generator, Extents, str], Arguments]
    plain: Callable[[Arguments, Extents], tuple[Any, ...]]
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.operation}-{self.variant}" if self.variant else self.operation


def _draw(random: np.random.Generator, dtype: str, *shape: int) -> Floats:
    return random.uniform(-1, 1, shape).astype(dtype)


def _matmul_arguments(random: np.random.Generator, e: Extents, dtype: str, transposed: str, bias: bool) -> Arguments:
    rows = sum(e.lengths)
    a, b = {"": ((rows, e.H), (e.H, e.V)), "a": ((rows, e.H), (rows, e.V)), "b": ((rows, e.V), (e.H, e.V))}[transposed]
    return {
        "a": _draw(random, dtype, *a),
        "b": _draw(random, dtype, *b),
        "bias": _draw(random, dtype, b[0] if transposed == "b" else b[1]) if bias else None,
        "transpose_a": transposed == "a",
        "transpose_b": transposed == "b",
    }


def _matmul(a: Arguments, e: Extents) -> tuple[Any, ...]:
    op_a = a["a"].T if a["transpose_a"] else a["a"]
    op_b = a["b"].T if a["transpose_b"] else a["b"]
    out = np.zeros((op_a.shape[0], op_b.shape[1])) if a["bias"] is None else np.tile(a["bias"], (op_a.shape[0], 1))
    for k in range(op_a.shape[1]):
        out += np.outer(op_a[:, k], op_b[k])
    return (out,)


def _recurrence(
    random: np.random.Generator,
    e: Extents,
    dtype: str,
    gates: int,
    table: bool,
    cell: bool | None,
    options: bool,
    biases: int = 0,
) -> Arguments:
    rows, count = sum(e.lengths), len(e.lengths)
    distinct = 1 + rows // 2 if table else rows
    # with options there is a sequence more, without any step
    sequences = count + options
    arguments: Arguments = {
        "projected": _draw(random, dtype, distinct, gates * e.H),
        "rows": random.integers(0, distinct, rows) if table else None,
        "h0": _draw(random, dtype, sequences, e.H),
    }
    if cell is not None:
        arguments["c0"] = _draw(random, dtype, sequences, e.H) if cell else None
    arguments["Wh"] = _draw(random, dtype, e.H, gates * e.H)
    arguments["batch_sizes"] = batch_sizes_of(e.lengths)
    if options or biases:
        arguments["bias"] = _draw(random, dtype, (biases or gates) * e.H)
    if options:
        arguments["h0_bias"] = _draw(random, dtype, e.H)
        arguments["order"] = random.permutation(sequences)
    return arguments


def _projected_rows(a: Arguments) -> Floats:
    rows = a["projected"] if a["rows"] is None else a["projected"][a["rows"]]
    return rows + a["bias"][: rows.shape[1]] if "bias" in a else rows


def _ranked(a: Arguments, name: str, e: Extents) -> Floats:
    """Return the initial states of the sequences, longest first; zeros where none are given."""
    if a.get(name) is None:
        return np.zeros((len(e.lengths), e.H))
    states = a[name] if a.get("order") is None else a[name][a["order"]]
    return states[: len(e.lengths)] + (a.get("h0_bias", 0) if name == "h0" else 0)


def _unranked(a: Arguments, rows: list[Floats], e: Extents) -> Floats:
    """Undo `_ranked` for gradients."""
    gradients = np.array(rows).reshape(-1, e.H)
    if a.get("order") is None:
        return gradients
    out = np.zeros((a["order"].size, e.H))
    out[a["order"][: len(rows)]] = gradients
    return out


def _previous(hidden: list[Floats], h0: Floats, e: Extents) -> Floats:
    return packed([np.concatenate([h[None], run[:-1]]) for h, run in zip(h0, hidden, strict=True)], e.H)


def _lstm_forward(a: Arguments, e: Extents) -> tuple[Any, ...]:
    h0, c0 = _ranked(a, "h0", e), _ranked(a, "c0", e)
    runs = [
        recurrences.lstm_sequence(rows, h0[n], c0[n], a["Wh"])
        for n, rows in enumerate(unpacked(_projected_rows(a), e.lengths))
    ]
    states = (packed([run[k] for run in runs], width) for k, width in enumerate((e.H, e.H, 4 * e.H)))
    return *states, _previous([run[0] for run in runs], h0, e)


def _lstm_backward_arguments(
    random: np.random.Generator, e: Extents, dtype: str, cell: bool, dcell: bool, options: bool
) -> Arguments:
    forward = _recurrence(random, e, dtype, 4, False, cell, options)
    exact = {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == dtype else value
        for name, value in forward.items()
    }
    hidden, states, gates, _ = _lstm_forward(exact, e)
    arguments = {
        "dhidden": _draw(random, dtype, *hidden.shape),
        "dcell": _draw(random, dtype, *hidden.shape) if dcell else None,
        "gates": gates.astype(dtype),
        "cell": states.astype(dtype),
        "c0": forward["c0"],
        "Wh": forward["Wh"],
        "batch_sizes": forward["batch_sizes"],
    }
    return {**arguments, "order": forward["order"]} if options else arguments


def _lstm_backward(a: Arguments, e: Extents) -> tuple[Any, ...]:
    dcell = np.zeros_like(a["cell"]) if a["dcell"] is None else a["dcell"]
    rows = (unpacked(rows, e.lengths) for rows in (a["dhidden"], dcell, a["gates"], a["cell"]))
    runs = [recurrences.lstm_sequence_backward(*part, a["Wh"]) for part in zip(*rows, _ranked(a, "c0", e), strict=True)]
    dh0, dc0 = (_unranked(a, [run[k] for run in runs], e) for k in (1, 2))
    return packed([run[0] for run in runs], 4 * e.H), dh0, dc0


def _attention(random: np.random.Generator, e: Extents, dtype: str, table: bool, options: bool) -> Arguments:
    lstm = _recurrence(random, e, dtype, 4, table, None, options)
    return {
        "projected": lstm["projected"],
        "rows": lstm["rows"],
        # a picture has as many cells as there are words
        "A": _draw(random, dtype, len(lstm["h0"]), e.V, e.H),
        "Wh": lstm["Wh"],
        "Wattn": _draw(random, dtype, e.H, 4 * e.H),
        "batch_sizes": lstm["batch_sizes"],
        **({"bias": lstm["bias"], "order": lstm["order"]} if options else {}),
    }


def _ranked_grids(a: Arguments, e: Extents) -> Floats:
    grids: Floats = a["A"] if a.get("order") is None else a["A"][a["order"]]
    return grids[: len(e.lengths)]


def _attention_forward(a: Arguments, e: Extents) -> tuple[Any, ...]:
    runs = [
        recurrences.attention_lstm_sequence(rows, grid, a["Wh"], a["Wattn"])
        for rows, grid in zip(unpacked(_projected_rows(a), e.lengths), _ranked_grids(a, e), strict=True)
    ]
    widths = (e.H, e.H, 4 * e.H, e.H, e.V, e.H)
    return tuple(packed([run[k] for run in runs], width) for k, width in enumerate(widths))


def _attention_backward_arguments(random: np.random.Generator, e: Extents, dtype: str, order: bool) -> Arguments:
    forward = _attention(random, e, dtype, False, order)
    exact = {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == dtype else value
        for name, value in forward.items()
    }
    hidden, *saved, _ = _attention_forward(exact, e)
    cell, gates, previous, attention = (array.astype(dtype) for array in saved)
    return {
        "dhidden": _draw(random, dtype, *hidden.shape),
        "gates": gates,
        "cell": cell,
        "previous": previous,
        "attention": attention,
        **{name: forward[name] for name in ("A", "Wh", "Wattn", "batch_sizes")},
        **({"order": forward["order"]} if order else {}),
    }


def _attention_backward(a: Arguments, e: Extents) -> tuple[Any, ...]:
    parts = (unpacked(a[name], e.lengths) for name in ("dhidden", "gates", "cell", "previous", "attention"))
    runs = [
        recurrences.attention_lstm_sequence_backward(*part, a["Wh"], a["Wattn"])
        for part in zip(*parts, _ranked_grids(a, e), strict=True)
    ]
    dA = np.zeros_like(a["A"])
    for n, (_, gradient) in enumerate(runs):
        dA[n if a.get("order") is None else a["order"][n]] = gradient
    return packed([run[0] for run in runs], 4 * e.H), dA


def _rnn_forward(a: Arguments, e: Extents) -> tuple[Any, ...]:
    h0 = _ranked(a, "h0", e)
    sequences = zip(unpacked(_projected_rows(a), e.lengths), h0, strict=True)
    runs = [recurrences.rnn_sequence(rows, h, a["Wh"]) for rows, h in sequences]
    return packed(runs, e.H), None, None, _previous(runs, h0, e)


def _rnn_backward_arguments(random: np.random.Generator, e: Extents, dtype: str, options: bool) -> Arguments:
    shape = (sum(e.lengths), e.H)
    arguments = {
        "dhidden": _draw(random, dtype, *shape),
        "hidden": _draw(random, dtype, *shape),
        "Wh": _draw(random, dtype, e.H, e.H),
        "batch_sizes": batch_sizes_of(e.lengths),
    }
    return {**arguments, "order": random.permutation(len(e.lengths) + 1)} if options else arguments


def _rnn_backward(a: Arguments, e: Extents) -> tuple[Any, ...]:
    parts = zip(unpacked(a["dhidden"], e.lengths), unpacked(a["hidden"], e.lengths), strict=True)
    runs = [recurrences.rnn_sequence_backward(dhidden, hidden, a["Wh"]) for dhidden, hidden in parts]
    return packed([run[0] for run in runs], e.H), _unranked(a, [run[1] for run in runs], e)


def _gru_forward(a: Arguments, e: Extents) -> tuple[Any, ...]:
    h0, q_bias = _ranked(a, "h0", e), a["bias"][3 * e.H :]
    sequences = zip(unpacked(_projected_rows(a), e.lengths), h0, strict=True)
    runs = [recurrences.gru_sequence(rows, h, a["Wh"], q_bias) for rows, h in sequences]
    hidden, gates = (packed([run[k] for run in runs], width) for k, width in enumerate((e.H, 4 * e.H)))
    return hidden, None, gates, _previous([run[0] for run in runs], h0, e)


def _gru_backward_arguments(random: np.random.Generator, e: Extents, dtype: str, options: bool) -> Arguments:
    rows = sum(e.lengths)
    r, z, n, q = (_draw(random, dtype, rows, e.H) for _ in range(4))
    arguments = {
        "dhidden": _draw(random, dtype, rows, e.H),
        "gates": np.concatenate([abs(r), abs(z), n, q], axis=1),
        "previous": _draw(random, dtype, rows, e.H),
        "Wh": _draw(random, dtype, e.H, 3 * e.H),
        "batch_sizes": batch_sizes_of(e.lengths),
    }
    return {**arguments, "order": random.permutation(len(e.lengths) + 1)} if options else arguments


def _gru_backward(a: Arguments, e: Extents) -> tuple[Any, ...]:
    parts = zip(*(unpacked(a[name], e.lengths) for name in ("dhidden", "gates", "previous")), strict=True)
    runs = [recurrences.gru_sequence_backward(*part, a["Wh"]) for part in parts]
    dprojected, drecurrent = (packed([run[k] for run in runs], 3 * e.H) for k in range(2))
    return dprojected, drecurrent, _unranked(a, [run[2] for run in runs], e)


def _decode_arguments(
    random: np.random.Generator, e: Extents, dtype: str, gates: int, table: bool, beams: bool
) -> Arguments:
    count = len(e.lengths)
    distinct = e.V if table else count
    return {
        "parents": random.integers(0, count, count) if beams else None,
        "projected": _draw(random, dtype, distinct, gates * e.H),
        "rows": random.integers(0, distinct, count) if table else None,
        "h": _draw(random, dtype, count, e.H),
        "c": _draw(random, dtype, count, e.H) if gates == 4 else None,
        "Wh": _draw(random, dtype, e.H, gates * e.H),
        "W_vocab": _draw(random, dtype, e.H, e.V),
        "b_vocab": _draw(random, dtype, e.V),
        **({"recurrent_bias": _draw(random, dtype, e.H)} if gates == 3 else {}),
    }


def _decode(a: Arguments, e: Extents) -> tuple[Any, ...]:
    parents = np.arange(len(e.lengths)) if a["parents"] is None else a["parents"]
    inputs, sums = _projected_rows(a), (a["h"] @ a["Wh"])[parents]
    pre_activations = inputs + sums
    if "recurrent_bias" in a:
        sums[:, 2 * e.H :] += a["recurrent_bias"]
        rows = zip(inputs, sums, a["h"][parents], strict=True)
        h, c = np.array([recurrences.gru_step(*row)[0] for row in rows]), None
    elif a["c"] is None:
        h, c = np.tanh(pre_activations), None
    else:
        steps = [recurrences.lstm_step(row, state) for row, state in zip(pre_activations, a["c"][parents], strict=True)]
        h, c = np.array([step[0] for step in steps]), np.array([step[1] for step in steps])
    return np.array([row @ a["W_vocab"] + a["b_vocab"] for row in h]), h, c


def _attention_decode_arguments(
    random: np.random.Generator, e: Extents, dtype: str, table: bool, beams: bool
) -> Arguments:
    lstm = _decode_arguments(random, e, dtype, 4, table, beams)
    count = len(e.lengths)
    return {
        **{name: lstm[name] for name in ("projected", "rows", "h", "c")},
        "A": _draw(random, dtype, 1 + count // 2 if beams else count, e.V, e.H),
        "pictures": random.integers(0, 1 + count // 2, count) if beams else None,
        "Wh": lstm["Wh"],
        "Wattn": _draw(random, dtype, e.H, 4 * e.H),
        **{name: lstm[name] for name in ("W_vocab", "b_vocab", "parents")},
    }


def _attention_decode(a: Arguments, e: Extents) -> tuple[Any, ...]:
    count = len(e.lengths)
    parents = np.arange(count) if a["parents"] is None else a["parents"]
    grids = a["A"] if a["pictures"] is None else a["A"][a["pictures"]]
    attended = [recurrences.attend(h, grid) for h, grid in zip(a["h"], grids, strict=True)]
    weights, contexts = (np.array([each[k] for each in attended])[parents] for k in (0, 1))
    sums = (a["h"] @ a["Wh"])[parents] + contexts @ a["Wattn"]
    logits, h, c = _decode({**a, "projected": _projected_rows(a) + sums, "rows": None, "Wh": np.zeros_like(a["Wh"])}, e)
    return logits, h, c, weights


def _targets(random: np.random.Generator, e: Extents) -> Any:
    targets = random.integers(0, e.V, sum(e.lengths))
    targets[random.uniform(size=targets.size) < 0.3] = -1
    return targets


def _softmax_arguments(random: np.random.Generator, e: Extents, dtype: str) -> Arguments:
    return {
        "logits": 3 * _draw(random, dtype, sum(e.lengths), e.V),
        "targets": _targets(random, e),
        "scale": 0.25,
    }


def _linear_arguments(
    random: np.random.Generator,
    e: Extents,
    dtype: str,
    gradients: bool = True,
    smoothing: float = 0.0,
    dropout: Dropout | None = None,
    weighted: bool = False,
) -> Arguments:
    rows = sum(e.lengths)
    return {
        "hidden": _draw(random, dtype, sum(e.lengths), e.H),
        "W": _draw(random, dtype, e.H, e.V),
        "b": _draw(random, dtype, e.V),
        "targets": _targets(random, e),
        "scale": 0.25,
        "gradients": gradients,
        "smoothing": smoothing,
        "dropout": dropout,
        # of both signs, and some 0
        "row_weights": 0.75 * random.integers(-2, 3, rows).astype(sums(dtype)) if weighted else None,
    }


def _linear(a: Arguments, e: Extents) -> tuple[Any, ...]:
    mask = plain_mask(a["dropout"], a["hidden"].shape)
    hidden = a["hidden"] * mask
    logits, weights = hidden @ a["W"] + a["b"], a["row_weights"]
    if weights is None:
        loss, dlogits = _mixed(logits, a["targets"], a["scale"], a["smoothing"])
    else:
        rows = [slice(row, row + 1) for row in range(len(logits))]
        parts = [_mixed(logits[row], a["targets"][row], a["scale"] * weights[row][0], a["smoothing"]) for row in rows]
        loss = sum(part[0] for part in parts)
        dlogits = np.concatenate([np.zeros_like(logits[:0]), *(part[1] for part in parts)])
    if not a["gradients"]:
        return loss, None, None, None
    return loss, dlogits @ a["W"].T * mask, hidden.T @ dlogits, dlogits.sum(axis=0)


def _mixed(logits: Floats, labels: Any, scale: float, smoothing: float) -> tuple[Any, Floats]:
    """Mix the losses of the true class and, with smoothed labels, of every class in turn."""
    loss, dlogits = recurrences.cross_entropy(logits, labels, scale)
    if smoothing == 0:
        return loss, dlogits
    loss, dlogits, classes = (1 - smoothing) * loss, (1 - smoothing) * dlogits, logits.shape[1]
    for label in range(classes):
        part, dpart = recurrences.cross_entropy(logits, np.where(labels < 0, -1, label), scale)
        loss, dlogits = loss + smoothing / classes * part, dlogits + smoothing / classes * dpart
    return loss, dlogits


def _take_arguments(random: np.random.Generator, e: Extents, dtype: str) -> Arguments:
    return {"table": _draw(random, dtype, e.V, e.H), "rows": random.integers(0, e.V, sum(e.lengths))}


def _take(a: Arguments, e: Extents) -> tuple[Any, ...]:
    return (np.array([a["table"][row] for row in a["rows"]]).reshape(-1, e.H),)


def _dropout_arguments(random: np.random.Generator, e: Extents, dtype: str) -> Arguments:
    return {"array": _draw(random, dtype, sum(e.lengths), e.H), "dropout": DROPOUT}


def _dropout(a: Arguments, e: Extents) -> tuple[Any, ...]:
    return (a["array"] * plain_mask(a["dropout"], a["array"].shape),)


def _spread_arguments(random: np.random.Generator, e: Extents, dtype: str, table: bool) -> Arguments:
    rows = sum(e.lengths)
    arguments: Arguments = {
        "rows": _draw(random, dtype, rows, e.H),
        "index": np.sort(random.permutation(rows + 3)[:rows]),
    }
    return {"table": _draw(random, dtype, rows + 3, e.H), **arguments} if table else {**arguments, "count": rows + 3}


def _spread(a: Arguments, e: Extents) -> tuple[Any, ...]:
    table = a["table"].copy() if "table" in a else np.zeros((a["count"], e.H))
    for row, place in zip(a["rows"], a["index"], strict=True):
        table[place] += row
    return (table,)


def _embedding_arguments(random: np.random.Generator, e: Extents, dtype: str, grouped: bool) -> Arguments:
    rows = sum(e.lengths)
    index = random.integers(0, e.V, rows)
    order, starts = np.argsort(index, kind="stable"), np.searchsorted(np.sort(index), np.arange(e.V + 3))
    return {
        "drows": _draw(random, dtype, rows, e.H),
        "index": index,
        "count": e.V + 2,
        "groups": RowGroups(order.astype(np.int32), starts.astype(np.int32)) if grouped else None,
    }


def _embedding(a: Arguments, e: Extents) -> tuple[Any, ...]:
    table = np.zeros((a["count"], a["drows"].shape[1]))
    for row, place in zip(a["drows"], a["index"], strict=True):
        table[place] += row
    return (table,)


def _cases() -> tuple[KernelCase, ...]:
    out = [
        KernelCase(
            "matmul",
            f"transposed_{transposed or 'none'}-{'bias' if bias else 'no_bias'}",
            lambda r, e, d, transposed=transposed, bias=bias: _matmul_arguments(r, e, d, transposed, bias),
            _matmul,
            ("forward",),
        )
        for transposed in ("", "a", "b")
        for bias in (False, True)
    ]
    for table in (False, True):
        words = "table" if table else "rows"
        for options in (False, True):
            suffix = "-options" if options else ""
            for cell in (False, True):
                out.append(
                    KernelCase(
                        "lstm_forward",
                        f"{words}-{'c0' if cell else 'no_c0'}{suffix}",
                        lambda r, e, d, table=table, cell=cell, options=options: _recurrence(
                            r, e, d, 4, table, cell, options
                        ),
                        _lstm_forward,
                        ("forward",) * 4,
                    )
                )
            out.append(
                KernelCase(
                    "rnn_forward",
                    f"{words}{suffix}",
                    lambda r, e, d, table=table, options=options: _recurrence(r, e, d, 1, table, None, options),
                    _rnn_forward,
                    ("forward",) * 4,
                )
            )
            out.append(
                KernelCase(
                    "gru_forward",
                    f"{words}{suffix}",
                    lambda r, e, d, table=table, options=options: _recurrence(r, e, d, 3, table, None, options, 4),
                    _gru_forward,
                    ("forward",) * 4,
                )
            )
        out.extend(
            KernelCase(
                "decode_step",
                f"{cell}-{words}-{'beams' if beams else 'one_each'}",
                lambda r, e, d, gates=gates, table=table, beams=beams: _decode_arguments(r, e, d, gates, table, beams),
                _decode,
                ("forward",) * 3,
            )
            for cell, gates in (("lstm", 4), ("rnn", 1), ("gru", 3))
            for beams in (False, True)
        )
        # each option in one of two cases: the kernels treat them one apart from another
        out.append(
            KernelCase(
                "attention_lstm_forward",
                "table-options" if table else "rows",
                lambda r, e, d, table=table: _attention(r, e, d, table, table),
                _attention_forward,
                ("forward",) * 6,
            )
        )
        out.append(
            KernelCase(
                "attention_decode_step",
                "table-beams" if table else "rows-one_each",
                lambda r, e, d, table=table: _attention_decode_arguments(r, e, d, table, table),
                _attention_decode,
                ("forward",) * 4,
            )
        )
    out.extend(
        KernelCase(
            "lstm_backward",
            f"{'c0' if cell else 'no_c0'}-{'dcell' if dcell else 'no_dcell'}{'-order' if order else ''}",
            lambda r, e, d, cell=cell, dcell=dcell, order=order: _lstm_backward_arguments(r, e, d, cell, dcell, order),
            _lstm_backward,
            ("gradient",) * 3,
        )
        for cell in (False, True)
        for dcell, order in ((False, False), (True, False), (False, True))
    )
    out.extend(
        KernelCase(
            "rnn_backward",
            "order" if order else "",
            lambda r, e, d, order=order: _rnn_backward_arguments(r, e, d, order),
            _rnn_backward,
            ("gradient",) * 2,
        )
        for order in (False, True)
    )
    out.extend(
        KernelCase(
            "gru_backward",
            "order" if order else "",
            lambda r, e, d, order=order: _gru_backward_arguments(r, e, d, order),
            _gru_backward,
            ("gradient",) * 3,
        )
        for order in (False, True)
    )
    out.extend(
        KernelCase(
            "attention_lstm_backward",
            "order" if order else "",
            lambda r, e, d, order=order: _attention_backward_arguments(r, e, d, order),
            _attention_backward,
            ("gradient",) * 2,
        )
        for order in (False, True)
    )
    out.append(
        KernelCase(
            "softmax_cross_entropy",
            "",
            _softmax_arguments,
            lambda a, e: recurrences.cross_entropy(a["logits"], a["targets"], a["scale"]),
            ("forward", "gradient"),
        )
    )
    options: dict[str, dict[str, Any]] = {
        "gradients": {},
        "loss_alone": {"gradients": False},
        "smoothed": {"smoothing": 0.3},
        "dropout": {"dropout": DROPOUT},
        "smoothed_dropout": {"smoothing": 0.3, "dropout": DROPOUT},
        "weighted": {"weighted": True},
        "weighted_smoothed_dropout": {"weighted": True, "smoothing": 0.3, "dropout": DROPOUT},
        "smoothed_dropout_loss_alone": {"smoothing": 0.3, "dropout": DROPOUT, "gradients": False},
    }
    out.extend(
        KernelCase(
            "linear_cross_entropy",
            variant,
            lambda r, e, d, given=given: _linear_arguments(r, e, d, **given),
            _linear,
            ("forward", "gradient", "gradient", "gradient"),
        )
        for variant, given in options.items()
    )
    out.append(KernelCase("take_rows", "", _take_arguments, _take, ("forward",)))
    out.append(KernelCase("apply_dropout", "", _dropout_arguments, _dropout, ("forward",)))
    for operation, table in (("scatter_rows", False), ("add_rows", True)):
        out.append(
            KernelCase(
                operation, "", lambda r, e, d, table=table: _spread_arguments(r, e, d, table), _spread, ("forward",)
            )
        )
    out.extend(
        KernelCase(
            "embedding_gradient",
            "grouped" if grouped else "",
            lambda r, e, d, grouped=grouped: _embedding_arguments(r, e, d, grouped),
            _embedding,
            ("gradient",),
        )
        for grouped in (False, True)
    )
    return tuple(out)


KERNEL_CASES = _cases()


@functools.cache
def example(case: KernelCase, extents: Extents, dtype: str) -> tuple[Arguments, tuple[Any, ...]]:
    """Return arguments and what the loops make of them, computed once for all homes: copy before use."""
    arguments = case.arguments(np.random.default_rng(231), extents, dtype)
    exact = {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == dtype else value
        for name, value in arguments.items()
    }
    return arguments, case.plain(exact, extents)


def usual_case(operation: str) -> KernelCase:
    """Return the last case of an operation that is given no options."""
    cases = [case for case in KERNEL_CASES if case.operation == operation]
    return [case for case in cases if not case.variant.endswith(("options", "order"))][-1]


def present(results: Any) -> list[Any]:
    """Return the results that there are: an RNN has neither cell states nor gates."""
    return [result for result in results if result is not None]
