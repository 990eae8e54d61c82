"""Every test of array code runs once for each home that arrays have here.

``numpy`` and ``cpu`` are the host's backends; ``cuda`` is CuPy on a real device where there is one, else the
stand-in, which forbids what CuPy forbids; ``strict`` hands array-api-strict's arrays, which promise nothing
beyond the array API standard, to the same functions.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

import capgpu.backend
from capgpu.kernels import Kernels, kernels_for
from capgpu.model import CaptioningRNN

hypothesis.settings.register_profile(
    "capgpu",
    deadline=None,  # the first call of a fused kernel compiles it
    derandomize=True,  # a failure must be there again on the next run
    database=None,
    max_examples=25,
    # the backend fixture holds no state that an example could spoil
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("capgpu")


def _real_device() -> bool:
    if importlib.util.find_spec("cupy") is None:
        return False
    try:
        import cupy

        return bool(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # whatever a broken install raises: no device to test on
        return False


REAL_DEVICE = _real_device()


@dataclass(frozen=True)
class Home:
    """A place where arrays live.

    Attributes
    ----------
    name : str
        ``"numpy"``, ``"cpu"``, ``"cuda"`` or ``"strict"``.
    asarray : callable
        Brings host data there, ``asarray(data, dtype=None)``.
    """

    name: str
    asarray: Callable[..., Any]

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """Copy a result back to the host."""
        return np.array(capgpu.backend.to_numpy(array))

    def kernels(self, dtype: str) -> Kernels:
        """Return the kernels that serve this home's arrays of a dtype."""
        return kernels_for(self.asarray(np.zeros(1, dtype=dtype)))

    def strided(self, array: np.ndarray[Any, Any]) -> Any:
        """Bring data there in an array whose memory has gaps, and which is read-only on the host."""
        wide = np.repeat(array, 2, axis=-1)
        there = self.asarray(wide)[..., ::2]
        if isinstance(there, np.ndarray):
            there.flags.writeable = False
        return there

    def model(self, *args: Any, params: dict[str, Any] | None = None, **kwargs: Any) -> CaptioningRNN:
        """Make a model whose parameters live here; `params` overwrites them with host values."""
        model = CaptioningRNN(*args, **kwargs)
        values = {name: self.to_numpy(value) for name, value in model.params.items()} if params is None else params
        for name, value in values.items():
            model.params[name] = self.asarray(value, dtype=model.dtype.name)
        return model


@pytest.fixture(autouse=True)
def no_choice_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start every test as a fresh process does: no backend chosen, nothing set in the environment."""
    monkeypatch.setattr(capgpu.backend, "_current", None)
    monkeypatch.delenv("CAPGPU_BACKEND", raising=False)
    monkeypatch.delenv("CAPGPU_KERNELS", raising=False)


@pytest.fixture(scope="session")
def emulator() -> Any:
    """What runs the CUDA kernels on the CPU; its compiled code stays in build/ from session to session."""
    from emulator import build
    from emulator.runner import EmulatorRunner

    if build.missing():
        pytest.skip(build.missing())
    return EmulatorRunner(Path(__file__).parents[1] / "build" / "emulator")


@pytest.fixture
def standin(emulator: Any) -> Iterator[Any]:
    """The stand-in for CuPy, in the place of CuPy: one healthy device, counters at zero, kernels on the CPU."""
    from standin import cupy_standin

    with cupy_standin.installed():
        cupy_standin.set_kernel_runner(emulator)
        yield cupy_standin


@pytest.fixture(params=["numpy", "cpu", pytest.param("cuda", marks=[pytest.mark.gpu] if REAL_DEVICE else []), "strict"])
def backend(request: pytest.FixtureRequest) -> Home:
    """Each home in turn, as the backend in force."""
    name = request.param
    if name == "strict":
        import array_api_strict

        def strict(data: Any, dtype: Any = None) -> Any:
            dtype = None if dtype is None else getattr(array_api_strict, np.dtype(dtype).name)
            return array_api_strict.asarray(data, dtype=dtype)

        capgpu.set_backend("numpy")
        return Home(name, strict)
    if name == "cuda" and not REAL_DEVICE:
        request.getfixturevalue("standin")
    capgpu.set_backend(name)
    return Home(name, capgpu.asarray)


@pytest.fixture
def in_new_process() -> Callable[..., str]:
    """Run Python code in a process of its own, with the given environment variables; gives what it prints."""

    def run(code: str, **variables: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("CAPGPU_", "COVERAGE_"))}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def random() -> np.random.Generator:
    """Random numbers, the same at every run."""
    return np.random.default_rng(231)


@pytest.fixture
def sigint_is_not_ignored() -> Iterator[None]:
    """Give SIGINT Python's own handler: a shell's background jobs, and all they start, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)
