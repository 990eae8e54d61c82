"""How one caption compares with the truth, and which ones to show."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from capgpu.vocabulary import tokenize

if TYPE_CHECKING:
    from capgpu.report.contact_sheet import Verdict

__all__ = ["VERDICT_NAMES", "mark", "spread", "verdict"]

#: The sign of each verdict in a table, the one for files and terminals that cannot have it, and the style.
_MARKS: dict[Verdict, tuple[str, str, str]] = {
    "right": ("✓", "+", "blue"),
    "near": ("≈", "~", "yellow"),
    "wrong": ("✗", "-", "red"),
}

VERDICT_NAMES: dict[Verdict, str] = {
    "right": "right, word for word",
    "near": "right base name, wrong variant",
    "wrong": "wrong",
}


def mark(verdict: Verdict) -> tuple[str, str]:
    """Return the sign of a verdict on standard output, and its style.

    Parameters
    ----------
    verdict : {"right", "near", "wrong"}
        As `verdict` returns it.

    Returns
    -------
    sign, style : str
        The signs are ``+``, ``~`` and ``-`` where the encoding lacks one of the usual ones, as cp1252 does, that of a
        pipe on Windows.
    """
    sign, plain, style = _MARKS[verdict]
    try:
        "".join(signs[0] for signs in _MARKS.values()).encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        sign = plain
    return sign, style


def verdict(caption: str, truths: Sequence[str], base_name: Callable[[str], str] | None = None) -> Verdict:
    """Judge one caption.

    Parameters
    ----------
    caption : str
        What a model wrote.
    truths : sequence of str
        The true captions; case does not count.
    base_name : callable, optional
        Tells what a caption shows without the variant.

    Returns
    -------
    {"right", "near", "wrong"}
        Word for word; the base name alone; neither.
    """
    if tokenize(caption) in [tokenize(truth) for truth in truths]:
        return "right"
    if base_name is not None and base_name(caption) in [base_name(truth) for truth in truths]:
        return "near"
    return "wrong"


def spread(total: int, count: int) -> list[int]:
    """Choose indices evenly, so that nobody picked them.

    Parameters
    ----------
    total : int
        Things to choose from.
    count : int
        Things wanted.

    Returns
    -------
    list of int
        ``min(count, total)`` increasing indices below `total`.
    """
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]
