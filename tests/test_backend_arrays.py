"""Functions follow their arrays; data moves by name only."""

from __future__ import annotations

import array_api_compat.numpy
import numpy as np
import pytest

import capgpu
from capgpu.backend import is_host_array


@pytest.fixture
def strict():
    """One of array-api-strict's arrays."""
    library = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    return library.asarray([1.0, 2.0])


@pytest.fixture
def device(device):
    """A device array, with the cuda backend in force."""
    return capgpu.asarray(np.arange(3.0))


def test_get_xp_follows_the_arrays_not_the_current_backend(device, strict):
    assert capgpu.array_namespace(np.zeros(2)) is array_api_compat.numpy
    assert capgpu.array_namespace(np.zeros(2), x=np.zeros((), bool)) is array_api_compat.numpy
    capgpu.set_backend("numpy")
    assert capgpu.array_namespace(device).__name__ == "array_api_compat.cupy"
    assert capgpu.array_namespace(strict, y=strict).__name__ == "array_api_strict"


def test_a_subclass_of_a_host_array_is_a_host_array(tmp_path):
    mapped = np.memmap(tmp_path / "features", dtype=np.float32, mode="w+", shape=(2, 2))
    assert is_host_array(mapped)
    assert capgpu.array_namespace(np.zeros(2), mapped) is array_api_compat.numpy


def test_mixed_arrays_are_refused_with_their_names_and_the_call_that_moves_them(device):
    with pytest.raises(TypeError) as caught:
        capgpu.array_namespace(features=np.zeros(2), params=device)
    assert str(caught.value) == (
        "features is a NumPy array (host) and params is a CuPy array (device): arrays of one call must live "
        "in one place. Move one of them: capgpu.asarray(features) takes features to the current backend, "
        "capgpu.to_numpy(params) takes params to the host."
    )
    with pytest.raises(TypeError, match=r"capgpu\.asarray\(params\).*capgpu\.to_numpy\(features\)"):
        capgpu.array_namespace(features=device, params=np.zeros(2))


def test_mixed_arrays_without_names_are_numbered(device):
    with pytest.raises(TypeError, match=r"argument 1 is a NumPy array .* and argument 3 is a CuPy array"):
        capgpu.array_namespace(np.zeros(2), np.zeros(2), device)


def test_arrays_of_any_two_libraries_are_refused(strict):
    with pytest.raises(TypeError, match=r"x is a array_api_strict\..* and y is a NumPy array"):
        capgpu.array_namespace(x=strict, y=np.zeros(1))


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ([1.0], r"x: expected an array, got a builtins\.list\. Convert: capgpu\.asarray\(x\)"),
        (1.0, r"x: expected an array, got a builtins\.float"),
        (np.float32(1), r"x: expected an array, got a numpy\.float32"),
        (None, "x: expected an array.*got .*None"),
    ],
)
def test_an_argument_that_is_not_an_array_is_refused_by_name(thing, message):
    with pytest.raises(TypeError, match=message):
        capgpu.array_namespace(np.zeros(2), x=thing)


def test_get_xp_without_arrays_is_refused():
    with pytest.raises(TypeError, match="at least one array"):
        capgpu.array_namespace()


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"])
def test_a_copy_to_the_device_and_back_changes_nothing(backend, dtype):
    data = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    moved = capgpu.asarray(data)
    assert is_host_array(moved) == (backend.name != "cuda")
    back = capgpu.to_numpy(moved)
    assert back.dtype == data.dtype
    assert back.tolist() == data.tolist()


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("dtype", [np.float32, "float32", np.dtype("float32")])
def test_asarray_converts_lists_and_arrays_to_the_dtype_asked_for(backend, dtype):
    for data in ([[1, 2], [3, 4]], ((1, 2), (3, 4)), np.array([[1, 2], [3, 4]])):
        converted = capgpu.asarray(data, dtype=dtype)
        assert capgpu.to_numpy(converted).dtype == np.float32
        assert capgpu.to_numpy(converted).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
def test_asarray_returns_an_array_of_the_current_backend_itself(backend):
    array = capgpu.asarray(np.arange(3.0))
    assert capgpu.asarray(array) is array


def test_asarray_copies_device_arrays_to_the_host_under_a_host_backend(device):
    with capgpu.use_backend("cpu"):
        host = capgpu.asarray(device)
    assert type(host) is np.ndarray
    assert host.tolist() == [0, 1, 2]


def test_to_numpy_returns_a_host_array_itself():
    host = np.arange(3.0)
    assert capgpu.to_numpy(host) is host


def test_to_numpy_accepts_array_api_arrays(strict):
    assert capgpu.to_numpy(strict).tolist() == [1, 2]


def test_synchronize_waits_for_the_device_and_returns_at_once_on_the_host(standin):
    for name, waits in (("numpy", 0), ("cpu", 0), ("cuda", 1)):
        with capgpu.use_backend(name):
            standin.reset_counters()
            capgpu.synchronize()
            assert standin.counters().synchronisations == waits
