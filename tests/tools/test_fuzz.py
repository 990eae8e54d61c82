"""Mutants of the files of every format are read or refused; ``python -m tools.fuzz`` makes more."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("resource", reason="limits of memory are set as POSIX systems do")
from tools.fuzz.formats import FORMATS
from tools.fuzz.runner import fuzz, missing_packages

#: Seed and number of mutants: of a day's sample, of pictures, which Pillow reads, fewer; and of a night's.
_SAMPLES = {"day": (1, 200), "night": (2, 5000)}
_PICTURES = 50


@pytest.mark.nightly(unless=lambda p: p.sample == "day")
@pytest.mark.parametrize("sample", _SAMPLES)
@pytest.mark.parametrize("name", FORMATS)
def test_mutants_are_read_or_refused_with_the_name_of_the_file(
    name: str, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPGPU_BACKEND", "numpy")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody cuts the power
    if missing := missing_packages(FORMATS[name]):
        pytest.skip(f"{', '.join(missing)} is not installed")
    seed, mutants = _SAMPLES[sample]
    if sample == "day" and f"picture.{name}" in FORMATS[name].mutators:
        mutants = _PICTURES
    report = fuzz(FORMATS[name], mutants, seed)
    assert report.failures == []
    assert report.read + report.refused == mutants
