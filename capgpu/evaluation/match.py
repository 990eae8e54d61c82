"""Comparison of a caption with the true captions of its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from capgpu.vocabulary import tokenize

__all__ = ["Match", "match_base_names", "match_caption"]

#: ``"right"``: equal to a true caption; ``"near"``: only the base names are equal; ``"wrong"``: neither.
Match: TypeAlias = Literal["right", "near", "wrong"]


def match_caption(caption: str, truths: Sequence[str], base_name: Callable[[str], str] | None = None) -> Match:
    """Compare a caption with the true captions of its picture.

    Parameters
    ----------
    caption : str
        A generated caption.
    truths : sequence of str
        The true captions; case is ignored.
    base_name : callable, optional
        Returns a caption without its variant.

    Returns
    -------
    {"right", "near", "wrong"}
        Equal words; equal base names only; neither.
    """
    if tokenize(caption) in [tokenize(truth) for truth in truths]:
        return "right"
    if base_name is not None and match_base_names([caption], [truths], base_name)[0]:
        return "near"
    return "wrong"


def match_base_names(
    captions: Sequence[str], truths: Sequence[Sequence[str]], base_name: Callable[[str], str]
) -> list[bool]:
    """Return which captions have the base name of one of their true captions.

    Parameters
    ----------
    captions : sequence of N str
        Generated captions.
    truths : sequence of N sequences of str
        The true captions of each picture.
    base_name : callable
        Returns a caption without its variant.

    Returns
    -------
    list of N bool
        One entry per caption.
    """
    pairs = zip(captions, truths, strict=True)
    return [base_name(caption) in {base_name(truth) for truth in group} for caption, group in pairs]
