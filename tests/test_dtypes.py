"""Floating dtypes by name, bfloat16 among them, and what is said where the package for it is missing."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import capgpu
from capgpu import CaptioningRNN
from capgpu.dtypes import floating_dtype, is_floating, is_half, sum_dtype, widened
from capgpu.layers import affine_forward
from capgpu.optional_deps import MissingExtraError
from capgpu.warm import warm
from oracles.halves import ALL, HALVES, sums


@pytest.mark.parametrize("dtype", ALL)
def test_names_scalar_types_and_dtypes_are_accepted(dtype):
    found = floating_dtype(dtype)
    assert found.name == dtype
    assert floating_dtype(found) is floating_dtype(found.type)
    assert is_floating(found, np)
    assert is_half(found) == (sums(dtype) != dtype)
    assert np.dtype(sum_dtype(found, np)) == sums(dtype)
    assert widened(np.ones(3, found)).dtype == sums(dtype)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "U3", [("x", "f4")]])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match=r"dtype: expected a floating dtype such as numpy\.float32, got"):
        floating_dtype(dtype)


@pytest.mark.parametrize("dtype", [None, "float33", 4])
def test_what_names_no_dtype_is_refused(dtype):
    for call in (floating_dtype, lambda dtype: CaptioningRNN({"<NULL>": 0}, dtype=dtype), warm):
        with pytest.raises(TypeError, match=rf"dtype: expected a dtype such as numpy\.float32, got {dtype!r}"):
            call(dtype)


def test_bfloat16_without_its_package_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    capgpu.set_backend("numpy")
    for call in (lambda: CaptioningRNN({"<NULL>": 0}, dtype="bfloat16"), lambda: capgpu.asarray([1.0], "bfloat16")):
        with pytest.raises(MissingExtraError, match=r"dtype bfloat16 needs .* pip install 'ml-dtypes"):
            call()


@pytest.mark.parametrize("dtype", HALVES)
def test_two_half_types_are_not_mixed_with_another_dtype(backend, dtype):
    if backend.name == "strict":
        pytest.skip("the array API standard has no half types")
    x, w, b = (backend.asarray(np.ones(shape, dtype)) for shape in ((2, 3), (3, 4), 4))
    assert str(affine_forward(x, w, b)[0].dtype) == dtype
    with pytest.raises(TypeError, match=rf"w: expected dtype {dtype}, as x, got float32"):
        affine_forward(x, backend.asarray(np.ones((3, 4), "float32")), b)
