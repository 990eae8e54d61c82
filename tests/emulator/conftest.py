from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from simulators.emulator.recording import Recording, recording


@pytest.fixture
def cupy(standin: Any) -> Any:
    import cupy

    return cupy


@pytest.fixture
def run(cupy: Any) -> Callable[..., list[np.ndarray]]:
    """Launch the kernel ``f`` of a source; host arrays go to the device and come back, in the order given."""

    def launch(
        code: str,
        *args: Any,
        grid: int = 1,
        block: int = 32,
        shared: int = 0,
        cooperative: bool = False,
        options: tuple[str, ...] = (),
    ) -> list[np.ndarray]:
        module = cupy.RawModule(code=code, options=options, enable_cooperative_groups=cooperative)
        dev_args = [cupy.asarray(value) if isinstance(value, np.ndarray) and value.ndim else value for value in args]
        module.get_function("f")((grid,), (block,), tuple(dev_args), shared_mem=shared)
        return [value.get() for value in dev_args if type(value) is cupy.ndarray]

    return launch


@pytest.fixture
def record(run: Callable[..., Any], emulator: Any) -> Callable[..., Recording]:
    """Launch as `run` does, and return the recording."""

    def launch(*args: Any, **settings: Any) -> Recording:
        with recording(emulator) as recorded:
            run(*args, **settings)
        return recorded[0]

    return launch


@pytest.fixture
def in_order(emulator: Any) -> Iterator[Callable[..., None]]:
    """Choose the order of threads and blocks, for the length of a test."""
    from simulators.emulator.runner import Order

    before = emulator.order

    def choose(name: str, seed: int = 0) -> None:
        emulator.order = Order(name, seed)

    yield choose
    emulator.order = before
