"""What the host's kernels assume of the processor, and how few versions of a function are compiled."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from capgpu.kernels.cpu import KERNELS, compile, product, tile


def reported(monkeypatch, features, machine):
    def get():
        if features is None:
            raise RuntimeError("no features")
        return features

    monkeypatch.setattr(compile.config, "CPU_FEATURES", None)
    monkeypatch.setattr(compile.llvm, "get_host_cpu_features", get)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    return compile._features()


@pytest.mark.parametrize("machine", ["arm64", "aarch64", "ARM64"])
@pytest.mark.parametrize("features", [None, {}, {"neon": False}])
def test_a_64_bit_arm_has_neon_though_llvmlite_reports_nothing(monkeypatch, machine, features):
    assert reported(monkeypatch, features, machine) == {"neon"}
    assert compile._vector_unit() == (16, 24)


def test_reported_features_are_taken_as_they_are(monkeypatch):
    assert reported(monkeypatch, {"sve": True, "neon": False}, "aarch64") == {"sve"}
    assert reported(monkeypatch, {"avx": True, "avx512f": False}, "x86_64") == {"avx"}
    assert compile._vector_unit() == (32, 12)


def test_other_processors_get_no_feature_that_is_not_reported(monkeypatch):
    assert reported(monkeypatch, {}, "x86_64") == set()
    assert compile._vector_unit() == (16, 12)


def test_features_that_numba_is_told_are_taken(monkeypatch):
    monkeypatch.setattr(compile.config, "CPU_FEATURES", "+avx512f,-avx")
    assert compile._features() == {"avx512f"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_compile_one_version_for_each_dtype(random, dtype):
    # constants among the arguments, and addresses of two integer types, would each make versions of their own
    for transpose_a in (False, True):
        for k in (3, 5):
            a = random.standard_normal((k, 4) if transpose_a else (4, k)).astype(dtype)
            KERNELS.matmul(a, np.ones((k, 33), dtype), transpose_a=transpose_a)
    for function in (product._rows_by_panel, product.pack_panels, tile.tile):
        of_dtype = [signature for signature in function.signatures if signature[0].dtype.name == dtype]
        assert len(of_dtype) == 1, function
        assert not any("Literal" in str(kind) or str(kind) == "float64" for kind in of_dtype[0])
