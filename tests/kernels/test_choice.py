"""Which kernels serve an array: decided in one place, by the array and the settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import capgpu
import capgpu.kernels
from capgpu.kernels import kernels_for
from capgpu.layers import affine_forward, lstm_backward, lstm_forward
from oracles.halves import ALL, BFLOAT16

LIMIT = capgpu.kernels.COMPILED_FROM


def host(dtype="float32"):
    return np.zeros(1, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_host_arrays_use_the_fused_kernels_unless_the_backend_is_numpy(cupy, dtype):
    served = {}
    for name in ("numpy", "cpu", "cuda"):
        with capgpu.use_backend(name):
            served[name] = kernels_for(host(dtype)).name
    assert served == {"numpy": "reference", "cpu": "cpu", "cuda": "cpu"}


@pytest.mark.parametrize("dtype", ALL)
def test_device_arrays_use_the_devices_kernels(cupy, dtype):
    capgpu.set_backend("cuda")
    assert kernels_for(capgpu.asarray(host(dtype))).name == "cuda"


def test_subclasses_of_device_arrays_use_the_devices_kernels(standin, cupy):
    array = cupy.zeros(3, np.float32)
    named = object.__new__(type("Named", (cupy.ndarray,), {"__module__": "of_a_user", "__slots__": ()}))
    named._host, named._device_id = array._host, array._device_id
    assert kernels_for(named) is kernels_for(array)


@pytest.mark.parametrize("dtype", [BFLOAT16])
def test_bfloat16_on_the_host_is_computed_by_the_kernels_of_float32(cupy, dtype):
    for name in ("numpy", "cpu", "cuda"):
        with capgpu.use_backend(name):
            assert kernels_for(host(dtype)).name == kernels_for(host("float32")).name
            assert kernels_for(host(dtype)) is kernels_for(host(dtype))


def test_the_setting_forces_the_reference_on_a_device(cupy, monkeypatch):
    capgpu.set_backend("cuda")
    monkeypatch.setenv("CAPGPU_KERNELS", "reference")
    assert kernels_for(capgpu.asarray(host())).name == "reference"


@pytest.mark.parametrize("dtype", ["float16", "longdouble", ">f4", ">f8"])
def test_dtypes_without_fused_kernels_use_the_reference(dtype):
    capgpu.set_backend("cpu")
    assert kernels_for(host(dtype)).name == "reference"


def test_the_setting_forces_the_reference(monkeypatch):
    capgpu.set_backend("cpu")
    monkeypatch.setenv("CAPGPU_KERNELS", "reference")
    assert kernels_for(host()).name == "reference"
    for setting in ("fused", ""):
        monkeypatch.setenv("CAPGPU_KERNELS", setting)
        assert kernels_for(host()).name == "cpu"


def test_an_unknown_setting_is_refused(monkeypatch):
    monkeypatch.setenv("CAPGPU_KERNELS", "fusion")
    with pytest.raises(ValueError, match="CAPGPU_KERNELS: expected 'fused' or 'reference', got 'fusion'"):
        kernels_for(host())


def test_big_endian_arrays_are_accepted():
    capgpu.set_backend("cpu")
    x, w, b = np.ones((2, 3), ">f4"), np.ones((3, 4), ">f4"), np.ones(4, ">f4")
    out, _ = affine_forward(x, w, b)
    assert out.tolist() == [[4] * 4] * 2


@pytest.fixture
def limit(monkeypatch):
    """The rule for small float64 arrays, which the tests lift otherwise."""
    monkeypatch.setattr(capgpu.kernels, "COMPILED_FROM", LIMIT)


@pytest.mark.parametrize("name", ["numpy", "cpu"])
def test_small_float64_host_arrays_use_the_reference(limit, name):
    capgpu.set_backend(name)
    compiled = "cpu" if name == "cpu" else "reference"
    assert kernels_for(np.zeros((LIMIT - 1,))).name == "reference"
    assert kernels_for(np.zeros((2, LIMIT // 2))).name == compiled
    assert kernels_for(np.zeros(1, np.float32)).name == compiled


def test_the_guide_names_the_limit():
    guide = Path(__file__).resolve().parents[2] / "docs" / "guides" / "backends.md"
    assert f"{LIMIT:,} elements or more" in guide.read_text(encoding="utf-8")


def test_small_float64_device_arrays_use_the_devices_kernels(cupy, limit):
    capgpu.set_backend("cuda")
    assert kernels_for(capgpu.asarray(host("float64"))).name == "cuda"


NEWCOMER = """
import sys
import numpy as np
import capgpu
from capgpu.layers import lstm_backward, lstm_forward
random = np.random.default_rng(0)
arrays = [random.standard_normal(shape) for shape in ((2, 5, 3), (2, 4), (3, 16), (4, 16), (16,))]
h, cache = lstm_forward(*arrays)
gradients = lstm_backward(np.ones_like(h), cache)
model = capgpu.CaptioningRNN({"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3}, 3, 4, 5, "lstm", dtype=np.float64, seed=0)
loss, grads = model.loss(np.ones((2, 3)), np.array([[1, 3, 2], [1, 2, 0]]))
model.sample(np.ones((2, 3)), 4)
print(h.tobytes().hex(), *(a.tobytes().hex() for a in gradients), float(loss).hex(), "numba" in sys.modules)
"""


HOST_ARRAYS = """
import sys
import numpy as np
from capgpu.layers import affine_forward
ones = np.ones((2, 2), np.float32)
out, _ = affine_forward(ones, ones, ones[0])
print(out.tolist(), "capgpu.kernels.cpu" in sys.modules, "cupy" in sys.modules)
"""


@pytest.mark.parametrize(("setting", "compiled"), [("cuda", True), ("auto", True), ("cuda,numpy", False)])
def test_host_arrays_are_computed_without_opening_a_device(in_new_process, setting, compiled):
    found = in_new_process(HOST_ARRAYS, CAPGPU_BACKEND=setting)
    assert found.strip() == f"[[3.0, 3.0], [3.0, 3.0]] {compiled} False"


@pytest.mark.parametrize(("setting", "name"), [("cuda,numpy", "reference"), ("cuda,numpy,cpu", "cpu"), ("auto", "cpu")])
def test_opening_the_device_does_not_change_the_kernels_of_host_arrays(cupy, monkeypatch, setting, name):
    monkeypatch.setenv("CAPGPU_BACKEND", setting)
    kernels_before = kernels_for(host()).name
    assert capgpu.current_backend().name == "cuda"
    kernels_after = kernels_for(host()).name
    with capgpu.use_backend(setting):
        assert [kernels_before, kernels_after, kernels_for(host()).name] == [name] * 3


def test_a_small_float64_computation_loads_no_compiler_and_gives_the_references_bits(in_new_process):
    *compiled, loaded = in_new_process(NEWCOMER, CAPGPU_BACKEND="cpu").split()
    *reference, _ = in_new_process(NEWCOMER, CAPGPU_BACKEND="numpy").split()
    assert compiled == reference
    assert loaded == "False"


@pytest.mark.parametrize(("forward", "backward"), [(0, LIMIT), (LIMIT, 0)])
def test_the_backward_pass_uses_the_kernels_of_the_forward_pass(random, monkeypatch, forward, backward):
    # the limit between small and large arrays moves in between
    capgpu.set_backend("cpu")
    arrays = [random.standard_normal(shape) for shape in ((2, 5, 3), (2, 4), (3, 16), (4, 16), (16,))]
    h, cache = lstm_forward(*arrays)
    expected = [h, *lstm_backward(np.ones_like(h), cache)]
    monkeypatch.setattr(capgpu.kernels, "COMPILED_FROM", forward)
    h, cache = lstm_forward(*arrays)
    monkeypatch.setattr(capgpu.kernels, "COMPILED_FROM", backward)
    for actual, expected_array in zip([h, *lstm_backward(np.ones_like(h), cache)], expected, strict=True):
        np.testing.assert_allclose(actual, expected_array, rtol=1e-12, atol=1e-14)
