"""Tokenizers: captions to words and punctuation, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from capgpu.errors import InvalidTypeError
from capgpu.ptb_tokenizer import coco_tokenize

__all__ = ["TOKENIZERS", "coco_tokenize", "detokenize", "interned", "tokenize"]

_OPENING = frozenset("([“")
_CLOSING = frozenset(",.:;!?)]”")

#: Soft hyphen, joiners, zero-width spaces, marks of direction, variation selectors.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]+"
)


def tokenize(text: str) -> list[str]:
    """Split a caption into lower-case words and punctuation marks.

    Words are what stands between white space. Opening marks ``( [ “`` at a word's front and the marks
    ``, . : ; ! ? ) ] ”`` at its end become tokens of their own; inside a word (``medium-light``, ``o’clock``,
    ``3.5``) everything stays. No special token can come out: ``"<END>"`` gives ``"<end>"``.

    Words of invisible characters alone are omitted.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    list of str
        Tokens without white space, none of them empty. ``tokenize(detokenize(tokens)) == tokens`` for every
        list that this function gave, and ``detokenize(tokens) == text.lower()`` for evenly set text.

    Raises
    ------
    TypeError
        If text is not a string.
    """
    if not isinstance(text, str):
        raise InvalidTypeError(
            f"tokenize: expected one string, got {type(text).__name__}. Tokenize each caption separately."
        )
    tokens: list[str] = []
    for chunk in text.lower().split():
        first, last = 0, len(chunk)
        while first < last and chunk[first] in _OPENING:
            first += 1
        while last > first and chunk[last - 1] in _CLOSING:
            last -= 1
        tokens.extend(chunk[:first])
        if first < last and (chunk.isascii() or not _INVISIBLE.fullmatch(chunk, first, last)):
            tokens.append(chunk[first:last])
        tokens.extend(chunk[last:])
    return tokens


def detokenize(tokens: Iterable[str]) -> str:
    """Join tokens with single spaces, punctuation attached to the word it belongs to.

    Parameters
    ----------
    tokens : iterable of str
        Tokens as `tokenize` gives them.

    Returns
    -------
    str
        ``["kiss", ":", "woman", ",", "man"]`` gives ``"kiss: woman, man"``.
    """
    pieces: list[str] = []
    attach = True
    for token in tokens:
        if not attach and token not in _CLOSING:
            pieces.append(" ")
        pieces.append(token)
        attach = token in _OPENING
    return "".join(pieces)


def interned(tokenizer: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Return a tokenizer that gives one object for all occurrences of a word.

    The words of a large set of captions then take the memory of its vocabulary, and look-ups compare addresses.

    Parameters
    ----------
    tokenizer : callable
        Such as `tokenize`.

    Returns
    -------
    callable
        With the same results. It keeps every word that it has returned: make one for a set of captions, and let it go.
    """
    words: dict[str, str] = {}
    known = words.setdefault

    def split(text: str) -> list[str]:
        return [known(word, word) for word in tokenizer(text)]

    return split


#: The ways to split captions, by the names that prepared folders record.
TOKENIZERS: dict[str, Callable[[str], list[str]]] = {"plain": tokenize, "coco": coco_tokenize}
