"""Fixtures of the CUDA kernels' tests: recorded launches, sanitizer reports, training without capture.

The benchmarks are not an installed package; tests that use them import them from the source tree.
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
from oracles import graphed_training, kernel_launches
from simulators import cupy_standin
from simulators.emulator.recording import Recording
from simulators.emulator.sanitizer_runs import SanitizerRun

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
def finding_of(
    request: pytest.FixtureRequest, emulator: Any, recordings: Callable[[str], dict[str, list[Recording]]]
) -> Iterator[Callable[[SanitizerRun], str]]:
    """Return the finding of a run. All runs of the session start together, so that they use every core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = {}
        for item in request.session.items:
            run = getattr(item, "callspec", None) and item.callspec.params.get("run")
            if isinstance(run, SanitizerRun) and run.missing() is None:
                launches = recordings(run.dtype)
                # without a named variant, all of them: each has launches that the others lack
                chosen = [name for name in launches if run.variant in (name, name.split()[0])]
                recorded = [launch for name in chosen for launch in launches[name]]
                started[run] = pool.submit(run.run, recorded, emulator.build_cache)
        yield lambda run: started[run].result()
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def train_uncaptured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return `graphed_training.train` with steps that have a graph's memory and layout but are never captured."""

    def run(*args: Any, **settings: Any) -> Any:
        from capgpu.kernels.cuda import graphs

        with monkeypatch.context() as patch:
            patch.setattr(graphs.StepGraphs, "_capture", lambda self, shape: None)
            return graphed_training.train(*args, **settings)

    return run


@pytest.fixture
def every_case(pytestconfig: pytest.Config, real_device: bool) -> bool:
    """Whether a test takes every case of an operation: at night, and on a real device, which is fast."""
    return real_device or bool(pytestconfig.getoption("--nightly"))


@pytest.fixture
def recurrence_device(device: Any, real_device: bool) -> Iterator[Any]:
    """Return the device, or an emulated H100, whose kernels have the most loads in flight."""
    from capgpu.kernels.cuda import compile, launch_heuristics
    from oracles.recurrence_runs import emulate_architecture
    from simulators.cupy_standin.state import STATE

    previous = STATE.architecture
    if real_device:
        launch_heuristics.forget()
    else:
        emulate_architecture("sm_90")
    yield device
    STATE.architecture = previous
    launch_heuristics.forget()
    if not real_device:
        compile.forget()
