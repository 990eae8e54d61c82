"""What the tests of the CUDA kernels share: recorded launches, and what the sanitizers find in them.

The benchmarks are no installed package: what they know about kernels is imported from the source tree.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import capgpu
from emulator.hunts import Hunt
from emulator.recording import Recording
from oracles import kernel_launches
from standin import cupy_standin

sys.path.append(str(Path(__file__).resolve().parents[3]))


@pytest.fixture(scope="session")
def recordings(emulator: Any, pytestconfig: pytest.Config) -> Callable[[str], dict[str, list[Recording]]]:
    """Give, for a dtype, launches of every kernel that it has, with --nightly of every variant; made once."""
    from capgpu.kernels.cuda import compile, launch_heuristics, workspace

    every = pytestconfig.getoption("--nightly")
    made: dict[str, dict[str, list[Recording]]] = {}

    def of(dtype: str) -> dict[str, list[Recording]]:
        if dtype not in made:
            with cupy_standin.installed() as device, capgpu.use_backend("cuda"):
                cupy_standin.set_kernel_runner(emulator)
                made[dtype] = kernel_launches.recorded(device, emulator, dtype, every)
            for part in (compile, launch_heuristics, workspace):
                part.forget()
        return made[dtype]

    return of


@pytest.fixture(scope="session")
def hunted(
    request: pytest.FixtureRequest, emulator: Any, recordings: Callable[[str], dict[str, list[Recording]]]
) -> Iterator[Callable[[Hunt], str]]:
    """Give what a hunt finds. All hunts of the session start together: their compilers and programs use every core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = {}
        for item in request.session.items:
            hunt = getattr(item, "callspec", None) and item.callspec.params.get("hunt")
            if isinstance(hunt, Hunt) and hunt.missing() is None:
                launches = recordings(hunt.dtype)
                # where no variant is named, each has launches that the others lack: DEEP ones, or more blocks
                chosen = [name for name in launches if hunt.variant in (name, name.split()[0])]
                recorded = [launch for name in chosen for launch in launches[name]]
                started[hunt] = pool.submit(hunt.run, recorded, emulator.workshop)
        yield lambda hunt: started[hunt].result()
        pool.shutdown(cancel_futures=True)
