"""How captions match the true ones."""

from __future__ import annotations

from capgpu.data import emoji
from capgpu.evaluation.match import match_base_names, match_caption


def test_a_caption_matches_by_its_words_or_its_base_name() -> None:
    truths = ["kiss: woman, man"]
    assert match_caption("Kiss: woman, man", truths, emoji.base_name) == "right"
    assert match_caption("kiss: man, man", truths, emoji.base_name) == "near"
    assert match_caption("kiss: man, man", truths) == "wrong"
    assert match_caption("kissing cat", truths, emoji.base_name) == "wrong"


def test_one_true_caption_with_the_base_name_suffices() -> None:
    truths = [["cat", "kiss: woman, man"], ["cat"]]
    assert match_base_names(["kiss: man, man", "kiss"], truths, emoji.base_name) == [True, False]
