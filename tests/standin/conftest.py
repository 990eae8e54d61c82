from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from simulators import cupy_standin


@pytest.fixture
def cupy() -> Iterator[Any]:
    with cupy_standin.installed() as module:
        yield module
