"""Why a device cannot be used: each cause in its own words, with what would mend it."""

from __future__ import annotations

import sys
import types

import pytest

from capgpu.backend import BackendUnavailableError, set_backend
from standin import cupy_standin


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


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    error = refusal()
    assert "CuPy is not installed" in str(error)
    assert "pip install 'capgpu[cuda13]'" in str(error)
    assert "CAPGPU_BACKEND=cpu" in str(error)
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_not_installed_in_a_process_that_asks_for_cuda(in_new_process):
    code = """
import sys
sys.modules["cupy"] = None
import capgpu
try:
    capgpu.asarray([1.0])
except capgpu.BackendUnavailableError as error:
    print(error)
"""
    said = in_new_process(code, CAPGPU_BACKEND="cuda")
    assert "CuPy is not installed" in said
    assert "pip install 'capgpu[cuda13]'" in said


def test_an_import_that_fails_is_told_in_its_own_words():
    with cupy_standin.installed(import_error="libnvrtc.so.13: cannot open shared object file"):
        error = refusal()
    assert "CuPy is installed but does not import" in str(error)
    assert "libnvrtc.so.13: cannot open shared object file" in str(error)
    assert "capgpu[cuda13]" in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import fastrlock_of_another_version", "No module named 'fastrlock_of_another_version'"),
        ("raise OSError('invalid ELF header')", "OSError: invalid ELF header"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_installation_is_not_called_missing(broken_cupy, text, words):
    broken_cupy(text)
    error = refusal()
    assert "CuPy is installed but does not import" in str(error)
    assert words in str(error)
    assert "reinstall" in str(error).lower()


def test_the_remains_of_a_removed_installation(monkeypatch):
    # an empty folder is imported as a module without contents
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    error = refusal()
    assert "CuPy is installed but does not import" in str(error)
    assert "reinstall" in str(error).lower()


def test_no_device():
    with cupy_standin.installed(device_count=0):
        error = refusal()
    assert "no CUDA device found" in str(error)
    assert "CUDA_VISIBLE_DEVICES" in str(error)
    assert "cudaErrorNoDevice" in str(error)


def test_a_driver_that_is_too_old():
    with cupy_standin.installed(driver="insufficient"):
        error = refusal()
    assert "driver is too old: it serves CUDA 11.4, the installed CuPy needs CUDA 13.2" in str(error)
    assert "Update the driver" in str(error)


def test_no_driver_at_all():
    with cupy_standin.installed(driver="missing"):
        error = refusal()
    assert "no NVIDIA driver is installed" in str(error)
    assert "CAPGPU_BACKEND=cpu" in str(error)


def test_another_failure_of_the_runtime_is_passed_on(monkeypatch, standin):
    import cupy

    def failing():
        raise cupy.cuda.runtime.CUDARuntimeError(1)

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", failing)
    error = refusal()
    assert "cannot be used" in str(error)
    assert "cudaErrorInvalidValue" in str(error)


def test_a_driver_that_counts_no_device(monkeypatch, standin):
    import cupy

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    assert "the driver lists 0" in str(refusal())


def test_a_missing_numba(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        BackendUnavailableError, match=r"Numba is not installed.*pip install numba.*CAPGPU_BACKEND=numpy"
    ):
        set_backend("cpu")
