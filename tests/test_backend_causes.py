"""Why a device cannot be used: each cause in its own words, with what would mend it."""

from __future__ import annotations

import sys
import tomllib
import types
from pathlib import Path

import pytest

from capgpu.array_libraries import OLDEST_NUMBA
from capgpu.backend import BackendUnavailableError, set_backend
from simulators import cupy_standin

TESTS = str(Path(__file__).parent)


def refusal() -> BackendUnavailableError:
    with pytest.raises(BackendUnavailableError) as caught:
        set_backend("cuda")
    assert str(caught.value).startswith("backend 'cuda': ")
    return caught.value


@pytest.fixture
def broken_cupy(tmp_path, monkeypatch):
    """Let ``import cupy`` find a package with the given text."""
    for name in [name for name in sys.modules if name.split(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)

    def install(text: str) -> None:
        (tmp_path / "cupy").mkdir()
        (tmp_path / "cupy" / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("cupy", None)


def test_a_missing_cupy_is_reported_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    error = refusal()
    assert "CuPy is not installed" in str(error)
    assert "pip install 'cupy-cuda13x[ctk]" in str(error)
    assert "CAPGPU_BACKEND=cpu" in str(error)
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_a_process_that_requires_cuda_without_cupy_ends_with_the_install_command(in_new_process):
    code = """
import sys
import tomllib
sys.modules["cupy"] = None
import capgpu
try:
    capgpu.asarray([1.0])
except capgpu.BackendUnavailableError as error:
    print(error)
"""
    printed = in_new_process(code, CAPGPU_BACKEND="cuda")
    assert "CuPy is not installed" in printed
    assert "pip install 'cupy-cuda13x[ctk]" in printed


@pytest.mark.standin
def test_a_failing_import_is_reported_with_its_own_message():
    with cupy_standin.installed(import_error="libnvrtc.so.13: cannot open shared object file"):
        error = refusal()
    assert "CuPy is installed but does not import" in str(error)
    assert "libnvrtc.so.13: cannot open shared object file" in str(error)
    assert "pip install --force-reinstall 'cupy-cuda13x[ctk]" in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import fastrlock_of_another_version", "No module named 'fastrlock_of_another_version'"),
        ("raise OSError('invalid ELF header')", "OSError: invalid ELF header"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_cupy_is_not_reported_as_missing(broken_cupy, text, words):
    broken_cupy(text)
    error = refusal()
    assert "CuPy is installed but does not import" in str(error)
    assert words in str(error)
    assert "reinstall" in str(error).lower()


def test_leftovers_of_a_removed_cupy_are_reported_as_such(monkeypatch):
    # an empty folder is imported as a module without contents
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    error = refusal()
    assert "CuPy is installed but does not import" in str(error)
    assert "reinstall" in str(error).lower()


@pytest.mark.standin
def test_a_machine_without_a_device_is_reported():
    with cupy_standin.installed(device_count=0):
        error = refusal()
    assert "no CUDA device found" in str(error)
    assert "CUDA_VISIBLE_DEVICES" in str(error)
    assert "cudaErrorNoDevice" in str(error)


@pytest.mark.standin
def test_a_driver_that_is_too_old_is_reported():
    with cupy_standin.installed(driver="insufficient"):
        error = refusal()
    assert "driver is too old: it serves CUDA 11.4, the installed CuPy needs CUDA 13.2" in str(error)
    assert "Update the driver" in str(error)


@pytest.mark.standin
def test_a_missing_driver_is_reported():
    with cupy_standin.installed(driver="missing"):
        error = refusal()
    assert "no NVIDIA driver is installed" in str(error)
    assert "CAPGPU_BACKEND=cpu" in str(error)


def test_other_cuda_runtime_errors_are_reported_with_their_message(monkeypatch, cupy):
    def failing():
        raise cupy.cuda.runtime.CUDARuntimeError(1)

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", failing)
    error = refusal()
    assert "cannot be used" in str(error)
    assert "cudaErrorInvalidValue" in str(error)


def test_a_device_count_of_zero_is_reported(monkeypatch, cupy):
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    assert "the driver lists 0" in str(refusal())


def test_free_threaded_python_is_refused(monkeypatch):
    monkeypatch.setattr("sys._is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(BackendUnavailableError, match=r"got free-threaded Python.*PYTHON_GIL=1.*CAPGPU_BACKEND=numpy"):
        set_backend("cpu")


def test_a_missing_numba_is_reported(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        BackendUnavailableError, match=r"Numba is not installed.*pip install numba.*CAPGPU_BACKEND=numpy"
    ):
        set_backend("cpu")


@pytest.mark.parametrize(
    ("version", "usable"), [("0.61.2", False), ("0.62.0rc1", True), ("1.0", True), ("unknown", True)]
)
def test_a_numba_that_would_end_the_process_is_refused(monkeypatch, version, usable):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    if usable:
        assert set_backend("cpu").name == "cpu"
    else:
        with pytest.raises(
            BackendUnavailableError, match=r"expected Numba 0\.62 or newer, got 0\.61, .*'numba>=0\.62'"
        ):
            set_backend("cpu")


def test_the_oldest_numba_is_that_of_the_requirements():
    requirements = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = ".".join(map(str, OLDEST_NUMBA))
    assert any(line.startswith(f"numba>={oldest},") for line in requirements["project"]["dependencies"])


def test_a_numba_with_compilation_disabled_is_reported(in_new_process, monkeypatch):
    code = """
import capgpu
try:
    capgpu.set_backend("cpu")
except capgpu.BackendUnavailableError as error:
    print(error)
print(capgpu.set_backend("cpu,numpy").name)
"""
    cause = (
        "backend 'cpu': expected Numba to compile, got NUMBA_DISABLE_JIT=1. Unset that variable, or choose "
        "CAPGPU_BACKEND=numpy."
    )
    for loaded in ("", "import numba"):
        assert in_new_process(loaded + code, NUMBA_DISABLE_JIT="1").splitlines() == [cause, "numpy"]
    for setting in ("0", "", "yes"):
        assert in_new_process(code, NUMBA_DISABLE_JIT=setting).splitlines() == ["cpu"]


def test_host_arrays_of_a_cuda_program_use_the_reference_kernels_if_numba_cannot_compile(cupy, monkeypatch):
    import numpy as np

    import capgpu.kernels

    set_backend("cuda")
    monkeypatch.setattr(capgpu.array_libraries, "compilation_disabled", lambda: True)
    capgpu.kernels._numba_usable.cache_clear()
    try:
        assert capgpu.kernels.kernels_for(np.zeros(1, np.float32)).name == "reference"
    finally:
        capgpu.kernels._numba_usable.cache_clear()


# --- array-api-compat, which every backend needs ----------------------------------------------------

WITHOUT_COMPAT = """
import sys
import tomllib
sys.path.insert(0, {tests!r})
from simulators import cupy_standin
import capgpu
with cupy_standin.installed():
    sys.modules["array_api_compat"] = None
    for choice in {choices!r}:
        try:
            print(capgpu.set_backend(choice))
        except capgpu.BackendUnavailableError as error:
            print(error)
    del sys.modules["array_api_compat"]
"""


@pytest.mark.parametrize("choice", ["numpy", "cpu", "cuda"])
def test_a_missing_array_api_compat_is_named_with_the_remedy(in_new_process, choice):
    printed = in_new_process(WITHOUT_COMPAT.format(tests=TESTS, choices=[choice]))
    assert printed == (
        f"backend {choice!r}: the package array-api-compat is not installed. Install it with: "
        "pip install array-api-compat\n"
    )


def test_a_missing_array_api_compat_is_the_cause_of_every_backend_under_auto(in_new_process):
    printed = in_new_process(WITHOUT_COMPAT.format(tests=TESTS, choices=["auto"]))
    assert "none of cuda, cpu can run here" in printed
    for backend in ("cuda", "cpu"):
        assert f"backend {backend!r}: the package array-api-compat is not installed" in printed


def test_an_array_api_compat_that_fails_to_import_is_not_reported_as_missing(in_new_process, tmp_path):
    (tmp_path / "array_api_compat").mkdir()
    for name, text in (("__init__", ""), ("numpy", "raise ImportError('cannot import name bool8')")):
        (tmp_path / "array_api_compat" / f"{name}.py").write_text(text)
    code = f"""
import sys
import tomllib
sys.path.insert(0, {str(tmp_path)!r})
import capgpu
try:
    capgpu.set_backend("numpy")
except capgpu.BackendUnavailableError as error:
    print(error)
"""
    printed = in_new_process(code)
    assert "array_api_compat.numpy does not import: ImportError: cannot import name bool8" in printed
    assert "pip install --upgrade array-api-compat" in printed
