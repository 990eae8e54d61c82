"""What the tests of the CUDA kernels share: the device, and how much memory it has.

The benchmarks are no installed package: what they know about kernels is imported from the source tree.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import capgpu

sys.path.append(str(Path(__file__).resolve().parents[3]))


@pytest.fixture
def device(standin: Any) -> Iterator[Any]:
    """The stand-in with the kernels on the CPU, as the backend in force; gives the module ``cupy``."""
    from capgpu.kernels.cuda import module, workspace

    capgpu.set_backend("cuda")
    yield sys.modules["cupy"]
    # scratch and limits are those of the device that goes now
    module.forget()
    workspace.forget()
