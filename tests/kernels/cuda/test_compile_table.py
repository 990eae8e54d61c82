"""Every CUDA kernel becomes machine code for every architecture, without spilled registers.

Compiled by NVRTC, which needs neither a GPU nor a toolkit. The tests are skipped where the extra ``cuda-compile`` is
not installed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.cuda import compile_table, nvrtc, resources
from bench.cuda.compile_table import ARCHITECTURES, Job, compile_all, compile_one, jobs
from capgpu.kernels.cuda import compile
from capgpu.kernels.cuda.kernel_registry import ENTRIES, REGISTRY

#: The first test that needs the compiled kernels compiles them: minutes where all are, as at night.
pytestmark = pytest.mark.timeout(1200)

#: Turing and Hopper: the oldest, with the least shared memory, and the first with 228 KB. At night the whole matrix is
#: compiled for these two, about a minute of a processor each.
WHOLE = (75, 90)
PACKAGES = Path(compile.__file__).parent


@pytest.fixture(scope="module")
def compiler() -> nvrtc.Nvrtc:
    try:
        return nvrtc.find()
    except nvrtc.MissingCompilerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def lines(compiler: nvrtc.Nvrtc, pytestconfig: pytest.Config) -> list[compile_table.Line]:
    """Compile everything for two architectures; for the others float64, in each kernel's largest variant.

    At every run one kernel of each file: float32 for Hopper, in the largest variant. The rest is in the table, which
    `make cuda-table` makes whole, and which is held to these sources by their digest.
    """
    if pytestconfig.getoption("--nightly"):
        return compile_all([job for job in jobs() if job.architecture in WHOLE or demanding(job)])
    return compile_all(list({job.file: job for job in jobs(WHOLE[1:]) if demanding(job, "float32")}.values()))


def demanding(job: Job, dtype: str = "float64") -> bool:
    largest = {variants[-1] for variants in (entry.variants for entry in ENTRIES if entry.name in job.names)}
    return job.dtype == dtype and job.defines in largest


def test_the_compiler_knows_every_architecture_of_the_table(compiler):
    assert set(ARCHITECTURES) <= set(compiler.architectures)


def test_every_kernel_compiles_and_stays_in_registers(lines, pytestconfig):
    compiled = {line.kernel for line in lines}
    if pytestconfig.getoption("--nightly"):
        assert compiled == set(REGISTRY)
        assert {line.architecture for line in lines} == set(ARCHITECTURES)
    else:
        assert {REGISTRY[kernel].file for kernel in compiled} == {entry.file for entry in ENTRIES}
    assert [line for line in lines if line.stack or line.spill_stores or line.spill_loads] == []


def test_every_kernel_fits_its_architecture(lines):
    # 65,536 registers a multiprocessor; 48 KB of static shared memory everywhere
    for line in lines:
        assert line.registers * line.block <= 65536, line
        assert line.shared <= 48 * 1024, line


def kernels_written(source: str) -> set[str]:
    """Return the names of the kernels of a source; ``KERNEL(pass)`` is a name for each variant of a cell."""
    written = re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(KERNEL\(\w+\)|\w+)\s*\(", source)
    cell, variants = re.findall(r"#define CELL (\w+)", source), re.findall(r"#define VARIANT ?(\w*)", source)
    names = set()
    for name in written:
        pass_of_a_cell = re.fullmatch(r"KERNEL\((\w+)\)", name)
        names |= {f"{cell[0]}_{pass_of_a_cell[1]}{variant}" for variant in variants} if pass_of_a_cell else {name}
    return names


def test_the_registry_lists_every_kernel_of_the_sources_and_each_source_is_used():
    written = {
        (file.name, name) for file in PACKAGES.glob("*.cu") for name in kernels_written(compile.source(file.name))
    }
    assert written == {(entry.file, entry.name) for entry in ENTRIES}


def test_the_table_was_made_from_these_sources():
    made_from, listed = compile_table.read()
    assert made_from == compile_table.digest(), "run: make cuda-table"
    assert {(job.architecture, name, job.dtype) for job in jobs() for name in job.names} == {
        (line.architecture, line.kernel, line.dtype) for line in listed
    }


def test_the_table_lists_no_kernel_in_slow_memory():
    _, listed = compile_table.read()
    assert [line for line in listed if line.stack or line.spill_stores or line.spill_loads] == []


def test_the_table_agrees_with_this_compiler(compiler, lines):
    head = compile_table.CSV.read_text(encoding="utf-8").splitlines()[0]
    if f"NVRTC {compiler.version}," not in head:
        pytest.skip(f"the table is of another compiler than {compiler.version}: {head}")
    _, listed = compile_table.read()
    assert set(lines) <= set(listed)


GOOD = 'extern "C" __global__ void good(float* x) { x[threadIdx.x] += 1.0f; }'
LOCAL = """extern "C" __global__ void local(float* x, const int* where, int n) {
    float kept[64];
    for (int i = 0; i < 64; ++i) kept[i] = x[i];
    for (int i = 0; i < n; ++i) kept[where[i] & 63] += kept[where[i + 1] & 63];
    for (int i = 0; i < 64; ++i) x[i] = kept[i];
}"""
SPILLING = """extern "C" __global__ void __launch_bounds__(1024) spilling(float* x) {
    float kept[96];
#pragma unroll
    for (int i = 0; i < 96; ++i) kept[i] = x[threadIdx.x + 1024 * i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 96; ++i) x[threadIdx.x * 96 + i] = kept[95 - i] * kept[i] - kept[i * 29 % 96];
}"""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_local_arrays_and_spills_are_seen(compiler, architecture):
    text = "\n".join((GOOD, LOCAL, SPILLING))
    found = resources.parse(compiler.compile(text, ("-std=c++17",), architecture).log)
    assert (found["good"].stack, found["good"].spill_stores, found["good"].spill_loads) == (0, 0, 0)
    assert found["local"].stack >= 256
    assert found["spilling"].spill_stores > 0
    assert found["spilling"].spill_loads > 0


@pytest.mark.parametrize(("header", "kind"), [("cuda_fp16.h", "__half"), ("cuda_bf16.h", "__nv_bfloat16")])
def test_headers_of_the_half_types_are_found(compiler, header, kind):
    text = f'#include <{header}>\nextern "C" __global__ void k({kind}* x) {{ x[0] = {kind}(float(x[1]) + 1.0f); }}'
    assert resources.parse(compiler.compile(text, (), 75).log)["k"].registers > 0


def test_shared_memory_is_read_from_the_log(compiler):
    text = (
        'extern "C" __global__ void k(float* x) { __shared__ float s[96]; s[threadIdx.x] = x[threadIdx.x];'
        " __syncthreads(); x[threadIdx.x] = s[95 - threadIdx.x]; }"
    )
    found = resources.parse(compiler.compile(text, (), 90).log)["k"]
    assert (found.shared, found.barriers) == (384, 1)


def test_an_invalid_source_raises_with_the_compilers_log(compiler):
    with pytest.raises(nvrtc.CompilationFailedError, match=r"sm_86.*-DREAL=float(.|\n)*undefined"):
        compiler.compile('extern "C" __global__ void k(float* x) { x[0] = undefined; }', ("-DREAL=float",), 86)


def test_a_kernel_missing_from_its_source_is_named(compiler, monkeypatch):
    entry = ENTRIES[0]
    monkeypatch.setattr(compile_table, "source", lambda file: GOOD)
    with pytest.raises(ValueError, match=f"has no kernel .*{entry.name}"):
        compile_one(Job(entry.file, entry.dtypes[0], entry.variants[0], 75))


def test_a_log_of_unknown_format_is_refused():
    with pytest.raises(ValueError, match="no entry point"):
        resources.parse("")
    with pytest.raises(ValueError, match="unknown format"):
        resources.parse("ptxas info : Compiling entry function 'k' for 'sm_90'\nptxas info : all well")
