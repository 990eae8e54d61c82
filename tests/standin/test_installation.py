"""The stand-in takes CuPy's place, fails as CuPy fails, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import array_api_compat
import numpy as np
import pytest

from simulators import cupy_standin


def cupys() -> set[str]:
    return {name for name in sys.modules if "cupy" in name.split(".") or name.split(".")[0] == "cupyx"}


def test_importing_finds_the_stand_in_and_its_submodules(cupy):
    import cupy.cuda.runtime as runtime
    import cupy.linalg
    import cupyx
    from cupy.cuda import Device
    from cupy.cuda.memory import OutOfMemoryError

    assert sys.modules["cupy"] is cupy
    assert importlib.util.find_spec("cupy") is not None
    assert cupy.__version__.startswith("14.")
    assert (Device().id, runtime.getDeviceCount()) == (0, 1)
    assert issubclass(OutOfMemoryError, MemoryError)
    assert cupyx.scatter_add
    with pytest.raises(ImportError):
        import cupy.nothing_of_this_name


def test_uninstalling_leaves_no_module_and_no_memory_of_classes():
    before = cupys()
    finders = list(sys.meta_path)
    with cupy_standin.installed() as cupy:
        x = cupy.ones(3)
        assert array_api_compat.array_namespace(x).__name__ == "array_api_compat.cupy"
        assert {"cupy", "array_api_compat.cupy"} <= cupys()
    assert cupys() == before
    assert sys.meta_path == finders
    assert not hasattr(array_api_compat, "cupy")
    assert not array_api_compat.is_cupy_array(x)
    with pytest.raises(TypeError):
        array_api_compat.array_namespace(x)


def test_a_module_of_the_same_name_comes_back():
    own = type(sys)("cupy")
    sys.modules["cupy"] = own
    try:
        with cupy_standin.installed() as cupy:
            assert cupy is not own
        assert sys.modules["cupy"] is own
    finally:
        del sys.modules["cupy"]


def test_installations_nest(cupy):
    x = cupy.ones(3)
    xp = array_api_compat.array_namespace(x)
    copies = cupy_standin.counters().allocations
    with cupy_standin.installed(device_count=0) as inner:
        assert inner is not None
        assert not inner.is_available()
        with pytest.raises(RuntimeError):
            inner.ones(3)
    assert sys.modules["cupy"] is cupy
    assert array_api_compat.array_namespace(x) is xp
    assert cupy_standin.counters().allocations == copies
    cupy.ones(3)


def test_an_installation_can_follow_another():
    for _ in range(2):
        with cupy_standin.installed() as cupy:
            xp = array_api_compat.array_namespace(cupy.ones(3))
            assert xp.sum(xp.ones(3)).item() == 3.0
            assert cupy_standin.counters().synchronisations == 1


def test_an_error_inside_uninstalls():
    before = cupys()
    with pytest.raises(KeyError), cupy_standin.installed():
        raise KeyError
    assert cupys() == before
    cupy_standin.uninstall()


def test_numpy_is_as_before():
    names = {name: getattr(np, name) for name in dir(np) if not name.startswith("__")}
    settings = np.geterr()
    with cupy_standin.installed() as cupy:
        cupy.log(cupy.zeros(3))
        assert np.geterr() == settings
        with pytest.warns(RuntimeWarning, match="divide by zero"):
            np.log(np.zeros(3))
    assert np.geterr() == settings
    assert all(getattr(np, name) is value for name, value in names.items())


def test_nothing_of_cupy_is_imported_before_it_is_asked_for():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from simulators import cupy_standin; cupy_standin.install();"
        "assert 'cupy' not in sys.modules; import cupy; assert 'cupy' in sys.modules"
    )
    folder = importlib.util.find_spec("simulators").submodule_search_locations[0]
    subprocess.run([sys.executable, "-c", code, f"{folder}/.."], check=True)


@pytest.mark.parametrize(
    ("options", "message", "driver_version"),
    [
        ({"device_count": 0}, "cudaErrorNoDevice: no CUDA-capable device is detected", 13020),
        (
            {"driver": "insufficient"},
            "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
            11040,
        ),
        (
            {"driver": "missing"},
            "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
            0,
        ),
    ],
)
def test_an_unusable_device_fails_at_its_first_use_and_not_before(options, message, driver_version):
    with cupy_standin.installed(**options) as cupy:
        runtime = cupy.cuda.runtime
        for use in (
            runtime.getDeviceCount,
            runtime.getDevice,
            runtime.memGetInfo,
            runtime.deviceSynchronize,
            lambda: runtime.getDeviceProperties(0),
            cupy.cuda.Device,
            lambda: cupy.cuda.Device(0).compute_capability,
            lambda: cupy.cuda.Device(0).use(),
            cupy.cuda.Stream,
            cupy.cuda.Event,
            cupy.cuda.get_current_stream,
            lambda: cupy.zeros(3),
            lambda: cupy.empty(3),
            lambda: cupy.arange(3),
            lambda: cupy.asarray([1.0]),
            lambda: cupy.random.default_rng(0),
            lambda: cupy.RawModule(code="").get_function("f"),
        ):
            with pytest.raises(runtime.CUDARuntimeError) as raised:
                use()
            assert str(raised.value) == message
        assert isinstance(raised.value, RuntimeError)
        assert runtime.driverGetVersion() == driver_version
        assert runtime.runtimeGetVersion() > 12000
        assert cupy.cuda.is_available() is cupy.is_available() is False
        assert repr(cupy.cuda.Device(0)) == "<CUDA Device 0>"


def test_an_import_error_carries_its_cause_and_leaves_no_module():
    cause = "libcuda.so.1: cannot open shared object file: No such file or directory"
    before = cupys()
    with cupy_standin.installed(import_error=cause) as cupy:
        assert cupy is None
        for _ in range(2):
            with pytest.raises(ImportError, match="Failed to import CuPy") as raised:
                import cupy as again  # noqa: F401
            assert f"ImportError: {cause}" in str(raised.value)
        assert "cupy" not in sys.modules
        assert importlib.util.find_spec("cupy") is not None
    assert cupys() == before


def test_unknown_options_are_refused_before_anything_is_replaced():
    finders = list(sys.meta_path)
    with pytest.raises(ValueError, match="expected one of sufficient"):
        cupy_standin.install(driver="brave")
    with pytest.raises(ValueError, match="expected at least 0"):
        cupy_standin.install(device_count=-1)
    assert sys.meta_path == finders
