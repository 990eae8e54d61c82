"""The command computes on the plain backend; a run on the embedded set is trained once for all that only read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import capgpu.backend
from oracles.commands import TINY, done


@pytest.fixture(autouse=True)
def _numpy() -> Iterator[None]:
    with capgpu.backend.use_backend("numpy"):
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the embedded set, not to be written into."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with capgpu.backend.use_backend("numpy"):
        done("train", "--out", folder, *TINY)
    return folder
