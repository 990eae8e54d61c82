"""Words, token ids and special tokens: build a vocabulary, encode, decode.

Texts and token ids are processed on the host, in NumPy, for every backend: convert ids with `capgpu.to_numpy`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.file_formats.json_text import parse_json
from capgpu.tokens import detokenize, tokenize
from capgpu.visible_text import short

__all__ = [
    "END",
    "NULL",
    "SPECIAL_WORDS",
    "START",
    "UNK",
    "UNKNOWN_WORD",
    "Vocabulary",
    "caption_text",
    "decode_captions",
    "detokenize",
    "tokenize",
    "words_in_order",
]

#: The special tokens: padding, first and last token of a caption, and any word outside of the vocabulary.
NULL, START, END, UNK = "<NULL>", "<START>", "<END>", "<UNK>"
SPECIAL_WORDS = (NULL, START, END, UNK)
#: What tokenizers make of ``<UNK>`` in a text, which some data sets contain: no word of a vocabulary.
UNKNOWN_WORD = "<unk>"

IdxToWord = Sequence[str] | Mapping[int, str]


def _words_of(captions: npt.ArrayLike, idx_to_word: IdxToWord, *, caller: str) -> tuple[list[list[str]], bool]:
    """Return the words of ids row by row, and whether `captions` is a single caption."""
    ids = np.asarray(captions)
    if ids.dtype.kind not in "iu":
        raise InvalidTypeError(f"{caller}: expected integer token ids, got dtype {ids.dtype}.")
    if ids.ndim not in (1, 2):
        raise InvalidValueError(f"{caller}: expected one caption (T,) or several (N, T), got shape {ids.shape}.")
    known = idx_to_word if isinstance(idx_to_word, Mapping) else range(len(idx_to_word))
    unknown = [int(i) for i in np.unique(ids) if int(i) not in known]
    if unknown:
        raise InvalidValueError(
            f"{caller}: expected ids of idx_to_word with its {len(idx_to_word)} words, got {unknown[:5]}. Decode with "
            "the vocabulary with which the captions were encoded."
        )
    return [[idx_to_word[i] for i in row] for row in np.atleast_2d(ids).tolist()], ids.ndim == 1


def decode_captions(captions: npt.ArrayLike, idx_to_word: IdxToWord) -> str | list[str]:
    """Convert token ids to text as in the cs231n exercises.

    ``<NULL>`` is skipped, ``<END>`` is included and ends the caption; every other word, also ``<START>``, is included.

    Parameters
    ----------
    captions : array_like of int, shape (T,) or (N, T)
        Token ids.
    idx_to_word : sequence of str or mapping from int to str
        The word of each id.

    Returns
    -------
    str or list of str
        A string for a single caption (T,), otherwise a list of N strings.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        For an array of another rank, or an id that is not in idx_to_word.
    """
    rows, single = _words_of(captions, idx_to_word, caller="decode_captions")
    texts = []
    for row in rows:
        if END in row:
            row = row[: row.index(END) + 1]
        texts.append(" ".join(word for word in row if word != NULL))
    return texts[0] if single else texts


def caption_text(captions: npt.ArrayLike, idx_to_word: IdxToWord) -> str | list[str]:
    """Convert token ids to readable text, without ``<NULL>``, ``<START>`` and ``<END>``, punctuation attached.

    ``<UNK>`` is kept: without it, a caption with an unknown word could equal a different, correct caption.

    Parameters
    ----------
    captions : array_like of int, shape (T,) or (N, T)
        Token ids.
    idx_to_word : sequence of str or mapping from int to str
        The word of each id.

    Returns
    -------
    str or list of str
        A string for a single caption (T,), otherwise a list of N strings.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        For an array of another rank, or an id that is not in idx_to_word.
    """
    rows, single = _words_of(captions, idx_to_word, caller="caption_text")
    texts = []
    for row in rows:
        if END in row:
            row = row[: row.index(END)]
        texts.append(detokenize(word for word in row if word not in (NULL, START)))
    return texts[0] if single else texts


def words_in_order(word_to_idx: Mapping[str, int]) -> list[str]:
    """Return the words of a vocabulary in the order of their ids; special tokens may have any ids.

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
        If `word_to_idx` is not a mapping.
    ValueError
        If ids are missing or repeated.
    """
    if not isinstance(word_to_idx, Mapping):
        raise InvalidTypeError(f"word_to_idx: expected a mapping of words to ids, got {type(word_to_idx).__name__}.")
    count = len(word_to_idx)
    if sorted(word_to_idx.values()) != list(range(count)):
        raise InvalidValueError(f"word_to_idx: expected the ids 0 to {count - 1}, each once, for its {count} words.")
    return sorted(word_to_idx, key=lambda word: word_to_idx[word])


class Vocabulary:
    """A fixed list of words, each with its id; ids 0 to 3 are ``<NULL>``, ``<START>``, ``<END>``, ``<UNK>``.

    Parameters
    ----------
    idx_to_word : sequence of str
        All words in the order of their ids, the four special words first.

    Raises
    ------
    TypeError
        If an entry is not a string.
    ValueError
        If the special tokens are not the first four words, or a word occurs twice.
    """

    def __init__(self, idx_to_word: Sequence[str]) -> None:
        words = list(idx_to_word)
        for word in words:
            if not isinstance(word, str):
                raise InvalidTypeError(
                    f"idx_to_word: expected strings, got {short(word)} of type {type(word).__name__}."
                )
        if tuple(words[:4]) != SPECIAL_WORDS:
            raise InvalidValueError(
                f"idx_to_word: expected the special words {list(SPECIAL_WORDS)} first, got "
                f"{', '.join(map(short, words[:4])) or 'none'}. Use Vocabulary.build."
            )
        twice = [word for word, count in Counter(words).items() if count > 1]
        if twice:
            raise InvalidValueError(
                f"idx_to_word: expected each word once, got more of {', '.join(map(short, twice[:5]))}."
            )
        self._words = tuple(words)
        self._ids = {word: i for i, word in enumerate(words)}

    @classmethod
    def build(
        cls, captions: Iterable[str | Sequence[str]], *, min_count: int = 1, max_size: int | None = None
    ) -> Vocabulary:
        """Build the vocabulary of captions, the most frequent words first, ties in alphabetical order.

        Parameters
        ----------
        captions : iterable of str or of sequences of str
            Texts, or token lists.
        min_count : int
            Words that occur fewer times are omitted.
        max_size : int, optional
            Maximum number of words, the four special tokens included.

        Returns
        -------
        Vocabulary
            The special tokens and the chosen words.

        Raises
        ------
        TypeError
            If captions is itself a string.
        ValueError
            If min_count is below 1, max_size below 4, or a token list contains a special token.
        """
        if isinstance(captions, str):
            raise InvalidTypeError("captions: expected several captions, got one string. Put it into a list.")
        counts: Counter[str] = Counter()
        for caption in captions:
            counts.update(_plain_tokens(caption, caller="Vocabulary.build"))
        return cls.from_counts(counts, min_count=min_count, max_size=max_size)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], *, min_count: int = 1, max_size: int | None = None) -> Vocabulary:
        """Build a vocabulary from word counts, the most frequent words first, ties in alphabetical order.

        ``<unk>`` is no word: captions that contain it are encoded with ``<UNK>``.

        Parameters
        ----------
        counts : mapping from str to int
            How often each word occurs.
        min_count, max_size
            As for `build`.

        Returns
        -------
        Vocabulary
            The special tokens and the chosen words.

        Raises
        ------
        ValueError
            If min_count is below 1, max_size below 4, or a special word is counted.
        """
        if min_count < 1:
            raise InvalidValueError(f"min_count: expected at least 1, got {min_count}.")
        if max_size is not None and max_size < len(SPECIAL_WORDS):
            raise InvalidValueError(
                f"max_size: expected at least {len(SPECIAL_WORDS)}, the number of special words, got {max_size}."
            )
        kept = [word for word, count in counts.items() if count >= min_count and word != UNKNOWN_WORD]
        kept.sort(key=lambda word: (-counts[word], word))
        max_words = None if max_size is None else max_size - len(SPECIAL_WORDS)
        return cls([*SPECIAL_WORDS, *kept[:max_words]])

    @classmethod
    def from_word_to_idx(cls, word_to_idx: Mapping[str, int]) -> Vocabulary:
        """Create a vocabulary from the dictionary of the cs231n exercises.

        Parameters
        ----------
        word_to_idx : mapping from str to int
            Ids from 0 to len(word_to_idx) - 1, each once, the special words at 0 to 3.

        Returns
        -------
        Vocabulary
            The same words with the same ids.

        Raises
        ------
        ValueError
            If ids are missing or repeated, or the special tokens do not have the ids 0 to 3.
        """
        return cls(words_in_order(word_to_idx))

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Read what `to_json` wrote.

        Parameters
        ----------
        text : str
            A JSON array of words in the order of their ids.

        Returns
        -------
        Vocabulary
            The same words with the same ids.

        Raises
        ------
        ValueError
            If the text is no JSON array of words, or no vocabulary (see the class).
        """
        words = parse_json(text, lambda cause: InvalidValueError(f"text: {cause}."))
        if not isinstance(words, list):
            raise InvalidValueError(f"text: expected a JSON array of words, got {type(words).__name__}.")
        return cls(words)

    def to_json(self) -> str:
        """Write the words as a JSON array in the order of their ids."""
        return json.dumps(self.idx_to_word, ensure_ascii=False)

    @property
    def idx_to_word(self) -> list[str]:
        """All words in the order of their ids (a fresh list)."""
        return list(self._words)

    @property
    def word_to_idx(self) -> dict[str, int]:
        """The id of every word (a fresh dictionary)."""
        return dict(self._ids)

    def __len__(self) -> int:
        return len(self._words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return self._words == other._words if isinstance(other, Vocabulary) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def encode(self, caption: str | Sequence[str], max_length: int | None = None) -> npt.NDArray[np.int32]:
        """Encode a caption: ``<START>``, its words (unknown words as ``<UNK>``), ``<END>``.

        Parameters
        ----------
        caption : str or sequence of str
            A text, or its tokens.
        max_length : int, optional
            The length T of the result: shorter captions are padded with ``<NULL>``, longer ones lose their
            last words and keep their ``<END>``.

        Returns
        -------
        numpy.ndarray of int32, shape (T,)
            The ids; T is the number of words + 2 without max_length.

        Raises
        ------
        ValueError
            If max_length is below 2, or a token list holds a special word.
        """
        if max_length is not None and max_length < 2:
            raise InvalidValueError(f"max_length: expected at least 2, for {START} and {END}, got {max_length}.")
        tokens = _plain_tokens(caption, caller="Vocabulary.encode")
        max_words = len(tokens) if max_length is None else max_length - 2
        unk = self._ids[UNK]
        words = [self._ids.get(token, unk) for token in tokens[:max_words]]
        encoded = np.full(max_length or len(words) + 2, self._ids[NULL], dtype=np.int32)
        encoded[: len(words) + 2] = [self._ids[START], *words, self._ids[END]]
        return encoded

    def encode_all(
        self, captions: Sequence[str | Sequence[str]], max_length: int | None = None
    ) -> npt.NDArray[np.int32]:
        """Encode captions into one array, padded with ``<NULL>``.

        Parameters
        ----------
        captions : sequence of N str or sequences of str
            Texts, or token lists.
        max_length : int, optional
            The length T of every row; that of the longest caption if not given.

        Returns
        -------
        numpy.ndarray of int32, shape (N, T)
            The ids.

        Raises
        ------
        ValueError
            As `encode`.
        """
        rows = [self.encode(caption, max_length) for caption in captions]
        encoded = np.full((len(rows), max_length or max(map(len, rows), default=2)), self._ids[NULL], dtype=np.int32)
        for i, row in enumerate(rows):
            encoded[i, : len(row)] = row
        return encoded

    def decode(self, captions: npt.ArrayLike) -> str | list[str]:
        """Convert ids to readable text, see `caption_text`."""
        return caption_text(captions, self._words)


def _plain_tokens(caption: str | Sequence[str], *, caller: str) -> list[str]:
    tokens = tokenize(caption) if isinstance(caption, str) else list(caption)
    special = [token for token in tokens if token in SPECIAL_WORDS]
    if special:
        raise InvalidValueError(f"{caller}: expected a caption without special words, got {special}. Omit them.")
    return tokens
