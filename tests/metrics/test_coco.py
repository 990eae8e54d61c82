"""The metrics of COCO's evaluation against pycocoevalcap: recorded, beside it, and on real captions."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.metrics import bleu, cider, coco_scores, rouge_l
from capgpu.tokens import coco_tokenize
from oracles.caption_scores import CAPTIONS, RECORDED, REFERENCES, pycocoevalcap_scores
from oracles.shared_data import coco_captions


def test_scores_equal_the_recorded_ones_of_pycocoevalcap():
    scores = coco_scores(CAPTIONS, REFERENCES)
    assert set(scores) == set(RECORDED)
    for name, (corpus, captions) in RECORDED.items():
        assert scores[name].corpus == pytest.approx(corpus, abs=1e-12), name
        np.testing.assert_allclose(scores[name].captions, captions, rtol=0, atol=1e-11, err_msg=name)


def test_pycocoevalcap_still_gives_the_recorded_scores():
    pytest.importorskip("pycocoevalcap.bleu.bleu")
    for name, (corpus, captions) in pycocoevalcap_scores(CAPTIONS, REFERENCES).items():
        assert RECORDED[name][0] == pytest.approx(corpus, abs=1e-12)
        np.testing.assert_allclose(RECORDED[name][1], captions, rtol=1e-11, atol=1e-300)


def test_each_single_metric_equals_that_of_the_evaluation():
    together = coco_scores(CAPTIONS, REFERENCES)
    alone = bleu(CAPTIONS, REFERENCES)
    for n in range(4):
        assert together[f"BLEU-{n + 1}"].corpus == alone.corpus[n]
        np.testing.assert_array_equal(together[f"BLEU-{n + 1}"].captions, alone.captions[:, n])
    for name, metric in (("ROUGE-L", rouge_l), ("CIDEr", cider)):
        assert together[name].corpus == metric(CAPTIONS, REFERENCES).corpus
        np.testing.assert_array_equal(together[name].captions, metric(CAPTIONS, REFERENCES).captions)


@pytest.mark.parametrize("candidate", [0, 3])
def test_scores_of_two_thousand_real_captions_equal_pycocoevalcaps(candidate):
    pytest.importorskip("pycocoevalcap.bleu.bleu")
    tokens = [[coco_tokenize(caption) for caption in own] for own in list(coco_captions().values())[:2000]]
    captions = [own[candidate] for own in tokens]
    references = [own[:candidate] + own[candidate + 1 :] for own in tokens]
    scores = coco_scores(captions, references)
    for name, (corpus, each) in pycocoevalcap_scores(captions, references).items():
        assert scores[name].corpus == pytest.approx(corpus, abs=1e-9), name
        np.testing.assert_allclose(scores[name].captions, each, rtol=0, atol=1e-9, err_msg=name)
