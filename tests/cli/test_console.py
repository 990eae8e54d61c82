"""Marks on standard output."""

from __future__ import annotations

import io
import sys

import pytest

from capgpu.cli.console import match_mark


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "cp437"])
def test_three_matches_have_three_marks_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    marks = [match_mark(match)[0] for match in ("right", "near", "wrong")]
    assert len(set(marks)) == 3
    assert "".join(marks).encode(encoding)
    assert marks == (["✓", "≈", "✗"] if encoding == "utf-8" else ["+", "~", "-"])
