"""What a caption is worth, and which pictures are shown."""

from __future__ import annotations

import pytest

from capgpu.cli.judge import spread, verdict
from capgpu.data import emoji


def test_a_caption_is_judged_by_its_words_and_its_base_name() -> None:
    truths = ["kiss: woman, man"]
    assert verdict("Kiss: woman, man", truths, emoji.base_name) == "right"
    assert verdict("kiss: man, man", truths, emoji.base_name) == "near"
    assert verdict("kiss: man, man", truths) == "wrong"
    assert verdict("kissing cat", truths, emoji.base_name) == "wrong"


@pytest.mark.parametrize(("total", "count"), [(1, 1), (10, 3), (10, 10), (10, 50), (187, 48)])
def test_spread_chooses_distinct_indices_from_end_to_end(total: int, count: int) -> None:
    chosen = spread(total, count)
    assert len(set(chosen)) == len(chosen) == min(count, total)
    assert chosen == sorted(chosen)
    assert chosen[0] <= total // len(chosen)
    assert total - 1 - chosen[-1] <= total // len(chosen)
    assert all(0 <= index < total for index in chosen)
