"""cuBLAS called directly: every layout and dtype against NumPy, its streams and memory, what it refuses, its header."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import re
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import compile, gemm, workspace
from capgpu.kernels.cuda import cublas as direct
from oracles.numbers import distance
from simulators import cupy_standin
from simulators.cupy_standin.cublas import Library

DTYPES = ("float16", "float32", "float64")
LAYOUTS = ("rows", "columns", "rows with gaps", "columns with gaps")
SIZES = ((5, 3, 4), (1, 7, 5), (6, 1, 4), (5, 8, 1), (1, 1, 1), (1, 6, 1), (64, 32, 48))


def laid_out(device, values, layout):
    """Bring a matrix to the device in a layout."""
    transposed, gaps = layout.startswith("columns"), layout.endswith("gaps")
    values = values.T if transposed else values
    dev_array = device.zeros((values.shape[0], values.shape[1] + 3 * gaps), values.dtype)
    dev_array = dev_array[:, 1 : 1 + values.shape[1]] if gaps else dev_array
    dev_array[...] = device.asarray(np.ascontiguousarray(values))
    return dev_array.T if transposed else dev_array


@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_equal_numpys_and_nothing_is_copied(device, dtype, left, right):
    random = np.random.default_rng(0)
    for rows, terms, columns in SIZES:
        a = random.integers(-8, 9, (rows, terms)).astype(dtype)
        b = random.integers(-8, 9, (terms, columns)).astype(dtype)
        there_a, there_b = laid_out(device, a, left), laid_out(device, b, right)
        gemm.product(device.ones((1, 1), dtype), device.ones((1, 1), dtype))  # the workspace is there
        for gaps in (0, 2):
            out = device.zeros((rows, columns + gaps), dtype)
            cupy_standin.reset_counters()
            gemm.product(there_a, there_b, out[:, :columns])
            assert cupy_standin.counters().allocations == 0, (rows, terms, columns)
            # whole numbers: all sums are exact
            np.testing.assert_array_equal(out[:, :columns].get(), a @ b)
            assert not out[:, columns:].get().any()
            transposed = device.zeros((columns, rows + gaps), dtype)[:, :rows].T
            gemm.product(there_a, there_b, transposed)
            np.testing.assert_array_equal(transposed.get(), a @ b)
        assert (gemm.product(there_a, there_b).get() == a @ b).all()


def test_matrices_with_gaps_both_ways_are_copied_first(device):
    values = np.arange(48.0).reshape(6, 8)
    dev_array = device.asarray(values)
    np.testing.assert_array_equal(
        gemm.product(dev_array[::2, ::2], dev_array[:4, ::2]).get(), values[::2, ::2] @ values[:4, ::2]
    )
    np.testing.assert_array_equal(gemm.product(dev_array[::-1], dev_array.T).get(), values[::-1] @ values.T)


def test_sums_of_halves_are_kept_in_float32(device):
    a, b = (device.ones(shape, "float16") for shape in ((1, 4096), (4096, 1)))
    b[1:] = 2**-12  # in float16, 1 + 2**-12 is 1
    assert gemm.product(a, b).get() == np.float16(1 + 4095 / 4096)


def test_reductions_in_float16_are_forbidden(device, cublas):
    x = device.ones((2, 2), "float16")
    gemm.product(x, x)
    (context,) = cublas.contexts.values()
    assert context.math_mode == 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION


def test_bfloat16_products_use_the_bfloat16_data_type(device, cublas):
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    a = np.arange(6.0, dtype=np.float32).reshape(2, 3)

    def to_device(values):
        bits = device.asarray((values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))
        return SimpleNamespace(
            shape=bits.shape,
            strides=bits.strides,
            dtype=bfloat16,
            itemsize=2,
            data=bits.data,
            size=bits.size,
            bits=bits,
        )

    out = to_device(np.zeros((2, 2)))
    direct.multiply(direct.library(), to_device(a), to_device(np.ascontiguousarray(a.T)), out)
    assert ((out.bits.get().astype(np.uint32) << 16).view(np.float32) == a @ a.T).all()
    assert cublas.products[0].types == (14, 14, 14)


def test_empty_products_are_zeros(device):
    out = device.ones((2, 3))
    assert not gemm.product(device.ones((2, 0)), device.ones((0, 3)), out).get().any()
    assert gemm.product(device.ones((0, 4)), device.ones((4, 3))).shape == (0, 3)


@pytest.mark.parametrize("columns", [3, 4])
def test_shapes_that_do_not_fit_are_refused(device, columns):
    with pytest.raises(ValueError, match=r"expected factors \(m, k\) and \(k, n\), and out \(m, n\) that is row-major"):
        gemm.product(device.ones((2, 5)), device.ones((columns, 2)))
    with pytest.raises(ValueError, match="row-major or column-major"):
        gemm.product(device.ones((2, 5)), device.ones((5, 3)), device.ones((4, 6))[::2, ::2])


def test_each_stream_has_its_own_workspace_and_handles_are_updated_only_on_changes(device, cublas, monkeypatch):
    library_calls = []
    for name in ("cublasSetStream_v2", "cublasSetWorkspace_v2"):
        function = getattr(cublas, name)
        monkeypatch.setattr(cublas, name, told_of(library_calls, name, function))
    streams = [device.cuda.Stream(non_blocking=True), device.cuda.Stream(non_blocking=True)]
    x = device.ones((4, 4))
    for stream in (*streams, streams[1], streams[0]):
        with stream:
            gemm.product(x, x)
    used = [(gemm.stream, gemm.workspace) for gemm in cublas.products]
    assert [stream for stream, _ in used] == [streams[k].ptr for k in (0, 1, 1, 0)]
    assert used[0] == used[3]
    assert used[1] == used[2]
    assert used[0][1] != used[1][1]
    assert {size for _, (_, size) in used} == {4 * 2**20}
    assert library_calls == ["cublasSetStream_v2", "cublasSetWorkspace_v2"] * 3
    assert len(cublas.contexts) == 1


def test_a_handle_configured_only_in_part_is_configured_again_before_the_next_product(device, cublas):
    x = device.ones((4, 4))
    gemm.product(x, x)
    cublas.fails["cublasSetWorkspace_v2"] = 7
    with device.cuda.Stream(non_blocking=True), pytest.raises(direct.CublasError, match="cublasSetWorkspace_v2"):
        gemm.product(x, x)
    del cublas.fails["cublasSetWorkspace_v2"]
    gemm.product(x, x)
    before, after = [(gemm.stream, gemm.workspace) for gemm in cublas.products]
    assert before == after


def told_of(library_calls, name, function):
    class Observed:
        argtypes = restype = None

        def __call__(self, *arguments):
            library_calls.append(name)
            return function(*arguments)

    return Observed()


def test_each_thread_has_a_handle_that_is_destroyed_with_it(device, cublas):
    x = device.ones((2, 2))
    gemm.product(x, x)
    handles = []

    def work():
        gemm.product(x, x)
        handles.append(len(cublas.contexts))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handles == [2]
    assert len(cublas.contexts) == 1


@pytest.mark.parametrize(("architecture", "setting", "compute"), [
    ("sm_80", "1", 77), ("sm_80", "0", 68), ("sm_80", None, 68), ("sm_75", "1", 68),
])  # fmt: skip
def test_tf32_is_used_only_if_enabled_and_available(cublas, monkeypatch, architecture, setting, compute):
    monkeypatch.delenv("CUPY_TF32", raising=False)
    if setting is not None:
        monkeypatch.setenv("CUPY_TF32", setting)
    with cupy_standin.installed(architecture=architecture) as cupy:
        compile.forget()
        for dtype in DTYPES:
            gemm.product(cupy.ones((2, 2), dtype), cupy.ones((2, 2), dtype))
        compile.forget()
        workspace.forget()
    assert [gemm.compute for gemm in cublas.products] == [68, compute, 70]


@pytest.mark.parametrize(("architecture", "compute"), [("sm_80", 75), ("sm_75", 68)])
def test_factors_are_rounded_to_bfloat16_where_there_are_such_tensor_cores(cublas, random, architecture, compute):
    a, b = (random.standard_normal((5, 5)).astype("float32") for _ in range(2))
    with cupy_standin.installed(architecture=architecture) as cupy:
        compile.forget()
        rounded, exact = (gemm.product(cupy.asarray(a), cupy.asarray(b), None, p).get() for p in ("bf16", "float32"))
        compile.forget()
        workspace.forget()
    assert [gemm.compute for gemm in cublas.products] == [compute, 68]
    assert distance(exact, a @ b) < 1e-6
    assert (distance(rounded, a @ b) > 1e-4) == (compute == 75)


def test_a_refusal_names_the_call_and_the_status(device, cublas):
    x = device.ones((2, 3), "float32")
    cublas.fails["cublasGemmEx"] = 13
    with pytest.raises(
        compile.LaunchError,
        match=r"cublasGemmEx \(\(2, 3\) by \(3, 2\), float32\) failed: CUBLAS_STATUS_EXECUTION_FAILED",
    ):
        gemm.product(x, x.T)
    cublas.fails["cublasGemmEx"] = 99
    with pytest.raises(direct.CublasError, match="failed: status 99"):
        gemm.product(x, x.T)
    del cublas.fails["cublasGemmEx"]
    assert (gemm.product(x, x.T).get() == 3).all()


def test_a_handle_that_cannot_be_made_is_an_error_and_tried_again(device, cublas):
    x = device.ones((2, 2))
    cublas.fails["cublasCreate_v2"] = 1
    with pytest.raises(
        direct.CublasError, match=r"cublasCreate_v2 failed: CUBLAS_STATUS_NOT_INITIALIZED.*smaller batch"
    ):
        gemm.product(x, x)
    del cublas.fails["cublasCreate_v2"]
    assert (gemm.product(x, x).get() == 2).all()


def test_a_forked_child_neither_creates_nor_uses_cublas_handles(device, monkeypatch):
    x = device.ones((2, 2))
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(compile, "_forked", True)
            with pytest.raises(compile.LaunchError, match="forked"):
                gemm.product(x, x)
        gemm.product(x, x)  # makes a handle


@pytest.mark.parametrize("cause", [ImportError("no cublas"), OSError("libcublas.so.13: not found"), None])
def test_without_cublas_cupy_computes_products_after_one_warning(device, monkeypatch, caplog, cause):
    def opened():
        if cause is not None:
            raise cause
        return SimpleNamespace(cublasCreate_v2=SimpleNamespace())  # lacks all others

    monkeypatch.setattr(direct, "_open", opened)
    direct.forget()
    x = device.asarray(np.arange(6.0).reshape(2, 3))
    with caplog.at_level(logging.INFO, "capgpu"):
        for _ in range(2):
            np.testing.assert_array_equal(gemm.product(x, x.T).get(), x.get() @ x.get().T)
    (entry,) = caplog.records
    assert entry.levelno == logging.INFO
    assert "CuPy computes the matrix products" in entry.getMessage()


def test_the_library_is_the_one_of_cupys_version_and_only_if_cupy_has_one(standin, monkeypatch):
    monkeypatch.undo()  # the stand-in's library is not found as a real one is
    with cupy_standin.installed():
        with pytest.raises(ImportError, match=r"cupy_backends\.cuda\.libs"):
            direct._open()
        opened = []

        class Libraries:
            """CuPy's package: it loads a library where an attribute is asked for, not where its module is imported."""

            def __getattr__(self, name):
                opened.append(name)

        packages = {"cupy_backends.cuda.libs": Libraries()}
        monkeypatch.setattr(direct, "import_module", packages.__getitem__)
        monkeypatch.setattr(direct.ctypes, "CDLL", lambda name: opened.append(name))
        direct._open()
    assert opened == ["cublas", "libcublas.so.13"]


def test_products_can_be_captured_in_a_graph_and_replayed(device, cublas):
    stream = device.cuda.Stream(non_blocking=True)
    a, out = device.ones((3, 3)), device.zeros((3, 3))
    with stream:
        gemm.product(a, a, out)  # memory is there before the capture
        stream.begin_capture()
        gemm.product(a, a, out)
        graph = stream.end_capture()
    a[...] = 2
    assert (out.get() == 3).all()
    graph.launch()
    assert (out.get() == 12).all()


def test_the_stand_in_returns_cublas_error_statuses(cublas):
    with cupy_standin.installed() as cupy:
        x = cupy.ones((4, 4), "float32")
        one, handle = ctypes.c_float(1), ctypes.c_void_p()
        assert cublas.cublasCreate_v2(ctypes.addressof(handle)) == 0

        def status(leading=4, m=4, kind=0, compute=68, address=x.data.ptr):
            place = ctypes.addressof(one)
            return cublas.cublasGemmEx(
                handle, 0, 0, m, 4, 4, place, address, kind, leading, x.data.ptr, kind, 4, place, x.data.ptr, kind, 4,
                compute, -1,
            )  # fmt: skip

        assert status() == 0
        assert status(leading=3) == 7
        assert status(m=-1) == 7
        assert status(kind=3) == 15
        assert status(compute=70) == 15
        assert status(address=x.data.ptr + 4) == 13
        assert status(leading=5) == 13


# --- the header ---------------------------------------------------------------------------------------------


def header() -> Path | None:
    """Return cublas_api.h of a toolkit or of NVIDIA's packages."""
    spec: ModuleSpec | None = importlib.util.find_spec("nvidia")
    packages = [Path(folder) / "cu13" for folder in (spec.submodule_search_locations or ())] if spec else []
    roots = [Path(os.environ[name]) for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    for root in (*roots, *packages, Path("/usr/local/cuda")):
        path = root / "include" / "cublas_api.h"
        if path.is_file():
            return path
    return None


C_TYPES = {
    "size_t": ctypes.c_size_t,
    **dict.fromkeys(
        ("int", "cublasOperation_t", "cudaDataType", "cublasComputeType_t", "cublasGemmAlgo_t"), ctypes.c_int
    ),
    **dict.fromkeys(("cublasMath_t", "cublasStatus_t"), ctypes.c_int),
    **dict.fromkeys(("cublasHandle_t", "cudaStream_t"), ctypes.c_void_p),
}


def test_prototypes_and_constants_equal_those_of_the_header():
    path = header()
    if path is None:
        pytest.skip("no cublas_api.h here: pip install nvidia-cublas, or set CUDA_PATH")
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name, (result, parameters) in direct.PROTOTYPES.items():
        declared = re.search(rf"^([\w ]+\*?) CUBLASWINAPI {name}\((.*?)\);", text, re.DOTALL | re.MULTILINE)
        assert declared, name
        assert result is (
            ctypes.c_char_p if "char*" in declared[1] else C_TYPES[declared[1].replace("CUBLASAPI", "").strip()]
        ), name
        words = [re.sub(r"\bconst\b", "", word).strip() for word in declared[2].split(",")]
        types = [ctypes.c_void_p if "*" in word else C_TYPES[word.split()[0]] for word in words]
        assert tuple(types) == parameters, name
    values = dict(re.findall(r"(CUBLAS_\w+) = (-?\d+)", text))
    assert {
        "CUBLAS_OP_N": direct._OPERATIONS[False],
        "CUBLAS_OP_T": direct._OPERATIONS[True],
        "CUBLAS_COMPUTE_32F": direct._COMPUTE_32F,
        "CUBLAS_COMPUTE_32F_FAST_16BF": direct._COMPUTE_32F_FAST_16BF,
        "CUBLAS_COMPUTE_32F_FAST_TF32": direct._COMPUTE_32F_FAST_TF32,
        "CUBLAS_COMPUTE_64F": direct._COMPUTE_64F,
        "CUBLAS_GEMM_DEFAULT": direct._GEMM_DEFAULT,
        "CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION": direct._DISALLOW_REDUCED_PRECISION_REDUCTION,
    }.items() <= {name: int(value) for name, value in values.items()}.items()


def test_the_stand_in_has_the_same_prototypes():
    library = Library()
    for name, (result, parameters) in direct.PROTOTYPES.items():
        function = getattr(library, name)
        # a callback returns a string as the address that it is
        returned = ctypes.c_void_p if result is ctypes.c_char_p else result
        assert (function.restype, tuple(function.argtypes)) == (returned, parameters), name


def test_a_model_on_the_device_computes_its_products_with_cublas(device, cublas):
    model = capgpu.model.CaptioningRNN({"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3}, 4, 3, 5, "lstm", seed=0)
    model.loss(device.ones((2, 4), "float32"), np.array([[1, 3, 2], [1, 2, 0]]))
    assert len(cublas.products) == 9
