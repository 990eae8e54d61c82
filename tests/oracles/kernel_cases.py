"""The operations of the kernels' contract as data: arguments on the host, and the plain loops' results."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import numpy as np

from capgpu.kernels import Dropout, RowGroups
from oracles import recurrences
from oracles.halves import sums
from oracles.kernel_case import Arguments, Extents, KernelCase, draw, exactly
from oracles.masks import plain_mask
from oracles.recurrence_cases import recurrence_cases
from oracles.recurrences import Floats

DROPOUT = Dropout(-12345678901234567890, 0.4)

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


def _matmul_arguments(random: np.random.Generator, e: Extents, dtype: str, transposed: str, bias: bool) -> Arguments:
    rows = sum(e.lengths)
    a, b = {"": ((rows, e.H), (e.H, e.V)), "a": ((rows, e.H), (rows, e.V)), "b": ((rows, e.V), (e.H, e.V))}[transposed]
    return {
        "a": draw(random, dtype, *a),
        "b": draw(random, dtype, *b),
        "bias": draw(random, dtype, b[0] if transposed == "b" else b[1]) if bias else None,
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


def _targets(random: np.random.Generator, e: Extents) -> Any:
    targets = random.integers(0, e.V, sum(e.lengths))
    targets[random.uniform(size=targets.size) < 0.3] = -1
    return targets


def _softmax_arguments(random: np.random.Generator, e: Extents, dtype: str) -> Arguments:
    return {
        "logits": 3 * draw(random, dtype, sum(e.lengths), e.V),
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
        "hidden": draw(random, dtype, sum(e.lengths), e.H),
        "W": draw(random, dtype, e.H, e.V),
        "b": draw(random, dtype, e.V),
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
    return {"table": draw(random, dtype, e.V, e.H), "rows": random.integers(0, e.V, sum(e.lengths))}


def _take(a: Arguments, e: Extents) -> tuple[Any, ...]:
    return (np.array([a["table"][row] for row in a["rows"]]).reshape(-1, e.H),)


def _dropout_arguments(random: np.random.Generator, e: Extents, dtype: str) -> Arguments:
    return {"array": draw(random, dtype, sum(e.lengths), e.H), "dropout": DROPOUT}


def _dropout(a: Arguments, e: Extents) -> tuple[Any, ...]:
    return (a["array"] * plain_mask(a["dropout"], a["array"].shape),)


def _spread_arguments(random: np.random.Generator, e: Extents, dtype: str, table: bool) -> Arguments:
    rows = sum(e.lengths)
    arguments: Arguments = {
        "rows": draw(random, dtype, rows, e.H),
        "index": np.sort(random.permutation(rows + 3)[:rows]),
    }
    return {"table": draw(random, dtype, rows + 3, e.H), **arguments} if table else {**arguments, "count": rows + 3}


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
        "drows": draw(random, dtype, rows, e.H),
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
            partial(_matmul_arguments, transposed=transposed, bias=bias),
            _matmul,
            ("forward",),
        )
        for transposed in ("", "a", "b")
        for bias in (False, True)
    ]
    out.extend(recurrence_cases())
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
            partial(_linear_arguments, **given),
            _linear,
            ("forward", "gradient", "gradient", "gradient"),
        )
        for variant, given in options.items()
    )
    out.append(KernelCase("take_rows", "", _take_arguments, _take, ("forward",)))
    out.append(KernelCase("apply_dropout", "", _dropout_arguments, _dropout, ("forward",)))
    for operation, table in (("scatter_rows", False), ("add_rows", True)):
        out.append(KernelCase(operation, "", partial(_spread_arguments, table=table), _spread, ("forward",)))
    out.extend(
        KernelCase(
            "embedding_gradient",
            "grouped" if grouped else "",
            partial(_embedding_arguments, grouped=grouped),
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
    return arguments, case.plain(exactly(arguments, dtype), extents)


def usual_case(operation: str) -> KernelCase:
    """Return the last case of an operation that is given no options."""
    cases = [case for case in KERNEL_CASES if case.operation == operation]
    return [case for case in cases if not case.variant.endswith(("options", "order"))][-1]


def present(results: Any) -> list[Any]:
    """Return the results that there are: an RNN has neither cell states nor gates."""
    return [result for result in results if result is not None]
