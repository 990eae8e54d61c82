"""The recurrences of the contract and the steps of decoding as data, and the plain loops' results.

The oracle runs sequences one by one, each at its own length; the results are then packed step by step, longest first.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from oracles import recurrences
from oracles.kernel_case import Arguments, Extents, KernelCase, draw, exactly
from oracles.packing import batch_sizes_of, packed, unpacked
from oracles.recurrences import Floats


def _recurrence(
    random: np.random.Generator,
    e: Extents,
    dtype: str,
    gates: int,
    table: bool,
    cell: bool,
    options: bool,
    biases: int = 0,
) -> Arguments:
    rows, count = sum(e.lengths), len(e.lengths)
    distinct = 1 + rows // 2 if table else rows
    # with options there is a sequence more, without any step
    sequences = count + options
    arguments: Arguments = {
        "projected": draw(random, dtype, distinct, gates * e.H),
        "rows": random.integers(0, distinct, rows) if table else None,
        "h0": draw(random, dtype, sequences, e.H),
        "c0": draw(random, dtype, sequences, e.H) if cell else None,
    }
    arguments["Wh"] = draw(random, dtype, e.H, gates * e.H)
    arguments["batch_sizes"] = batch_sizes_of(e.lengths)
    if options or biases:
        arguments["bias"] = draw(random, dtype, (biases or gates) * e.H)
    if options:
        arguments["h0_bias"] = draw(random, dtype, e.H)
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
    exact = exactly(forward, dtype)
    hidden, states, gates, _ = _lstm_forward(exact, e)
    arguments = {
        "dhidden": draw(random, dtype, *hidden.shape),
        "dcell": draw(random, dtype, *hidden.shape) if dcell else None,
        "hidden": None,
        "cell": states.astype(dtype),
        "gates": gates.astype(dtype),
        "previous": None,
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
    return packed([run[0] for run in runs], 4 * e.H), None, dh0, dc0


def _attention(random: np.random.Generator, e: Extents, dtype: str, table: bool, options: bool) -> Arguments:
    lstm = _recurrence(random, e, dtype, 4, table, False, options)
    return {
        "projected": lstm["projected"],
        "rows": lstm["rows"],
        # a picture has as many cells as there are words
        "A": draw(random, dtype, len(lstm["h0"]), e.V, e.H),
        "Wh": lstm["Wh"],
        "Wattn": draw(random, dtype, e.H, 4 * e.H),
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
    exact = exactly(forward, dtype)
    hidden, *saved, _ = _attention_forward(exact, e)
    cell, gates, previous, attention = (array.astype(dtype) for array in saved)
    return {
        "dhidden": draw(random, dtype, *hidden.shape),
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
        "dhidden": draw(random, dtype, *shape),
        "hidden": draw(random, dtype, *shape),
        **dict.fromkeys(("dcell", "cell", "gates", "previous", "c0")),
        "Wh": draw(random, dtype, e.H, e.H),
        "batch_sizes": batch_sizes_of(e.lengths),
    }
    return {**arguments, "order": random.permutation(len(e.lengths) + 1)} if options else arguments


def _rnn_backward(a: Arguments, e: Extents) -> tuple[Any, ...]:
    parts = zip(unpacked(a["dhidden"], e.lengths), unpacked(a["hidden"], e.lengths), strict=True)
    runs = [recurrences.rnn_sequence_backward(dhidden, hidden, a["Wh"]) for dhidden, hidden in parts]
    return packed([run[0] for run in runs], e.H), None, _unranked(a, [run[1] for run in runs], e), None


def _gru_forward(a: Arguments, e: Extents) -> tuple[Any, ...]:
    h0, q_bias = _ranked(a, "h0", e), a["bias"][3 * e.H :]
    sequences = zip(unpacked(_projected_rows(a), e.lengths), h0, strict=True)
    runs = [recurrences.gru_sequence(rows, h, a["Wh"], q_bias) for rows, h in sequences]
    hidden, gates = (packed([run[k] for run in runs], width) for k, width in enumerate((e.H, 4 * e.H)))
    return hidden, None, gates, _previous([run[0] for run in runs], h0, e)


def _gru_backward_arguments(random: np.random.Generator, e: Extents, dtype: str, options: bool) -> Arguments:
    rows = sum(e.lengths)
    r, z, n, q = (draw(random, dtype, rows, e.H) for _ in range(4))
    arguments = {
        "dhidden": draw(random, dtype, rows, e.H),
        "gates": np.concatenate([abs(r), abs(z), n, q], axis=1),
        "previous": draw(random, dtype, rows, e.H),
        **dict.fromkeys(("dcell", "hidden", "cell", "c0")),
        "Wh": draw(random, dtype, e.H, 3 * e.H),
        "batch_sizes": batch_sizes_of(e.lengths),
    }
    return {**arguments, "order": random.permutation(len(e.lengths) + 1)} if options else arguments


def _gru_backward(a: Arguments, e: Extents) -> tuple[Any, ...]:
    parts = zip(*(unpacked(a[name], e.lengths) for name in ("dhidden", "gates", "previous")), strict=True)
    runs = [recurrences.gru_sequence_backward(*part, a["Wh"]) for part in parts]
    dprojected, drecurrent = (packed([run[k] for run in runs], 3 * e.H) for k in range(2))
    return dprojected, drecurrent, _unranked(a, [run[2] for run in runs], e), None


def _decode_arguments(
    random: np.random.Generator, e: Extents, dtype: str, gates: int, table: bool, beams: bool
) -> Arguments:
    count = len(e.lengths)
    distinct = e.V if table else count
    return {
        "parents": random.integers(0, count, count) if beams else None,
        "projected": draw(random, dtype, distinct, gates * e.H),
        "rows": random.integers(0, distinct, count) if table else None,
        "h": draw(random, dtype, count, e.H),
        "c": draw(random, dtype, count, e.H) if gates == 4 else None,
        "Wh": draw(random, dtype, e.H, gates * e.H),
        "W_vocab": draw(random, dtype, e.H, e.V),
        "b_vocab": draw(random, dtype, e.V),
        **({"recurrent_bias": draw(random, dtype, e.H)} if gates == 3 else {}),
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
        "A": draw(random, dtype, 1 + count // 2 if beams else count, e.V, e.H),
        "pictures": random.integers(0, 1 + count // 2, count) if beams else None,
        "Wh": lstm["Wh"],
        "Wattn": draw(random, dtype, e.H, 4 * e.H),
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


def recurrence_cases() -> Iterator[KernelCase]:
    """Yield the cases: forward passes, steps of decoding, backward passes."""
    for table, words in ((False, "rows"), (True, "table")):
        for options, suffix in ((False, ""), (True, "-options")):
            arguments = partial(_recurrence, table=table, options=options)
            for c0, given in ((False, "no_c0"), (True, "c0")):
                yield KernelCase(
                    "lstm_forward",
                    f"{words}-{given}{suffix}",
                    partial(arguments, gates=4, cell=c0),
                    _lstm_forward,
                    ("forward",) * 4,
                )
            for cell, plain, gates, biases in (("rnn", _rnn_forward, 1, 0), ("gru", _gru_forward, 3, 4)):
                yield KernelCase(
                    f"{cell}_forward",
                    f"{words}{suffix}",
                    partial(arguments, gates=gates, cell=False, biases=biases),
                    plain,
                    ("forward",) * 4,
                )
        for cell, gates in (("lstm", 4), ("rnn", 1), ("gru", 3)):
            for beams, given in ((False, "one_each"), (True, "beams")):
                yield KernelCase(
                    "decode_step",
                    f"{cell}-{words}-{given}",
                    partial(_decode_arguments, gates=gates, table=table, beams=beams),
                    _decode,
                    ("forward",) * 3,
                )
        # each option in one of two cases: the kernels treat them one apart from another
        yield KernelCase(
            "attention_lstm_forward",
            "table-options" if table else "rows",
            partial(_attention, table=table, options=table),
            _attention_forward,
            ("forward",) * 6,
        )
        yield KernelCase(
            "attention_decode_step",
            "table-beams" if table else "rows-one_each",
            partial(_attention_decode_arguments, table=table, beams=table),
            _attention_decode,
            ("forward",) * 4,
        )
    for c0, given in ((False, "no_c0"), (True, "c0")):
        for dcell, order in ((False, False), (True, False), (False, True)):
            yield KernelCase(
                "lstm_backward",
                f"{given}-{'dcell' if dcell else 'no_dcell'}{'-order' if order else ''}",
                partial(_lstm_backward_arguments, cell=c0, dcell=dcell, options=order),
                _lstm_backward,
                ("gradient",) * 4,
            )
    for order in (False, True):
        variant = "order" if order else ""
        yield KernelCase(
            "rnn_backward", variant, partial(_rnn_backward_arguments, options=order), _rnn_backward, ("gradient",) * 4
        )
        yield KernelCase(
            "gru_backward", variant, partial(_gru_backward_arguments, options=order), _gru_backward, ("gradient",) * 4
        )
        yield KernelCase(
            "attention_lstm_backward",
            variant,
            partial(_attention_backward_arguments, order=order),
            _attention_backward,
            ("gradient",) * 2,
        )
