"""The vocabulary of a captioner as a list, as other programs' files hold it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["words_in_order"]


def words_in_order(word_to_idx: Mapping[str, int]) -> list[str]:
    """List the words of a vocabulary in the order of their ids; the special words may stand anywhere.

    Parameters
    ----------
    word_to_idx : mapping of str to int
        Ids from 0 to ``len(word_to_idx) - 1``, each once.

    Returns
    -------
    list of str
        The words.

    Raises
    ------
    TypeError
        For anything but a mapping.
    ValueError
        If ids leave gaps or repeat.
    """
    if not isinstance(word_to_idx, Mapping):
        raise TypeError(f"word_to_idx is a {type(word_to_idx).__name__}; wanted a dictionary of words and their ids.")
    count = len(word_to_idx)
    if sorted(word_to_idx.values()) != list(range(count)):
        raise ValueError(f"word_to_idx has {count} words; wanted the ids 0 to {count - 1} for them, each once.")
    return sorted(word_to_idx, key=lambda word: word_to_idx[word])
