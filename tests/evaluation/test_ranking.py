"""The order of captions on a ranked sheet."""

from __future__ import annotations

import pytest

from capgpu.evaluation.ranking import attainment
from capgpu.metrics import cider_d

REFERENCES = [
    [["man"]],
    [["a", "brown", "dog", "runs", "on", "the", "sand"], ["a", "dog", "runs", "on", "the", "beach"]],
    [["two", "cats", "sleep", "on", "a", "bed"]],
]


def test_right_captions_attain_all_whatever_their_length():
    right = [["man"], ["two", "cats", "sleep", "on", "a", "bed"]]
    assert attainment(right, [REFERENCES[0], REFERENCES[2]]) == pytest.approx([1.0, 1.0])
    assert cider_d(right, [REFERENCES[0], REFERENCES[2]]).captions == pytest.approx([2.5, 10.0])


def test_of_several_references_the_best_as_an_answer_sets_the_measure():
    best, none = (attainment([["man"], answer, ["x"]], REFERENCES)[1] for answer in (REFERENCES[1][1], ["zebra"]))
    alone = [cider_d([["man"], truth, ["x"]], REFERENCES).captions[1] for truth in REFERENCES[1]]
    assert best == pytest.approx(alone[1] / max(alone))
    assert none == 0


def test_where_the_truth_reaches_nothing_there_is_nothing_to_attain():
    assert attainment([["man"]], [[["man"]]]).tolist() == [0.0]
