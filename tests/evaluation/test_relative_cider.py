"""The order of captions on a ranked sheet."""

from __future__ import annotations

import pytest

from capgpu.evaluation.relative_cider import relative_cider
from capgpu.metrics import cider

REFERENCES = [
    [["man"]],
    [["a", "brown", "dog", "runs", "on", "the", "sand"], ["a", "dog", "runs", "on", "the", "beach"]],
    [["two", "cats", "sleep", "on", "a", "bed"]],
]


def test_right_captions_have_score_one_whatever_their_length():
    right = [["man"], ["two", "cats", "sleep", "on", "a", "bed"]]
    assert relative_cider(right, [REFERENCES[0], REFERENCES[2]]) == pytest.approx([1.0, 1.0])
    assert cider(right, [REFERENCES[0], REFERENCES[2]]).captions == pytest.approx([2.5, 10.0])


def test_scores_are_relative_to_the_best_of_several_references():
    best, none = (relative_cider([["man"], answer, ["x"]], REFERENCES)[1] for answer in (REFERENCES[1][1], ["zebra"]))
    alone = [cider([["man"], truth, ["x"]], REFERENCES).captions[1] for truth in REFERENCES[1]]
    assert best == pytest.approx(alone[1] / max(alone))
    assert none == 0


def test_references_with_score_zero_give_zero():
    assert relative_cider([["man"]], [[["man"]]]).tolist() == [0.0]
