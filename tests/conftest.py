"""Fixtures for all tests. Tests of array code run once per backend (fixture `backend`).

``numpy`` and ``cpu`` compute on the host. ``cuda`` is CuPy on a real device if there is one, otherwise the stand-in
(tests/simulators/cupy_standin), which refuses what CuPy refuses. ``strict`` passes arrays of array-api-strict, which
have nothing beyond the array API standard, to the same functions.

Tests of CUDA request one of these fixtures:

- `cupy` or `device`: the CUDA device, real or simulated. On a real one the test gets the mark ``gpu``.
- `standin` or `emulator` (or the mark ``standin``): what only the stand-in for CuPy provides, such as counters, other
  devices or orders of threads. With a real device the test is skipped.

Tests that take the emulator or a compiler long have the mark ``nightly``; they run with ``--nightly`` or on a real
device. The mark's `unless`, a function of the test's parameters, selects the cases that run always. Of the variants for
other cells than the LSTM, on the emulator and on array-api-strict, a quarter runs always (`_is_sampled_out`).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Set before NumPy is imported, for this process and those that tests start. pytest-xdist runs one process per core:
# OpenBLAS threads that spin while they wait for work would take time from the other processes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

import capgpu.backend
import capgpu.kernels
import cuda_device
from capgpu.dtypes import named_dtype
from capgpu.kernels import kernels_for
from capgpu.kernels.reference import Kernels
from capgpu.layers.cells import CELLS
from capgpu.model import CaptioningRNN

hypothesis.settings.register_profile(
    "capgpu",
    deadline=None,  # the first call of a fused kernel compiles it
    derandomize=True,  # a failure must recur on the next run
    database=None,
    max_examples=25,
    # the backend fixture holds no state that an example could change
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("capgpu")

#: The test processes use all cores, so a process that compiles ahead would only slow them down.
os.environ.setdefault("CAPGPU_COMPILE_AHEAD", "0")


try:
    FOUND, SETTING_ERROR = cuda_device.find(os.environ.get("CAPGPU_BACKEND")), None
except ValueError as error:
    FOUND, SETTING_ERROR = cuda_device.Found(None), str(error)
DEVICE_WATCH = cuda_device.Watch()

#: Fixtures that a real device cannot provide, and the folders whose tests examine only the stand-in.
STANDIN_FIXTURES = {"cublas", "emulator", "standin"}
STANDIN_FOLDERS = {Path(__file__).parent / name for name in STANDIN_FIXTURES}
STANDIN_TESTS = pytest.StashKey[int]()
DESELECTED = pytest.StashKey[int]()
#: The user property of a test that ran on a device. (Keywords of a report also contain folder names.)
ON_DEVICE = ("device", FOUND.name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--nightly``."""
    parser.addoption("--nightly", action="store_true", help="run the tests marked nightly, too")


# --- which tests run on a device --------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)  # before pytest-timeout reads its options
def pytest_configure(config: pytest.Config) -> None:
    """End the run if a device is required and none can be used."""
    if SETTING_ERROR is not None:
        raise pytest.UsageError(SETTING_ERROR)
    if FOUND.required and FOUND.name is None:
        raise pytest.UsageError(f"CAPGPU_BACKEND=cuda requires a CUDA device. {FOUND.cause}")
    if FOUND.name is not None and getattr(config.option, "timeout_method", None) is None:
        # a kernel that never ends keeps the main thread inside the driver, where Python runs no signal handler:
        # the timeout thread ends the process, and pytest-xdist reports the test and continues in a new process
        config.option.timeout_method = "thread"


def pytest_report_header() -> str:
    """Return the CUDA device that the tests use, or why they use the stand-in."""
    return str(FOUND)


def _examines_standin(item: pytest.Item) -> bool:
    return (
        item.get_closest_marker("standin") is not None
        or not STANDIN_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
        # tests with real_cupy compare the stand-in's names with those of an installed CuPy
        or (not STANDIN_FOLDERS.isdisjoint(item.path.parents) and "real_cupy" not in getattr(item, "fixturenames", ()))
    )


def _uses_cuda(item: pytest.Item) -> bool:
    return "cupy" in getattr(item, "fixturenames", ()) or (
        getattr(item, "callspec", None) is not None and item.callspec.params.get("backend") == "cuda"
    )


@pytest.hookimpl(tryfirst=True)  # before -m selects by mark
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that run on the device, skip those of the stand-in, and deselect the nightly ones."""
    config.stash[STANDIN_TESTS] = 0
    for item in items if FOUND.name is not None else ():
        if _examines_standin(item):
            config.stash[STANDIN_TESTS] += 1
            item.add_marker(pytest.mark.skip(reason="examines the stand-in for CuPy: not on a real device"))
        elif _uses_cuda(item):
            item.add_marker(pytest.mark.gpu)
    deselected = (
        [] if config.getoption("--nightly") else [item for item in items if _is_deselected_nightly(item, config)]
    )
    config.stash[DESELECTED] = len(deselected)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        selected = set(items) - set(deselected)
        items[:] = [item for item in items if item in selected]


#: What the ids of the variants of a test have that run as a sample where kernels are emulated, and its share.
_SAMPLED, _SAMPLE = re.compile(rf"(?<![a-z])({'|'.join(CELLS.keys() - {'lstm'})})(?![a-z])"), 4


def _is_sampled_out(item: pytest.Item) -> bool:
    """Whether a variant of a test is left out of the sample of those on slow array libraries, beside the LSTM's."""
    spec = getattr(item, "callspec", None)
    if spec is None or FOUND.name is not None or _SAMPLED.search(spec.id) is None:
        return False
    slow = _uses_cuda(item) or spec.params.get("backend") == "strict" or "kernels/cuda/" in item.nodeid
    return slow and zlib.crc32(item.nodeid.encode()) % _SAMPLE != 0


def _is_deselected_nightly(item: pytest.Item, config: pytest.Config) -> bool:
    if _is_sampled_out(item):
        return True
    marker = item.get_closest_marker("nightly")
    if marker is None:
        return False
    if item.get_closest_marker("gpu") and not config.pluginmanager.has_plugin("tests.standin_as_device"):
        return False  # fast on a real device
    unless = marker.kwargs.get("unless")
    return unless is None or not unless(SimpleNamespace(**item.callspec.params))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail at once after the device has been lost, instead of repeating the error of an earlier test."""
    if item.get_closest_marker("gpu"):
        item.user_properties.append(ON_DEVICE)
        if DEVICE_WATCH.lost is not None:
            pytest.fail(f"the device was lost in {DEVICE_WATCH.lost}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Wait for the device after each test on it, so that an asynchronous error fails the test that caused it."""
    if not item.get_closest_marker("gpu"):
        return (yield)
    try:
        result = yield
    except BaseException:
        with contextlib.suppress(Exception):  # the test's own error is the one to report
            DEVICE_WATCH.wait(item.nodeid)
        raise
    DEVICE_WATCH.wait(item.nodeid)
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the counts of a pytest-xdist worker to the controller."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["standin"] = session.config.stash.get(STANDIN_TESTS, 0)
        session.config.workeroutput["deselected"] = session.config.stash.get(DESELECTED, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Store a worker's counts; all workers collect the same tests."""
    worker_output = getattr(node, "workeroutput", {})
    node.config.stash[STANDIN_TESTS], node.config.stash[DESELECTED] = (
        worker_output.get("standin", 0),
        worker_output.get("deselected", 0),
    )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print how many tests ran on which device and how many were deselected, also under ``-q``."""
    if config.stash.get(DESELECTED, 0):
        terminalreporter.write_line(f"{config.stash[DESELECTED]} nightly tests were deselected: --nightly runs them")
    if FOUND.name is None:
        if config.get_verbosity() < 0:  # -q prints no header
            terminalreporter.write_line(str(FOUND))
        return
    ran = {
        report.nodeid
        for outcome in ("passed", "failed", "error", "xfailed", "xpassed")
        for report in terminalreporter.stats.get(outcome, ())
        if ON_DEVICE in getattr(report, "user_properties", ())
    }
    terminalreporter.write_line(
        f"{FOUND}: {len(ran)} tests ran on it; {config.stash.get(STANDIN_TESTS, 0)} examine the stand-in for CuPy and "
        "did not"
    )


@dataclass(frozen=True)
class BackendCase:
    """A backend under test, with the function that makes its arrays.

    Attributes
    ----------
    name : str
        ``"numpy"``, ``"cpu"``, ``"cuda"`` or ``"strict"``.
    asarray : callable
        Makes an array of the backend from host data: ``asarray(data, dtype=None)``.
    """

    name: str
    asarray: Callable[..., Any]

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """Copy a result back to the host."""
        return np.array(capgpu.backend.to_numpy(array))

    def kernels(self, dtype: str) -> Kernels:
        """Return the kernels for arrays of this case in a dtype."""
        return kernels_for(self.asarray(np.zeros(1, dtype=named_dtype(dtype))))

    def strided(self, array: np.ndarray[Any, Any]) -> Any:
        """Make a strided array with these values; a host array is also read-only."""
        padded = np.repeat(array, 2, axis=-1)
        dev_array = self.asarray(padded)[..., ::2]
        if isinstance(dev_array, np.ndarray):
            dev_array.flags.writeable = False
        return dev_array

    def model(self, *args: Any, params: dict[str, Any] | None = None, **kwargs: Any) -> CaptioningRNN:
        """Make a model with parameters in arrays of this case; `params` overrides their values."""
        model = CaptioningRNN(*args, **kwargs)
        values = {name: self.to_numpy(value) for name, value in model.params.items()} if params is None else params
        for name, value in values.items():
            model.params[name] = self.asarray(value, dtype=model.dtype.name)
        return model


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start every test like a new process: no backend chosen, no setting in the environment.

    One difference: `cpu` uses the compiled kernels for float64 arrays of any size, so that small ones test them.
    """
    monkeypatch.setattr(capgpu.backend, "_current", None)
    monkeypatch.setattr(capgpu.kernels, "COMPILED_FROM", 0)
    monkeypatch.delenv("CAPGPU_BACKEND", raising=False)
    monkeypatch.delenv("CAPGPU_KERNELS", raising=False)


@pytest.fixture(scope="session")
def emulator() -> Any:
    """The emulator that runs CUDA kernels on the CPU; its compiled code is kept in build/emulator."""
    from simulators.emulator import build
    from simulators.emulator.runner import EmulatorRunner

    if build.missing():
        pytest.skip(build.missing())
    return EmulatorRunner(Path(__file__).parents[1] / "build" / "emulator")


@pytest.fixture
def cublas(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cuBLAS that works on the stand-in's memory, in place of the library that CuPy would load."""
    from capgpu.kernels.cuda import cublas
    from simulators.cupy_standin.cublas import Library

    library = Library()
    monkeypatch.setattr(cublas, "_open", lambda: library)
    cublas.forget()
    yield library
    cublas.forget()


@pytest.fixture
def standin(emulator: Any, cublas: Any) -> Iterator[Any]:
    """The stand-in installed as ``cupy``: one working device, counters at zero, kernels run by the emulator."""
    from simulators import cupy_standin

    with cupy_standin.installed():
        cupy_standin.set_kernel_runner(emulator)
        yield cupy_standin


@pytest.fixture(scope="session")
def real_device() -> bool:
    """Whether `cupy` is the real CuPy, which lacks the counters of the stand-in."""
    return FOUND.name is not None


@pytest.fixture
def cupy(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The module ``cupy``: the real one if it can be used, otherwise the stand-in."""
    if FOUND.name is None:
        request.getfixturevalue("standin")
    module = importlib.import_module("cupy")
    pool = module.get_default_memory_pool()
    limit = pool.get_limit()
    yield module
    if DEVICE_WATCH.lost is None:  # a lost device refuses every call
        pool.set_limit(limit)  # a limit left by a failing test would fail all later ones


@pytest.fixture
def device(cupy: Any) -> Iterator[Any]:
    """The module ``cupy``, with ``cuda`` as the current backend."""
    from capgpu.kernels.cuda import compile, cublas, workspace

    capgpu.set_backend("cuda")
    # on a real device library and handles outlast a test: one that replaces them would change those of the next
    cublas.forget()
    yield cupy
    cublas.forget()
    if FOUND.name is None:  # compiled kernels and limits belong to the stand-in that is removed now
        compile.forget()
    workspace.forget()


@pytest.fixture(params=["numpy", "cpu", "cuda", "strict"])
def backend(request: pytest.FixtureRequest) -> BackendCase:
    """Each backend in turn, set as the current one."""
    name = request.param
    if name == "strict":
        library = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")

        def strict(data: Any, dtype: Any = None) -> Any:
            dtype = None if dtype is None else getattr(library, np.dtype(dtype).name)
            return library.asarray(data, dtype=dtype)

        capgpu.set_backend("numpy")
        return BackendCase(name, strict)
    if name == "cuda":
        request.getfixturevalue("cupy")
    capgpu.set_backend(name)
    return BackendCase(name, capgpu.asarray)


@pytest.fixture
def in_new_process() -> Callable[..., str]:
    """A function that runs Python code in a new process with these environment variables and returns its stdout."""

    def run(code: str, **variables: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("CAPGPU_", "COVERAGE_"))}
        # only warnings of capgpu are errors: other packages use what NumPy has deprecated
        strict = 'import warnings; warnings.filterwarnings("error", module=r"capgpu(\\.|$)|__main__$")\n'
        process = subprocess.run(
            [sys.executable, "-c", strict + code],
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

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
