import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from capgpu.tokens import coco_tokenize, interned
from capgpu.vocabulary import (
    SPECIAL_WORDS,
    Vocabulary,
    caption_text,
    decode_captions,
    detokenize,
    tokenize,
)

marks_and_words = st.text(alphabet='ab ,.:;!?()[]“”-’\t"', max_size=40)
sentences = st.lists(st.sampled_from(["a", "dog", "cat", "runs", ":", ","]), max_size=8)
WORDS = [*SPECIAL_WORDS, "a", "dog", ":", ","]


# --- tokens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (
            "kiss: woman, man, light skin tone",
            ["kiss", ":", "woman", ",", "man", ",", "light", "skin", "tone"],
        ),
        ("O button (blood type)", ["o", "button", "(", "blood", "type", ")"]),
        ("Japanese “here” button", ["japanese", "“", "here", "”", "button"]),
        ("Mrs. Claus: medium-dark", ["mrs", ".", "claus", ":", "medium-dark"]),
        ("one o’clock", ["one", "o’clock"]),
        ("keycap: *", ["keycap", ":", "*"]),
        ("3.5 m", ["3.5", "m"]),
        (" \n\t", []),
        ("", []),
    ],
)
def test_marks_at_word_edges_become_tokens(text, tokens):
    assert tokenize(text) == tokens
    assert detokenize(tokens) == " ".join(text.lower().split())


def test_a_vocabulary_of_counts_is_that_of_the_captions_counted():
    captions = [["a", "dog", "a"], ["dog", "runs"], ["a", "cat"]]
    counts = Counter(word for caption in captions for word in caption)
    for settings in ({}, {"min_count": 2}, {"max_size": 5}):
        assert Vocabulary.from_counts(counts, **settings) == Vocabulary.build(captions, **settings)
    with pytest.raises(ValueError, match="once"):
        Vocabulary.from_counts({"<UNK>": 3})


def test_interned_words_are_one_object_each():
    split = interned(coco_tokenize)
    texts = ["A dog isn't here.", "the dogs, a dog", ""]
    assert [split(text) for text in texts] == [coco_tokenize(text) for text in texts]
    assert split("one dog")[1] is split("a dog!")[1]


@given(st.text(max_size=60) | marks_and_words)
def test_tokens_survive_joining_and_splitting(text):
    tokens = tokenize(text)
    assert tokenize(detokenize(tokens)) == tokens


@given(st.text(max_size=60) | marks_and_words)
def test_tokens_hold_every_visible_character_in_order(text):
    tokens = tokenize(text)
    assert "".join(tokens) == "".join(text.lower().split())
    assert all(tokens)
    assert not any(character.isspace() for token in tokens for character in token)


def test_special_words_in_a_text_stay_plain_words():
    assert not set(tokenize("<NULL> <START> <END> <UNK>")) & set(SPECIAL_WORDS)


def test_tokenize_refuses_lists():
    with pytest.raises(TypeError, match="one string, got list"):
        tokenize(["a", "dog"])  # type: ignore[arg-type]


# --- vocabulary -------------------------------------------------------------------------------------------


def test_frequent_words_come_first_and_equals_in_alphabetic_order():
    vocabulary = Vocabulary.build(["b a", "c b", "c b"])
    assert vocabulary.idx_to_word == [*SPECIAL_WORDS, "b", "c", "a"]


@given(st.lists(sentences, max_size=6), st.integers(1, 4), st.integers(4, 8))
def test_size_and_count_limits_hold(captions, min_count, max_size):
    vocabulary = Vocabulary.build(captions, min_count=min_count, max_size=max_size)
    assert len(vocabulary) <= max_size
    words = [word for caption in captions for word in caption]
    assert all(words.count(word) >= min_count for word in vocabulary.idx_to_word[4:])
    if len(vocabulary) < max_size:
        assert set(vocabulary.idx_to_word[4:]) == {w for w in words if words.count(w) >= min_count}


@given(st.lists(sentences, max_size=6))
def test_order_of_captions_does_not_change_the_vocabulary(captions):
    assert Vocabulary.build(captions) == Vocabulary.build(captions[::-1])


@given(st.lists(sentences, max_size=6))
def test_known_captions_survive_encoding_and_decoding(captions):
    vocabulary = Vocabulary.build(captions)
    assert vocabulary.decode(vocabulary.encode_all(captions)) == [detokenize(c) for c in captions]


@given(sentences, st.integers(2, 12))
def test_encoded_caption_has_the_asked_length_and_one_end(caption, max_length):
    ids = Vocabulary(WORDS).encode(caption, max_length)
    assert ids.shape == (max_length,)
    assert ids.dtype == np.int32
    assert ids[0] == 1
    (end,) = np.flatnonzero(ids == 2)
    assert end == min(len(caption) + 1, max_length - 1)
    assert (ids[1:end] > 2).all()
    assert (ids[end + 1 :] == 0).all()


@given(st.lists(sentences, min_size=1, max_size=4), st.none() | st.integers(2, 12))
def test_rows_of_a_batch_equal_single_captions(captions, max_length):
    vocabulary = Vocabulary(WORDS)
    batch = vocabulary.encode_all(captions, max_length)
    for row, caption in zip(batch, captions, strict=True):
        single = vocabulary.encode(caption, max_length)
        assert row[: len(single)].tolist() == single.tolist()
        assert not row[len(single) :].any()


def test_encoding_no_captions_gives_an_empty_batch():
    assert Vocabulary(WORDS).encode_all([]).shape == (0, 2)
    assert Vocabulary(WORDS).encode_all([], 7).shape == (0, 7)


def test_unknown_words_are_encoded_as_unk():
    assert Vocabulary(WORDS).encode("a zebra").tolist() == [1, 4, 3, 2]


def test_dictionary_and_json_forms_give_the_same_vocabulary():
    vocabulary = Vocabulary.build(["kiss: woman, man", "piñata “x”"])
    assert Vocabulary.from_word_to_idx(vocabulary.word_to_idx) == vocabulary
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    assert [vocabulary.word_to_idx[word] for word in vocabulary.idx_to_word] == list(range(len(vocabulary)))
    assert "piñata" in vocabulary
    assert "zebra" not in vocabulary


def test_changing_a_handed_out_form_leaves_the_vocabulary_as_it_is():
    vocabulary = Vocabulary(WORDS)
    vocabulary.idx_to_word.append("more")
    vocabulary.word_to_idx.clear()
    assert vocabulary == Vocabulary(WORDS)
    assert hash(vocabulary) == hash(Vocabulary(WORDS))
    assert vocabulary != WORDS


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Vocabulary(["a", "dog"]), ValueError, "expected the special words .* first"),
        (lambda: Vocabulary(["<START>", "<NULL>", "<END>", "<UNK>"]), ValueError, "special words"),
        (lambda: Vocabulary([*WORDS, "dog"]), ValueError, r"each word once.*'dog'"),
        (lambda: Vocabulary([*WORDS, 7]), TypeError, "idx_to_word: expected strings, got 7"),
        (lambda: Vocabulary.build("a dog"), TypeError, "Put it into a list"),
        (lambda: Vocabulary.build([["<END>"]]), ValueError, "expected a caption without special words"),
        (lambda: Vocabulary.build(["a"], min_count=0), ValueError, "min_count"),
        (lambda: Vocabulary.build(["a"], max_size=3), ValueError, "max_size"),
        (lambda: Vocabulary.from_word_to_idx({"<NULL>": 0, "a": 2}), ValueError, "ids 0 to 1, each once"),
        (lambda: Vocabulary.from_json(json.dumps({"a": 0})), ValueError, "array of words, got dict"),
        (lambda: Vocabulary.from_json("["), ValueError, "Expecting value"),
        (lambda: Vocabulary(WORDS).encode("a", 1), ValueError, "max_length: expected at least 2, .* got 1"),
        (lambda: Vocabulary(WORDS).encode(["<NULL>"]), ValueError, "expected a caption without special words"),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- decoding ---------------------------------------------------------------------------------------------


def test_course_decoding_skips_null_and_stops_after_end():
    ids = np.array([[1, 4, 0, 5, 2, 4, 4], [4, 5, 6, 0, 0, 0, 0]])
    assert decode_captions(ids, WORDS) == ["<START> a dog <END>", "a dog :"]
    assert decode_captions(ids[0], WORDS) == "<START> a dog <END>"
    assert decode_captions(ids[0], dict(enumerate(WORDS))) == "<START> a dog <END>"
    assert decode_captions(ids[:0], WORDS) == []


def test_text_for_people_has_no_layout_words_and_keeps_unk():
    assert caption_text([[1, 4, 5, 6, 3, 7, 4, 2, 5]], WORDS) == ["a dog: <UNK>, a"]
    assert caption_text([1, 2], WORDS) == ""


@given(st.lists(st.integers(0, len(WORDS) - 1), max_size=10))
def test_single_and_batched_decoding_agree(ids):
    assume(ids)
    for decode in (decode_captions, caption_text):
        assert decode([ids], WORDS) == [decode(np.array(ids), np.array(WORDS))]


@pytest.mark.parametrize("decode", [decode_captions, caption_text])
@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1, 8], ValueError, r"8 words, got \[8\]"),
        ([-1], ValueError, r"got \[-1\]"),
        ([1.0], TypeError, "float64"),
        ([[[1]]], ValueError, r"shape \(1, 1, 1\)"),
        (1, ValueError, r"shape \(\)"),
    ],
)
def test_decoding_refuses_what_is_no_caption(decode, ids, error, message):
    with pytest.raises(error, match=message):
        decode(ids, WORDS)


def test_words_of_invisible_characters_are_omitted():
    assert tokenize("a \u200b dog \ufe0f\u200d, runs\u00a0\u2060") == ["a", "dog", ",", "runs"]
