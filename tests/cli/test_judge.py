"""What a caption is worth, and which pictures are shown."""

from __future__ import annotations

import io
import sys

import pytest

from capgpu.cli.judge import mark, spread, verdict
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


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "cp437"])
def test_three_verdicts_have_three_signs_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    signs = [mark(kind)[0] for kind in ("right", "near", "wrong")]
    assert len(set(signs)) == 3
    assert "".join(signs).encode(encoding)
    assert signs == (["✓", "≈", "✗"] if encoding == "utf-8" else ["+", "~", "-"])
