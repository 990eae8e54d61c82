"""What a run of the tests does on a machine with a CUDA device, with a broken one, and with none.

Each run is a pytest of its own. The device is the stand-in, taken for a real one (standin_as_device.py).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cuda_device

ROOT = Path(__file__).resolve().parent.parent
AS_DEVICE = ("-p", "tests.standin_as_device")
SMALL = "tests/kernels/test_choice.py"  # with tests of CUDA and others

#: Seconds of one run: in a fresh checkout the emulator's kernels are compiled first.
LIMIT = 1100
pytestmark = pytest.mark.timeout(LIMIT + 60)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run pytest in a process of its own; `cupy` is the text of a package that is found under that name."""

    def start(
        *arguments: str, cupy: str | None = None, python: tuple[str, ...] = (), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        if cupy is not None:
            (tmp_path / "cupy").mkdir()
            (tmp_path / "cupy" / "__init__.py").write_text(cupy)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("CAPGPU_", "PYTEST_"))}
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (tmp_path, ROOT)))
        return subprocess.run(
            [sys.executable, *python, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=ROOT,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    return start


# --- with a device ----------------------------------------------------------------------------------

#: Tests of the kernels that run on a device. More is welcome, fewer is a mistake.
ON_A_DEVICE = 1400


def test_the_kernels_tests_are_collected_for_a_device(run: Run) -> None:
    pytest_run = run(*AS_DEVICE, "--nightly", "-m", "gpu", "--collect-only", "-q", "tests/kernels/cuda")
    assert pytest_run.returncode == 0, pytest_run.stdout
    selected = re.search(r"^(\d+)/\d+ tests collected", pytest_run.stdout, re.MULTILINE)
    assert selected is not None, pytest_run.stdout
    assert int(selected[1]) >= ON_A_DEVICE
    tests = {line.split("::")[0].rsplit("/", 1)[-1] for line in pytest_run.stdout.splitlines() if "::" in line}
    subjects = (
        "decode",
        "embedding",
        "faults",
        "compile",
        "optimizer",
        "recurrence",
        "softmax",
        "launch_heuristics",
        "training",
    )
    assert tests >= {f"test_{subject}.py" for subject in subjects}


#: Tests that every run repeats with the stand-in as a device.
DAILY_TESTS = (
    "tests/kernels/cuda/test_embedding.py",
    "tests/kernels/cuda/test_faults.py::test_an_update_without_memory_changes_no_parameter_and_can_be_repeated",
    "tests/kernels/cuda/test_graphs.py::test_replayed_steps_with_tied_weights_agree_with_plain_ones",
    "tests/kernels/cuda/test_recurrence_options.py::test_step_kernels_can_be_captured_in_a_graph_and_replayed",
    "tests/kernels/cuda/test_training.py::test_losses_of_many_steps_share_their_memory",
    SMALL,
)
#: The same for nightly runs.
NIGHTLY_TESTS = (
    "tests/kernels/cuda/test_cublas.py",
    "tests/kernels/cuda/test_decode.py::test_greedy_decoding_does_not_synchronize",
    "tests/kernels/cuda/test_embedding.py",
    "tests/kernels/cuda/test_faults.py::test_an_update_without_memory_changes_no_parameter_and_can_be_repeated",
    "tests/kernels/cuda/test_graphs.py::test_a_replayed_step_is_two_launches_and_three_copies_without_synchronization",
    "tests/kernels/cuda/test_graphs.py::test_replayed_steps_with_tied_weights_agree_with_plain_ones",
    "tests/kernels/cuda/test_graph_fallbacks.py::test_if_capturing_fails_steps_are_launched_by_kernel_after_one_warning_with_the_same_bits",
    "tests/kernels/cuda/test_compile.py",
    "tests/kernels/cuda/test_optimizer.py",
    "tests/kernels/cuda/test_recurrence_options.py::test_step_kernels_can_be_captured_in_a_graph_and_replayed",
    "tests/kernels/cuda/test_recurrence_options.py::test_biases_order_and_previous_states_agree_with_the_loops",
    "tests/kernels/cuda/test_training.py",
    "tests/data/test_device_cache.py",
    "tests/layers/test_refusals.py",
    "tests/optim",
    SMALL,
)


@pytest.mark.parametrize(
    "chosen", [DAILY_TESTS, pytest.param(NIGHTLY_TESTS, marks=pytest.mark.nightly)], ids=["some", "more"]
)
def test_tests_of_every_kind_pass_on_a_device(run: Run, chosen: tuple[str, ...]) -> None:
    # full sizes take the emulator minutes
    settings = ("--nightly", "-m", "gpu", "-k", "not full_size", "-q", "-n", "2")
    pytest_run = run(*AS_DEVICE, *settings, *chosen, CAPGPU_BACKEND="cuda")
    assert pytest_run.returncode == 0, pytest_run.stdout
    summary = re.search(r"^cuda: .* 9\.0: (\d+) tests ran on it; (\d+) examine", pytest_run.stdout, re.MULTILINE)
    assert summary is not None, pytest_run.stdout
    passed = re.search(r"^(\d+) passed", pytest_run.stdout, re.MULTILINE)
    assert passed is not None, pytest_run.stdout
    assert summary[1] == passed[1]
    assert int(summary[1]) > 300
    assert chosen is DAILY_TESTS or int(summary[2]) > 5


def test_tests_of_the_stand_in_are_skipped_on_a_device(run: Run) -> None:
    file = "tests/kernels/cuda/test_launch_heuristics.py"
    names = (
        "test_a_device_without_cooperative_launches_takes_a_launch_a_step",
        "test_one_step_uses_no_persistent_kernel_and_large_steps_use_cublas",
    )
    pytest_run = run(*AS_DEVICE, "-q", *(f"{file}::{name}" for name in names))
    assert pytest_run.returncode == 0, pytest_run.stdout
    assert "1 passed, 1 skipped" in pytest_run.stdout
    assert "examines the stand-in for CuPy: not on a real device" in pytest_run.stdout


def test_a_kernel_that_never_ends_is_ended_by_another_thread(run: Run) -> None:
    pytest_run = run(*AS_DEVICE, "--collect-only", SMALL, CAPGPU_BACKEND="cuda")
    assert "timeout method: thread" in pytest_run.stdout


@pytest.mark.parametrize("setting", ["cpu", "numpy"])
def test_a_setting_without_cuda_forbids_the_device(run: Run, setting: str) -> None:
    pytest_run = run(*AS_DEVICE, "--collect-only", "-m", "gpu", SMALL, CAPGPU_BACKEND=setting)
    assert (
        f"cuda: no device, but the stand-in for CuPy with emulated kernels. CAPGPU_BACKEND={setting}"
        in pytest_run.stdout
    )
    assert "timeout method: signal" in pytest_run.stdout
    assert pytest_run.returncode == pytest.ExitCode.NO_TESTS_COLLECTED


LOSES_DEVICE = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item):
    import cupy
    # as a kernel that has read out of bounds: each later call fails
    cupy.cuda.Device.synchronize.__globals__["STATE"].failure = 700
"""


def test_a_lost_device_fails_the_test_that_lost_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "loses_device.py").write_text(LOSES_DEVICE)
    tests = "tests/kernels/cuda/test_embedding.py"
    pytest_run = run(*AS_DEVICE, "-p", "loses_device", "-m", "gpu", "-q", tests, "--maxfail=2")
    (first,) = re.findall(r"^FAILED (\S+)", pytest_run.stdout, re.MULTILINE)
    (second,) = re.findall(r"^ERROR (\S+)", pytest_run.stdout, re.MULTILINE)
    assert first != second
    lost = f"the device was lost in {first} (CUDARuntimeError: cudaErrorIllegalAddress"
    # the summary repeats the message after the test's name where the environment says that this is CI
    messages = [line for line in pytest_run.stdout.splitlines() if line.startswith("the device was lost in")]
    assert [message.startswith(lost) for message in messages] == [True]


# --- with a broken one, and with none ---------------------------------------------------------------

NO_DEVICES = """
from types import SimpleNamespace
cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: 0, CUDARuntimeError=type("E", (Exception,), {})))
"""
WARNS = """
import sys, warnings
warnings.warn("numpy.something is deprecated", DeprecationWarning)
del sys.modules["cupy"]
import tests.standin_as_device
import cupy
"""


@pytest.mark.parametrize(
    ("package", "cause"),
    [
        ("raise OSError('libcudart.so.13: invalid ELF header')", "libcudart.so.13: invalid ELF header"),
        (NO_DEVICES, "no CUDA device found (the driver lists 0)"),
        ("", "CuPy is installed but does not import"),
    ],
    ids=["does not import", "no devices", "an empty folder"],
)
class TestWithoutUsableDevice:
    """CuPy is found and cannot be used."""

    @pytest.mark.nightly(unless=lambda p: p.package == NO_DEVICES)
    def test_the_header_gives_the_cause(self, run: Run, package: str, cause: str) -> None:
        done = run("--collect-only", SMALL, cupy=package)
        assert done.returncode == 0, done.stdout
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("cuda: no device")]
        assert cause in line

    def test_a_run_that_requires_the_device_ends_at_startup_with_the_cause(
        self, run: Run, package: str, cause: str
    ) -> None:
        done = run(SMALL, cupy=package, CAPGPU_BACKEND="cuda")
        assert done.returncode == pytest.ExitCode.USAGE_ERROR
        assert "CAPGPU_BACKEND=cuda requires a CUDA device. backend 'cuda': " in done.stderr
        assert cause in done.stderr
        assert "passed" not in done.stdout


def test_a_quiet_run_prints_the_cause_at_its_end(run: Run) -> None:
    pytest_run = run("-q", "--collect-only", SMALL, cupy=NO_DEVICES, CAPGPU_BACKEND="cuda,cpu")
    assert "no CUDA device found (the driver lists 0)" in pytest_run.stdout


def test_a_warning_at_the_import_of_cupy_does_not_hide_the_device(run: Run) -> None:
    pytest_run = run(
        "--collect-only", "-q", "-m", "gpu", SMALL, cupy=WARNS, python=("-W", "error"), CAPGPU_BACKEND="cuda"
    )
    assert pytest_run.returncode == 0, pytest_run.stdout + pytest_run.stderr
    assert "compute capability 9.0" in pytest_run.stdout


def test_an_unknown_setting_ends_the_run(run: Run) -> None:
    pytest_run = run("--collect-only", SMALL, CAPGPU_BACKEND="coda")
    assert pytest_run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "Did you mean 'cuda'" in pytest_run.stderr


def test_a_device_that_fails_at_its_first_use_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> str:
        raise RuntimeError("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable")

    monkeypatch.setattr(cuda_device, "_use", fails)
    found = cuda_device.find.__wrapped__("cuda")
    assert (found.name, found.required) == (None, True)
    assert "RuntimeError: cudaErrorDevicesUnavailable" in found.cause


# --- errors that arrive late ------------------------------------------------------------------------


@pytest.mark.parametrize("errors", [1, 2])
def test_an_error_reported_twice_marks_the_device_as_lost(monkeypatch: pytest.MonkeyPatch, errors: int) -> None:
    class Device:
        left = errors

        def synchronize(self) -> None:
            if Device.left:
                Device.left -= 1
                raise RuntimeError("cudaErrorLaunchFailure")

    cupy: Any = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(Device=Device)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    watch = cuda_device.Watch()
    with pytest.raises(RuntimeError, match="cudaErrorLaunchFailure"):
        watch.wait("test_a")
    assert watch.lost == (None if errors == 1 else "test_a (RuntimeError: cudaErrorLaunchFailure)")
