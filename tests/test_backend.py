"""The current backend: the environment, preferences, overrides, and the log messages about it."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import capgpu
from capgpu.backend import BackendUnavailableError, backend_info, current_backend, set_backend, use_backend


@pytest.fixture
def no_cupy(monkeypatch):
    """A machine without CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", None)


def log_records(caplog):
    return [record for record in caplog.records if record.name == "capgpu"]


# --- reading the setting ---------------------------------------------------------------------------


def test_the_setting_is_not_read_at_import(in_new_process):
    code = """
import os, capgpu
os.environ["CAPGPU_BACKEND"] = "numpy"
print(capgpu.current_backend().name)
"""
    assert in_new_process(code, CAPGPU_BACKEND="nonsense") == "numpy\n"


def test_the_setting_is_read_once_at_first_use(monkeypatch):
    monkeypatch.setenv("CAPGPU_BACKEND", "numpy")
    assert current_backend().name == "numpy"
    monkeypatch.setenv("CAPGPU_BACKEND", "cpu")
    assert current_backend().name == "numpy"


@pytest.mark.parametrize("setting", ["numpy", "cpu"])
def test_an_available_backend_is_chosen_without_a_log_message(monkeypatch, caplog, setting):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CAPGPU_BACKEND", setting)
    assert current_backend().name == setting
    assert log_records(caplog) == []


def test_names_ignore_case_and_surrounding_spaces(monkeypatch):
    monkeypatch.setenv("CAPGPU_BACKEND", " NumPy , CPU ")
    assert current_backend().name == "numpy"


@pytest.mark.parametrize("setting", [None, "auto", "cuda,cpu"])
def test_auto_prefers_cuda_then_cpu(monkeypatch, cupy, setting):
    if setting:
        monkeypatch.setenv("CAPGPU_BACKEND", setting)
    assert current_backend().name == "cuda"


@pytest.mark.parametrize("setting", [None, "auto", "cuda,cpu", "cuda,numpy"])
def test_without_a_device_the_next_preference_is_chosen_and_the_cause_logged_once(
    monkeypatch, caplog, no_cupy, setting
):
    caplog.set_level(logging.INFO)
    if setting:
        monkeypatch.setenv("CAPGPU_BACKEND", setting)
    for _ in range(3):
        assert current_backend().name == ("numpy" if setting == "cuda,numpy" else "cpu")
    (record,) = log_records(caplog)
    assert record.levelno == logging.INFO
    assert current_backend().name in record.getMessage()
    assert "CuPy is not installed" in record.getMessage()


def test_the_first_usable_name_is_chosen_without_probing_the_rest(caplog, no_cupy):
    caplog.set_level(logging.INFO)
    assert set_backend("numpy,cuda").name == "numpy"
    assert "CuPy" not in log_records(caplog)[0].getMessage()


def test_preferences_may_be_a_sequence_of_names(no_cupy):
    assert set_backend(["cuda", "numpy"]).name == "numpy"


# --- refusing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "meant"), [("coda", "cuda"), ("cpus", "cpu"), ("nunpy", "numpy"), ("cuda,autos", "auto")]
)
def test_an_unknown_name_is_refused_with_a_suggestion(monkeypatch, setting, meant):
    monkeypatch.setenv("CAPGPU_BACKEND", setting)
    with pytest.raises(ValueError, match=rf"CAPGPU_BACKEND={setting}: expected one of .*Did you mean '{meant}'\?"):
        current_backend()


def test_an_unknown_name_without_a_similar_one_is_refused_with_all_known_names():
    with pytest.raises(ValueError, match=r"set_backend\('tpu-v5'\): expected one of numpy, cpu, cuda, .* got 'tpu-v5'"):
        set_backend("tpu-v5")


def test_aliases_of_backends_are_accepted(monkeypatch, no_cupy):
    monkeypatch.setenv("CAPGPU_BACKEND", "GPU, numba")
    assert current_backend().name == "cpu"
    for name in ("gpu", "cupy"):
        with pytest.raises(BackendUnavailableError, match="backend 'cuda': CuPy is not installed"):
            set_backend(name)


def test_an_unknown_name_is_refused_even_after_a_usable_one():
    with pytest.raises(ValueError, match="or 'auto', got 'tpu'"):
        set_backend("numpy,tpu")


@pytest.mark.parametrize("choice", ["", " ", ",", []])
def test_an_empty_choice_is_refused(choice):
    with pytest.raises(ValueError, match=r"expected one of numpy, cpu, cuda, .* got no name"):
        set_backend(choice)


@pytest.mark.parametrize("choice", [None, 3, [b"cpu"], np])
def test_a_choice_of_another_type_is_refused(choice):
    with pytest.raises(TypeError, match=r"set_backend\(.*\): expected a name, or names in order of preference"):
        set_backend(choice)


def test_a_single_unavailable_name_raises_and_never_falls_back(monkeypatch, no_cupy):
    monkeypatch.setenv("CAPGPU_BACKEND", "cuda")
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match="CuPy is not installed"):
            current_backend()


def test_a_list_without_a_usable_name_raises_with_every_cause(monkeypatch, no_cupy):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=r"(?s)none of cuda, cpu can run here.*CuPy is not.*Numba is not"):
        set_backend("auto")


def test_a_refused_choice_keeps_the_current_backend(no_cupy):
    set_backend("numpy")
    with pytest.raises(BackendUnavailableError):
        set_backend("cuda")
    with pytest.raises(ValueError, match="got 'nope'"):
        set_backend("nope")
    with pytest.raises(BackendUnavailableError), use_backend("cuda"):
        pass
    assert current_backend().name == "numpy"


# --- overriding ------------------------------------------------------------------------------------


def test_set_backend_overrides_the_environment(monkeypatch):
    monkeypatch.setenv("CAPGPU_BACKEND", "cpu")
    assert set_backend("numpy") is current_backend()
    assert current_backend().name == "numpy"


def test_use_backend_applies_only_inside_its_block():
    set_backend("cpu")
    with use_backend("numpy") as outer:
        assert outer is current_backend()
        with use_backend("cpu"):
            assert current_backend().name == "cpu"
        assert current_backend().name == "numpy"
    assert current_backend().name == "cpu"


def test_use_backend_restores_the_previous_backend_after_an_error():
    set_backend("cpu")
    with pytest.raises(KeyError), use_backend("numpy"):
        raise KeyError
    assert current_backend().name == "cpu"


def test_use_backend_before_any_choice_leaves_the_backend_unchosen(monkeypatch):
    with use_backend("numpy"):
        pass
    monkeypatch.setenv("CAPGPU_BACKEND", "cpu")
    assert current_backend().name == "cpu"


def test_the_choice_applies_to_all_threads():
    set_backend("numpy")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(current_backend).result().name == "numpy"
        pool.submit(set_backend, "cpu").result()
    assert current_backend().name == "cpu"


def test_concurrent_first_uses_resolve_the_backend_once(monkeypatch, caplog, no_cupy):
    caplog.set_level(logging.INFO)
    with ThreadPoolExecutor(8) as pool:
        backends = [job.result() for job in [pool.submit(current_backend) for _ in range(32)]]
    assert all(backend is backends[0] for backend in backends)
    assert len(log_records(caplog)) == 1


def test_xp_follows_the_current_backend(cupy):
    import array_api_compat.numpy

    with use_backend("numpy"):
        assert capgpu.xp is array_api_compat.numpy
    with use_backend("cuda"):
        assert type(capgpu.xp.zeros(3)).__module__.split(".")[0] == "cupy"
    assert "xp" in dir(capgpu)


# --- telling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kernels"), [("numpy", "reference"), ("cpu", "cpu"), ("cuda", "cuda")])
def test_info_reports_the_current_backend_and_the_reason(cupy, name, kernels):
    set_backend(name)
    info = backend_info()
    assert (info["backend"], info["kernels"], info["error"]) == (name, kernels, None)
    assert info["reason"] == f"asked for by set_backend({name!r})"
    assert info["available"] == {"numpy": "yes", "cpu": "yes", "cuda": "yes"}
    assert ("compute capability" if name == "cuda" else "processors") in info["device"]


def test_info_reports_why_a_backend_is_unavailable(no_cupy):
    info = backend_info()
    assert info["backend"] == "cpu"
    assert "CuPy is not installed" in info["available"]["cuda"]
    assert "CuPy is not installed" in info["reason"]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CAPGPU_BACKEND", "cuda", "CuPy is not installed"),
        ("CAPGPU_BACKEND", "coda", "Did you mean 'cuda'"),
        ("CAPGPU_KERNELS", "fast", "expected 'fused' or 'reference', got 'fast'"),
    ],
)
def test_info_reports_a_wrong_setting_instead_of_failing(monkeypatch, no_cupy, variable, value, words):
    monkeypatch.setenv(variable, value)
    info = backend_info()
    assert words in info["error"]
    assert info["setting"][variable] == value
    assert info["installed"]["numpy"] == np.__version__


def test_info_reports_reference_kernels_that_a_setting_requests(monkeypatch):
    set_backend("cpu")
    monkeypatch.setenv("CAPGPU_KERNELS", "reference")
    assert backend_info()["kernels"] == "reference"


@pytest.mark.parametrize("set_to", [None, "/dev/null/cache"])
def test_cupy_gets_another_kernel_folder_if_its_default_cannot_be_created(in_new_process, set_to):
    code = """
import logging, os, sys
sys.path.insert(0, TESTS)
from simulators import cupy_standin
logging.basicConfig(stream=sys.stdout, format="%(message)s")
with cupy_standin.installed():
    del sys.modules["cupy"]
    import capgpu
    before = dict(os.environ)
    capgpu.set_backend("cuda")
    print(os.access(capgpu.kernel_cache.folder(), os.W_OK), dict(os.environ) == before)
"""
    code = code.replace("TESTS", repr(str(Path(__file__).parent)))
    environment = {"HOME": "/dev/null"} | ({} if set_to is None else {"CUPY_CACHE_DIR": set_to})
    warning, writable = in_new_process(code, **environment).splitlines()
    folder = set_to or "/dev/null/.cupy/kernel_cache"
    assert warning.startswith(f"CuPy cannot keep compiled kernels in {folder}")
    assert "Set CUPY_CACHE_DIR to a folder that can be written" in warning
    assert writable == "True True"
