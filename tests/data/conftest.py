"""Fixtures of the tests of data: a CSV source of captioned pictures, and the course's COCO files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import capgpu.data.feature_journal
from capgpu.data.detect_format import read_source
from capgpu.data.source import Source
from oracles.course_files import Arrays, course_arrays, write_course_files
from oracles.preparations import write_source


@pytest.fixture
def csv_source(tmp_path: Path) -> Source:
    """Return a source of `oracles.preparations.COUNT` pictures in the folder ``source``."""
    return read_source(write_source(tmp_path / "source"))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the feature journal write pieces of four pictures, without waiting for the disk."""
    monkeypatch.setattr(capgpu.data.feature_journal, "PIECE", 4)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def coco_arrays() -> Arrays:
    """Return the contents of small COCO files of the course."""
    return course_arrays()


@pytest.fixture
def coco_folder(tmp_path: Path, coco_arrays: Arrays) -> Path:
    """Write the course's COCO files; return their folder."""
    return write_course_files(tmp_path / "coco_captioning", coco_arrays)
