"""Every test of array code runs once for each backend that runs here.

``numpy`` and ``cpu`` are the host's backends; ``cuda`` is CuPy on a real device where there is one, else the
stand-in, which forbids what CuPy forbids; ``strict`` hands array-api-strict's arrays, which promise nothing
beyond the array API standard, to the same functions.

Tests of CUDA ask for one of these fixtures:

- `cupy` or `device`: the CUDA device, real or not. On a real one the test is marked ``gpu``.
- `standin` or `emulator` (or the mark ``standin``): something that only the stand-in for CuPy can answer, such as
  counters, other devices or orders of threads. With a real device the test is skipped.

What takes the emulator or a compiler long has the mark ``nightly`` and runs with ``--nightly``, or on a real device.
In other runs a sample of it stays: where the mark's `unless`, a function of the test's parameters, holds.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Before NumPy is imported, here and in what the tests start. There is a process of tests for each core: threads of
# OpenBLAS that spin while they wait for work would take the cores from the others.
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

#: The processes of the tests use all processors: none is left for one that compiles ahead.
os.environ.setdefault("CAPGPU_COMPILE_AHEAD", "0")


try:
    FOUND, SETTING_ERROR = cuda_device.find(os.environ.get("CAPGPU_BACKEND")), None
except ValueError as error:
    FOUND, SETTING_ERROR = cuda_device.Found(None), str(error)
WATCH = cuda_device.Watch()

#: Fixtures that a real device cannot serve, and the folders whose tests examine nothing but the stand-in.
OF_THE_STANDIN = {"cublas", "emulator", "standin"}
STANDIN_FOLDERS = {Path(__file__).parent / name for name in OF_THE_STANDIN}
COUNT = pytest.StashKey[int]()
LEFT = pytest.StashKey[int]()
#: What the report of a test says that ran on a device. Its keywords would also name folders.
ON_DEVICE = ("device", FOUND.name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the tests that take long."""
    parser.addoption("--nightly", action="store_true", help="run the tests marked nightly, too")


# --- which tests run on a device --------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)  # before pytest-timeout reads its options
def pytest_configure(config: pytest.Config) -> None:
    """End the run where a device is required and none can be used."""
    if SETTING_ERROR is not None:
        raise pytest.UsageError(SETTING_ERROR)
    if FOUND.required and FOUND.name is None:
        raise pytest.UsageError(f"CAPGPU_BACKEND=cuda requires a CUDA device. {FOUND.cause}")
    if FOUND.name is not None and getattr(config.option, "timeout_method", None) is None:
        # a kernel that never ends keeps the main thread in the driver, where no signal handler of Python's runs:
        # another thread then ends the process, and pytest-xdist names the test and goes on in a new one
        config.option.timeout_method = "thread"


def pytest_report_header() -> str:
    """Tell which CUDA device the tests use, and why not a real one."""
    return str(FOUND)


def _examines_standin(item: pytest.Item) -> bool:
    return (
        item.get_closest_marker("standin") is not None
        or not OF_THE_STANDIN.isdisjoint(getattr(item, "fixturenames", ()))
        # the names that it offers are compared with the real CuPy's
        or (not STANDIN_FOLDERS.isdisjoint(item.path.parents) and "real_cupy" not in getattr(item, "fixturenames", ()))
    )


def _uses_cuda(item: pytest.Item) -> bool:
    return "cupy" in getattr(item, "fixturenames", ()) or (
        getattr(item, "callspec", None) is not None and item.callspec.params.get("backend") == "cuda"
    )


@pytest.hookimpl(tryfirst=True)  # before -m selects by mark
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that run on the device, and skip those that it cannot serve."""
    config.stash[COUNT] = 0
    for item in items if FOUND.name is not None else ():
        if _examines_standin(item):
            config.stash[COUNT] += 1
            item.add_marker(pytest.mark.skip(reason="examines the stand-in for CuPy: not on a real device"))
        elif _uses_cuda(item):
            item.add_marker(pytest.mark.gpu)
    deselected = [] if config.getoption("--nightly") else [item for item in items if _is_for_the_night(item, config)]
    config.stash[LEFT] = len(deselected)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        selected = set(items) - set(deselected)
        items[:] = [item for item in items if item in selected]


def _is_for_the_night(item: pytest.Item, config: pytest.Config) -> bool:
    marker = item.get_closest_marker("nightly")
    if marker is None:
        return False
    if item.get_closest_marker("gpu") and not config.pluginmanager.has_plugin("tests.standin_as_device"):
        return False  # a device needs no minutes for it
    unless = marker.kwargs.get("unless")
    return unless is None or not unless(SimpleNamespace(**item.callspec.params))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail at once after the device has been lost, instead of once more with the error of another test."""
    if item.get_closest_marker("gpu"):
        item.user_properties.append(ON_DEVICE)
        if WATCH.lost is not None:
            pytest.fail(f"the device was lost in {WATCH.lost}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Wait for the device after each test on it, so that an asynchronous error fails the test that caused it."""
    if not item.get_closest_marker("gpu"):
        return (yield)
    try:
        result = yield
    except BaseException:
        with contextlib.suppress(Exception):  # the test's own error is the one to report
            WATCH.wait(item.nodeid)
        raise
    WATCH.wait(item.nodeid)
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the counts of a worker of pytest-xdist to the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["standin"] = session.config.stash.get(COUNT, 0)
        session.config.workeroutput["left"] = session.config.stash.get(LEFT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take a worker's counts; all workers collect the same tests."""
    worker_output = getattr(node, "workeroutput", {})
    node.config.stash[COUNT], node.config.stash[LEFT] = worker_output.get("standin", 0), worker_output.get("left", 0)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Tell how many tests ran on which device, and how many were left; printed under ``-q``, too."""
    if config.stash.get(LEFT, 0):
        terminalreporter.write_line(f"{config.stash[LEFT]} tests were left for the night: --nightly runs them, too")
    if FOUND.name is None:
        if config.get_verbosity() < 0:  # then there is no header
            terminalreporter.write_line(str(FOUND))
        return
    ran = {
        report.nodeid
        for outcome in ("passed", "failed", "error", "xfailed", "xpassed")
        for report in terminalreporter.stats.get(outcome, ())
        if ON_DEVICE in getattr(report, "user_properties", ())
    }
    terminalreporter.write_line(
        f"{FOUND}: {len(ran)} tests ran on it; {config.stash.get(COUNT, 0)} examine the stand-in for CuPy and did not"
    )


@dataclass(frozen=True)
class BackendCase:
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
        """Return the kernels that serve the arrays of this case in a dtype."""
        return kernels_for(self.asarray(np.zeros(1, dtype=named_dtype(dtype))))

    def strided(self, array: np.ndarray[Any, Any]) -> Any:
        """Bring data there in an array whose memory has gaps, and which is read-only on the host."""
        padded = np.repeat(array, 2, axis=-1)
        dev_array = self.asarray(padded)[..., ::2]
        if isinstance(dev_array, np.ndarray):
            dev_array.flags.writeable = False
        return dev_array

    def model(self, *args: Any, params: dict[str, Any] | None = None, **kwargs: Any) -> CaptioningRNN:
        """Make a model whose parameters live here; `params` overwrites them with host values."""
        model = CaptioningRNN(*args, **kwargs)
        values = {name: self.to_numpy(value) for name, value in model.params.items()} if params is None else params
        for name, value in values.items():
            model.params[name] = self.asarray(value, dtype=model.dtype.name)
        return model


@pytest.fixture(autouse=True)
def no_choice_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start every test as a fresh process does: no backend chosen, nothing set in the environment.

    Except for one thing: `cpu` compiles for float64 arrays of any size, so that small ones test the compiled kernels.
    """
    monkeypatch.setattr(capgpu.backend, "_current", None)
    monkeypatch.setattr(capgpu.kernels, "COMPILED_FROM", 0)
    monkeypatch.delenv("CAPGPU_BACKEND", raising=False)
    monkeypatch.delenv("CAPGPU_KERNELS", raising=False)


@pytest.fixture(scope="session")
def emulator() -> Any:
    """What runs the CUDA kernels on the CPU; its compiled code stays in build/ from session to session."""
    from simulators.emulator import build
    from simulators.emulator.runner import EmulatorRunner

    if build.missing():
        pytest.skip(build.missing())
    return EmulatorRunner(Path(__file__).parents[1] / "build" / "emulator")


@pytest.fixture
def cublas(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """cuBLAS on the stand-in's memory, in the place of the library that CuPy would have loaded."""
    from capgpu.kernels.cuda import cublas
    from simulators.cupy_standin.cublas import Library

    library = Library()
    monkeypatch.setattr(cublas, "_open", lambda: library)
    cublas.forget()
    yield library
    cublas.forget()


@pytest.fixture
def standin(emulator: Any, cublas: Any) -> Iterator[Any]:
    """The stand-in for CuPy, in the place of CuPy: one healthy device, counters at zero, kernels on the CPU."""
    from simulators import cupy_standin

    with cupy_standin.installed():
        cupy_standin.set_kernel_runner(emulator)
        yield cupy_standin


@pytest.fixture(scope="session")
def real_device() -> bool:
    """Whether `cupy` is the real one: what a test asks of the stand-in's counters has no answer then."""
    return FOUND.name is not None


@pytest.fixture
def cupy(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The module ``cupy`` of the CUDA device: the real one where it can be used, else the stand-in's."""
    if FOUND.name is None:
        request.getfixturevalue("standin")
    module = importlib.import_module("cupy")
    pool = module.get_default_memory_pool()
    limit = pool.get_limit()
    yield module
    if WATCH.lost is None:  # everything fails after that
        pool.set_limit(limit)  # one that a failing test leaves would fail all that follow


@pytest.fixture
def device(cupy: Any) -> Iterator[Any]:
    """The CUDA device as the backend in force; gives the module ``cupy``."""
    from capgpu.kernels.cuda import compile, cublas, workspace

    capgpu.set_backend("cuda")
    # library and handles outlast a test on a device: one that takes them away would decide what the next ones use
    cublas.forget()
    yield cupy
    cublas.forget()
    if FOUND.name is None:  # kernels and limits are those of the stand-in that goes now
        compile.forget()
    workspace.forget()


@pytest.fixture(params=["numpy", "cpu", "cuda", "strict"])
def backend(request: pytest.FixtureRequest) -> BackendCase:
    """Each backend in turn, as the one in force."""
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
    """Run Python code in a process of its own, with the given environment variables; gives what it prints."""

    def run(code: str, **variables: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("CAPGPU_", "COVERAGE_"))}
        # warnings of other packages are theirs to mend: NumPy deprecates what some still use
        strict = 'import warnings; warnings.filterwarnings("error", module=r"capgpu(\\.|$)|__main__$")\n'
        done = subprocess.run(
            [sys.executable, "-c", strict + code],
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=600,
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
