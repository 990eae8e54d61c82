"""What the host's kernels assume of the processor, and how few versions of a function are compiled."""

from __future__ import annotations

import os
import platform
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from numba import types
from numba.core.postproc import PostProcessor

import capgpu
from capgpu.kernels.cpu import code_cache, compile, gemm, job_slot, late_code
from oracles.pools import MODULES


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


def test_reported_features_are_used_unchanged(monkeypatch):
    assert reported(monkeypatch, {"sve": True, "neon": False}, "aarch64") == {"sve"}
    assert reported(monkeypatch, {"avx": True, "avx512f": False}, "x86_64") == {"avx"}
    assert compile._vector_unit() == (32, 12)


def test_other_processors_get_no_feature_that_is_not_reported(monkeypatch):
    assert reported(monkeypatch, {}, "x86_64") == set()
    assert compile._vector_unit() == (16, 12)


def test_features_of_numbas_setting_are_used(monkeypatch):
    monkeypatch.setattr(compile.config, "CPU_FEATURES", "+avx512f,-avx")
    assert compile._features() == {"avx512f"}


@compile.compiled(allocates=True)
def _add(x, k):
    return x + k


@compile.compiled(allocates=True)
def _sum(x):
    return _add(x, 1) + _add(x, 2) + _add(k=x, x=True)


def test_constant_arguments_compile_no_extra_versions():
    assert _sum(5) == 6 + 7 + 6
    assert [tuple(map(str, kinds)) for kinds in _add.native_version.signatures] == [
        ("int64", "int64"),
        ("bool", "int64"),
    ]


@compile.compiled(allocates=True)
def _first(x):
    if x.size > 2:
        raise ValueError("expected at most 2, got", x.size)
    return x[0]


@numba.njit
def _of_another_package(x):
    return _first(x)


def test_exceptions_with_computed_arguments_pass_through_functions_of_other_packages():
    assert _of_another_package(np.ones(2)) == 1
    with pytest.raises(ValueError, match="expected at most 2") as caught:
        _of_another_package(np.ones(3))
    assert caught.value.args == ("expected at most 2, got", 3)


def test_functions_of_other_packages_that_call_a_symbol_are_not_kept_on_disk(tmp_path, monkeypatch):
    # in the next process, where the symbol has no address, they would end it
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    @numba.njit(cache=True)
    def waits(count):
        return job_slot.barrier(0, 0, count, 1)

    with pytest.warns(numba.NumbaWarning, match="dynamic globals"):
        assert waits(1)
    assert not list(tmp_path.rglob("*.nbc"))


OF_NUMBA = types.BaseFunction.get_call_type, PostProcessor.run


def numba_is_unchanged():
    unchanged = (types.BaseFunction.get_call_type, PostProcessor.run) == OF_NUMBA
    changeable = vars(_first.targetctx.codegen()), vars(_first.targetctx)
    return unchanged and "_library_class" not in changeable[0] and "get_abi_sizeof" not in changeable[1]


@compile.compiled(allocates=True)
def _fails(x):
    return _first(x) + x.no_attribute


@compile.compiled()
def _returned(x):
    return x, 1


@compile.compiled()
def _perhaps_returned(x):
    return x if x.size > 1 else None


@pytest.mark.parametrize("function", [_returned, _perhaps_returned])
def test_a_function_that_counts_no_references_returns_no_array(function):
    # a caller that counts them would free the array's memory
    with pytest.raises(TypeError, match="expected a function without allocations to return no array"):
        function(np.ones(2))


def test_what_is_changed_in_numba_is_restored_when_a_compilation_fails():
    assert numba_is_unchanged()
    with pytest.raises(numba.TypingError):
        _fails(np.ones(2))
    assert numba_is_unchanged()


def test_what_is_changed_in_numba_is_restored_when_the_change_is_interrupted():
    class Context:
        get_abi_sizeof = None

        def __setattr__(self, name, value):
            raise KeyboardInterrupt

        def codegen(self):
            return codegen

    codegen = SimpleNamespace()
    with pytest.raises(KeyboardInterrupt), late_code._changed(Context()):
        pass
    assert vars(codegen) == {}
    assert numba_is_unchanged()


OTHER_NUMBA = """
import logging
logging.basicConfig(level="INFO")
import numpy as np
from numba.core import typed_passes
missing = typed_passes.IRLegalization
del typed_passes.IRLegalization
from capgpu.kernels.cpu import KERNELS, front_end
typed_passes.IRLegalization = missing
print(len(front_end.PASSES), KERNELS.column_sums(np.ones((2, 3), np.float32)).tolist())
"""


def test_with_a_numba_that_lacks_a_pass_its_own_pipeline_compiles(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(capgpu.__file__).parents[1])}
    command = [sys.executable, "-c", OTHER_NUMBA]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "0 [2.0, 2.0, 2.0]\n", done.stderr
    assert "compiles kernels with all of its passes" in done.stderr


@pytest.mark.parametrize("has_names", [True, False])
def test_a_numba_without_the_private_names_generates_machine_code_as_usual(monkeypatch, has_names):
    if not has_names:
        monkeypatch.setattr(late_code, "NEEDED", (*late_code.NEEDED, "_a_name_of_another_version"))

    @compile.compiled()
    def twice(x):
        return _add(x, x)

    assert twice(4) == 8
    (result,) = twice.overloads.values()
    assert isinstance(result.library, late_code.LateLibrary) is has_names


def test_functions_of_other_packages_are_not_kept_on_disk():
    assert _add.py_func.__module__ != "capgpu.kernels.cpu.compile"
    assert type(_add._cache).__name__ == "NullCache"
    assert isinstance(gemm.pack_panels._cache, code_cache._Cache)


def test_no_two_kernels_have_one_name_on_disk():
    # some are made by one function, such as the recurrences of all cells
    kernels = {id(f): f for module in MODULES for f in vars(module).values() if hasattr(f, "py_func")}
    names = [f._cache._name for f in kernels.values() if isinstance(f._cache, code_cache._Cache)]
    assert len(names) > 50
    assert sorted(set(names)) == sorted(names)


PRODUCTS = """
import numpy as np
from capgpu.kernels.cpu import KERNELS, gemm, gemm_microkernel
for shape, transposed in (((4, 3), False), ((3, 4), True), ((5, 4), True)):
    depth = shape[0] if transposed else shape[1]
    ones = np.ones(shape, np.float32), np.ones((depth, 33), np.float32)
    assert (KERNELS.matmul(*ones, transpose_a=transposed) == depth).all()
for function in (gemm._multiply_panel, gemm.pack_panels, gemm_microkernel.tile):
    print(len(function.native_version.signatures), "float64" in str(function.native_version.signatures))
"""

#: What a product calls by a symbol; the numbers stand for float32.
BY_SYMBOL = {
    "gemm_microkernel._plain_float32": "capgpu_gemm_microkernel__plain_float32",
    "gemm_microkernel._transposed_float32": "capgpu_gemm_microkernel__transposed_float32",
    "gemm._pack_panels": "capgpu_gemm__pack_panels_0",
    "job_slot._run_job": "capgpu_job_slot__run_job_0",
}


@pytest.fixture
def multiply(tmp_path):
    """Compute products in a new process whose compiled kernels are in `tmp_path`; give what it prints."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(capgpu.__file__).parents[1])}

    def run():
        done = subprocess.run(
            [sys.executable, "-c", PRODUCTS], env=environment, capture_output=True, text=True, timeout=800, check=True
        )
        return done.stdout.splitlines()

    return run


def elf_symbols(content):
    """Whether each named symbol is defined in the object file (64 bits, little-endian) that `content` holds."""
    data = content[content.index(b"\x7fELF") :]
    (sections,), size, count = struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HH", data, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, sections + size * number) for number in range(count)]
    (_, _, _, _, start, length, strings, *_) = next(header for header in headers if header[1] == 2)
    names = data[headers[strings][4] :]
    found = {}
    for entry in range(start, start + length, 24):
        name, section = struct.unpack_from("<I2xH", data, entry)
        found[names[name : names.index(b"\0", name)].decode()] = section != 0
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads object files of Linux")
def test_a_product_compiles_one_version_of_each_part_and_its_loops_once(tmp_path, multiply):
    # constants among the arguments, and addresses of two integer types, would each make versions of their own
    assert multiply() == ["1 False"] * 3
    entries = {file.name.rpartition("-")[0]: file for file in tmp_path.rglob("*.nbc")}
    # machine code of what is called by Python or by a symbol, and of nothing else
    assert set(entries) == {"gemm._multiply", *BY_SYMBOL}
    symbols = elf_symbols(entries["gemm._multiply"].read_bytes())
    defined = {name: symbols[symbol] for name, symbol in BY_SYMBOL.items()}
    assert defined == dict.fromkeys(BY_SYMBOL, False), "functions were linked in"
    # callers from the disk, whose symbols have no address yet
    for name in ("gemm_microkernel._plain_float32", "gemm_microkernel._transposed_float32"):
        entries[name].unlink()
    assert multiply()[0] == "0 False", "everything else is loaded"
    assert entries["gemm_microkernel._plain_float32"].exists()
