"""Examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import capgpu

ROOT = Path(capgpu.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(("capgpu", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_there_are_examples_of_what_most_people_begin_with() -> None:
    assert {"capgpu.model", "capgpu.trained", "capgpu.captions", "capgpu.optim.optimizer"} <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    with capgpu.use_backend("numpy"):
        result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed
