"""From source to launch: what is compiled and kept, and what is refused, with which words."""

from __future__ import annotations

import errno
import os
import warnings

import numpy as np
import pytest

from capgpu.kernels.cuda import compile
from capgpu.kernels.cuda.compile import KernelCompilationError, LaunchError
from capgpu.kernels.cuda.device_calls import counting, report
from capgpu.kernels.cuda.kernel_registry import REGISTRY, compiler_options


@pytest.fixture
def losses(device):
    return device.ones(5, np.float32), device.empty((), np.float32), np.int32(5), np.float64(2)


def test_a_kernel_is_compiled_once_per_process(device, losses):
    kernel = compile.kernel("sum_losses", "float32")
    assert compile.kernel("sum_losses", np.dtype(np.float32)) is kernel
    kernel(1, 256, losses)
    assert float(losses[1]) == 10


def test_sources_begin_with_the_common_header_and_line_directives():
    text = compile.source("softmax.cu")
    assert text.startswith('#line 1 "common.cuh"\n')
    assert text.index('#line 1 "softmax.cu"\n') > text.index("block_sum")


@pytest.mark.parametrize(
    ("dtype", "macros"),
    [
        ("float32", {"-DREAL=float", "-DACC=float"}),
        ("float64", {"-DREAL=double", "-DACC=double"}),
        ("float16", {"-DREAL=__half", "-DACC=float", "-DREAL_HALF"}),
        ("bfloat16", {"-DREAL=__nv_bfloat16", "-DACC=float", "-DREAL_BFLOAT16"}),
    ],
)
def test_the_storage_type_decides_the_options(dtype, macros):
    assert set(compiler_options("decode.cu", dtype, (("GATES", 4),))) == {
        *("-std=c++17", "-DGATES=4", "-DPACK_BYTES=16", "-DTHREADS=256"),
        *macros,
    }


def test_a_compilation_error_names_architecture_options_and_log(device, monkeypatch):
    compile.forget()
    monkeypatch.setattr(compile, "source", lambda file: "#error no such luck\n")
    with pytest.raises(KernelCompilationError) as error:
        compile.kernel("sum_losses", "float32")
    for words in (
        "sum_losses (softmax.cu, float32)",
        "sm_{}{}".format(*compile.device_limits().compute_capability),
        "-DREAL=float",
        "no such luck",
        "CAPGPU_KERNELS=reference",
    ):
        assert words in str(error.value)


def test_a_variant_missing_from_the_registry_is_refused(device):
    with pytest.raises(KeyError, match=r"decode_cell has no variant {'GATES': 7} of float32"):
        compile.kernel("decode_cell", "float32", GATES=7)
    with pytest.raises(KeyError, match=r"lstm_forward_tensor has no variant {.*'UNITS': 8} of float64"):
        compile.kernel("lstm_forward_tensor", "float64", BACKWARD=0, RESIDENT=1, TENSOR_CORES=1, UNITS=8)


@pytest.mark.parametrize(("grid", "block"), [(1, 33), (1, 512), (1, 0), (-1, 256), (2**31, 256)])
def test_a_launch_beyond_the_limits_is_refused(device, losses, grid, block):
    message = f"kernel sum_losses: expected blocks .*, got a grid of {grid} blocks of {block} threads"
    with pytest.raises(LaunchError, match=message):
        compile.kernel("sum_losses", "float32")(grid, block, losses)


def test_an_empty_grid_launches_nothing(device, losses):
    with counting() as launches:
        compile.kernel("sum_losses", "float32")(0, 256, losses)
    assert launches == []


def test_more_shared_memory_than_the_device_has_is_refused(device, losses):
    max_shared = compile.device_limits().shared_per_block
    kernel = compile.kernel("sum_losses", "float32")
    message = f"expected at most {max_shared} bytes of shared memory .*, got {max_shared + 1}"
    with pytest.raises(LaunchError, match=message):
        kernel(1, 256, losses, max_shared + 1)
    assert kernel.max_blocks_per_multiprocessor(256, max_shared + 1) == 0


def test_more_blocks_than_are_on_the_device_at_once_are_refused(device):
    name = next(entry.name for entry in REGISTRY.values() if entry.cooperative)
    dtype, defines = REGISTRY[name].dtypes[0], dict(REGISTRY[name].variants[0])
    kernel = compile.kernel(name, dtype, **defines)
    fit = kernel.max_blocks_per_multiprocessor(256, 0) * compile.device_limits().multiprocessors
    message = f"expected a cooperative launch of at most {fit} resident blocks, got {fit + 1} blocks"
    with pytest.raises(LaunchError, match=message):
        kernel(fit + 1, 256, ())


@pytest.mark.parametrize("setting", [None, "0"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_an_unusable_cache_folder_gives_one_warning_and_changes_no_setting(
    emulator, device, monkeypatch, losses, number, setting
):
    compile_module, calls = emulator.compile, []

    def compile_as_cupy_does(raw_module):
        calls.append(os.environ.get("CUPY_CACHE_IN_MEMORY"))
        if calls[-1] != "1":
            raise OSError(number, os.strerror(number), "/root/.cupy/kernel_cache/tmp1")
        compile_module(raw_module)

    compile.forget()
    if setting is None:
        monkeypatch.delenv("CUPY_CACHE_IN_MEMORY", raising=False)
    else:
        monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", setting)
    before = dict(os.environ)
    monkeypatch.setattr(emulator, "compile", compile_as_cupy_does)
    with pytest.warns(RuntimeWarning, match=r"cannot store compiled kernels on disk .*Set\s+CUPY_CACHE_DIR"):
        kernel = compile.kernel("sum_losses", "float32")
    kernel(1, 256, losses)
    assert float(losses[1]) == 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile.kernel("decode_cell", "float32", GATES=1)
    assert calls == [setting, "1", "1"]
    assert dict(os.environ) == before


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking with threads alive
def test_a_child_forked_after_the_first_use_gets_an_error(standin, device, losses):
    kernel = compile.kernel("sum_losses", "float32")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        output = []
        for attempt in (lambda: kernel(1, 256, losses), lambda: compile.kernel("adam", "float32")):
            try:
                attempt()
                output.append("nothing")
            except LaunchError as error:
                output.append(str(error))
        os.write(write, "|".join(output).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        words = pipe.read().split("|")
    os.waitpid(child, 0)
    assert len(words) == 2
    assert all("forked" in output and 'set_start_method("spawn")' in output for output in words)
    kernel(1, 256, losses)
    assert float(losses[1]) == 10


def test_a_child_forked_before_the_first_use_has_the_device_to_itself(standin, device, losses):
    compile.forget()
    child = os.fork()
    if child == 0:
        try:
            compile.kernel("sum_losses", "float32")(1, 256, losses)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_only_what_runs_inside_the_block_is_counted(device, losses):
    kernel = compile.kernel("sum_losses", "float32")
    with counting() as outer:
        kernel(1, 256, losses)
        with counting() as inner:
            kernel(1, 256, losses)
            report("matmul")
    kernel(1, 256, losses)
    assert (outer, inner) == (["sum_losses"], ["sum_losses", "matmul"])


def test_nothing_of_unix_is_needed_to_import_the_launchers(in_new_process, tmp_path):
    code = """
import os, sys
sys.modules["fcntl"] = None
for name in ("register_at_fork", "fork", "geteuid"):
    delattr(os, name)
import capgpu.kernels.cuda
from capgpu import kernel_cache
from capgpu.kernels.cuda.device_calls import counting, report
with kernel_cache.provided():
    print(kernel_cache.folder() == os.environ["CUPY_CACHE_DIR"])
"""
    assert in_new_process(code, HOME=str(tmp_path)).strip() == "True"
