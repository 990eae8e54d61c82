"""Which kernels serve an array: decided in one place, told by the array and the settings."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels import kernels_for
from capgpu.layers import affine_forward
from oracles.halves import ALL, BFLOAT16


def host(dtype="float32"):
    return np.zeros(1, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_host_arrays_go_to_the_fused_kernels_unless_numpy_is_in_force(cupy, dtype):
    served = {}
    for name in ("numpy", "cpu", "cuda"):
        with capgpu.use_backend(name):
            served[name] = kernels_for(host(dtype)).name
    assert served == {"numpy": "reference", "cpu": "cpu", "cuda": "cpu"}


@pytest.mark.parametrize("dtype", ALL)
def test_device_arrays_go_to_the_devices_kernels(cupy, dtype):
    capgpu.set_backend("cuda")
    assert kernels_for(capgpu.asarray(host(dtype))).name == "cuda"


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
def test_dtypes_that_no_fused_kernel_serves_go_to_the_reference(dtype):
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
    with pytest.raises(ValueError, match="CAPGPU_KERNELS='fusion' is unknown: set it to 'fused' or 'reference'"):
        kernels_for(host())


def test_big_endian_arrays_are_computed_all_the_same():
    capgpu.set_backend("cpu")
    x, w, b = np.ones((2, 3), ">f4"), np.ones((3, 4), ">f4"), np.ones(4, ">f4")
    out, _ = affine_forward(x, w, b)
    assert out.tolist() == [[4] * 4] * 2
