"""Bank conflicts of the recurrences' products, counted from the addresses that the kernels' own code makes.

Shared memory has 32 banks of 4 bytes, and serves one word of each at a time. An access of 4 bytes a lane is served for
the whole warp at once, one of 8 bytes for half a warp, one of 16 bytes for a quarter, a matrix of ldmatrix (8 rows of
16 bytes) likewise; lanes that ask for the same word are served together. How often the busiest bank is asked for
different words is what such a part of an access takes.

The kernels run in the emulator, with what they load from and store to shared memory written down.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from capgpu.kernels.cuda import compile, launch_heuristics
from capgpu.kernels.cuda.constants import large_shared
from capgpu.kernels.cuda.kernel_registry import REGISTRY, Entry, compiler_options, variants_of
from capgpu.kernels.cuda.recurrence import CELLS

#: The traced kernels call the emulator.
pytestmark = pytest.mark.standin

Macros = tuple[tuple[str, int], ...]

H = 64
BANKS, BANK_BYTES, WARP = 32, 4, 32
ACCESSES = ("load", "matrices", "prepare", "copy", "put", "store", "sum")
SPACE = 2048

TRACER = f"""
static int* traced;
enum {{ {", ".join(f"TRACED_{name}" for name in ACCESSES)} }};
static void trace(int access, const volatile void* address, int bytes) {{
    for (int done = 0; done < bytes; done += 16) {{  // no instruction moves more
        int* mine = traced + (access * 256 + threadIdx.x) * {SPACE};
        if (2 * mine[0] + 3 > {SPACE}) emulator::fail(__LINE__, "too many accesses");
        int* entry = mine + 1 + 2 * mine[0]++;
        entry[0] = (int)((const volatile char*)address - (const volatile char*)emulator::dynamic_shared()) + done;
        entry[1] = bytes < 16 ? bytes : 16;
    }}
}}
"""

#: One step's product of a tile, in the block's own order: load, multiply, store, add up.
KERNEL = """
extern "C" __global__ void __launch_bounds__(THREADS, 1) trace_step(
    const real* left, const real* Wh, int* to, int H, int K, int columns, int rows) {
    DYNAMIC_SHARED(unsigned char, memory);
    traced = to;
    const Step step = {memory, Wh, H, K, 0};
    if (RESIDENT) {
        step.load_weights();
        step.wait_for_weights();
    }
    step.multiply(Rows(left, nullptr, nullptr, K, 0, 1, false).tile(0, rows), [] {});
    __syncthreads();
    for (int row = threadIdx.x / UNITS; row < min(rows, TILE_ROWS); row += THREADS / UNITS)
        for (int column = threadIdx.x % UNITS; column < columns; column += UNITS) step.sum(row, column);
}
"""

SIMT_ACCESSES = (
    ("return *reinterpret_cast<const Quad*>(address);", "load", "address", "sizeof(Quad)"),
    ("to[partial_offset<COLUMNS>(to_row, column() + COLUMN_LANES * c)] = sums[i][c];", "store",
     "&to[partial_offset<COLUMNS>(to_row, column() + COLUMN_LANES * c)]", "sizeof(acc)"),
)  # fmt: skip
TENSOR_CORE_ACCESSES = (
    ("return *reinterpret_cast<const Words<COUNT>*>(address);", "load", "address", "sizeof(Words<COUNT>)"),
    ("const int lane = threadIdx.x % 32, group = lane / 4, part = lane % 4;\n    for (int matrix", "matrices",
     "row", "threadIdx.x % 32 < 8 * COUNT ? 16 : 0"),
    ("Pack four = load_pack(at);", "prepare", "at", "sizeof(Pack)"),
    ("store_pack(at, four);", "prepare", "at", "sizeof(Pack)"),
)  # fmt: skip
BOTH = (
    ("emulated_copy_16_bytes(to, from, in_bounds);", "copy", "to", "16"),
    ("*reinterpret_cast<LoadedPack*>(to) = packs[round];", "put", "to", "sizeof(LoadedPack)"),
    ("*reinterpret_cast<Pair*>(address) = {{first, second}};", "store", "address", "sizeof(Pair)"),
    ("total += partial(warp)[partial_offset<COLUMNS>(row, column)];", "sum",
     "&partial(warp)[partial_offset<COLUMNS>(row, column)]", "sizeof(acc)"),
)  # fmt: skip


def traced_source(file: str, change: Callable[[str], str]) -> str:
    """Return a kernel's source, changed, that writes its accesses to shared memory down."""
    code = change(compile.source(file))
    for text, access, address, size in (*SIMT_ACCESSES, *TENSOR_CORE_ACCESSES, *BOTH):
        assert code.count(text) == 1, text
        code = code.replace(text, f"trace(TRACED_{access}, {address}, {size}); {text}")
    # a loop's single statement has become two
    for loop in ("for (int c = 0; c < 4; ++c) trace(", "for (int warp = 0; warp < WARPS; ++warp) trace("):
        assert code.count(loop) == 1
        line = next(line for line in code.splitlines() if loop in line)
        head, body = line.split(") trace(")
        code = code.replace(line, f"{head}) {{ trace({body} }}")
    return TRACER + code + KERNEL


def ways(access: dict[int, tuple[int, int]]) -> int:
    """Return how often the busiest bank is asked for different words in one part of a warp's access."""
    (size,) = {size for _, size in access.values()}
    lanes = WARP * BANK_BYTES // max(size, BANK_BYTES)
    words: dict[tuple[int, int], set[int]] = defaultdict(set)
    for lane, (offset, _) in access.items():
        for word in range(offset // BANK_BYTES, -(-(offset + size) // BANK_BYTES)):
            words[lane // lanes, word % BANKS].add(word)
    return max(map(len, words.values()))


def accesses(written: np.ndarray, weights: int) -> Iterator[tuple[str, dict[int, tuple[int, int]]]]:
    """Yield each access of a warp: what it is, and offset and size by lane."""
    for number, name in enumerate(ACCESSES):
        for warp in range(256 // WARP):
            accesses: dict[tuple[str, int], dict[int, tuple[int, int]]] = defaultdict(dict)
            for lane in range(WARP):
                line = written[number, warp * WARP + lane]
                n_accesses: dict[str, int] = defaultdict(int)
                for offset, size in line[1 : 1 + 2 * line[0]].reshape(-1, 2).tolist():
                    location = f"{name} {'weights' if offset >= weights else 'buffers'}" if name != "sum" else name
                    accesses[location, n_accesses[location]][lane] = (offset, size)
                    n_accesses[location] += 1
            for (location, _), access in accesses.items():
                yield location, access


def unchanged(code: str) -> str:
    return code


def conflicts(
    cupy: Any, entry: Entry, dtype: str, defines: Macros, rows: int, change: Callable[[str], str] = unchanged
) -> dict[str, int]:
    """Return the most ways of each kind of access in a step of so many rows."""
    name = "_".join(entry.name.split("_")[:2])
    access_kind, units = launch_heuristics.PASSES[name], dict(defines)["UNITS"]
    if entry.cooperative:
        config = launch_heuristics.persistent(name, dtype, H, rows, units, 1)
        real = np.dtype(dtype).itemsize
        carried = rows * units * max(real, 4) if access_kind.has_state else 0
        weights = config.shared - access_kind.depth(H) * access_kind.columns(units) * real - carried
    else:
        config = next(
            config for config in launch_heuristics.candidates(name, dtype, H, rows) if config.algorithm == "step"
        )
        weights = config.shared  # the weights are staged in the buffers
    loaded = cupy.RawModule(
        code=traced_source(entry.file, change),
        options=compiler_options(entry.file, dtype, defines, large_shared(compile.device_limits().compute_capability)),
    )
    kernel = loaded.get_function("trace_step")
    kernel.max_dynamic_shared_size_bytes = config.shared
    written = cupy.zeros((len(ACCESSES), 256, SPACE), np.int32)
    left, Wh = cupy.ones((rows, access_kind.depth(H)), dtype), cupy.ones((H, access_kind.gates * H), dtype)
    scalars = map(np.int32, (H, access_kind.depth(H), access_kind.columns(units), rows))
    kernel((1,), (config.block,), (left, Wh, written, *scalars), shared_mem=config.shared)
    ways_by_location: dict[str, int] = defaultdict(int)
    for location, access in accesses(written.get(), weights):
        ways_by_location[location] = max(ways_by_location[location], ways(access))
    return dict(ways_by_location)


ENTRIES = [entry for entry in REGISTRY.values() if entry.file in {f"{cell}.cu" for cell in CELLS}]
VARIANTS = [
    pytest.param(entry, dtype, defines, id=f"{entry.name}-{dict(defines)['UNITS']}-{dtype}")
    for entry in ENTRIES
    for dtype, defines in variants_of(entry)
    if dtype != "bfloat16"  # as float16, and NumPy has no such arrays
]


@pytest.mark.nightly(
    unless=lambda p: (
        dict(p.defines)["UNITS"] == 16
        and (p.entry.file == "rnn.cu" or (p.entry.name.startswith("gru_forward_") and p.dtype != "float64"))
    )
)
@pytest.mark.parametrize(("entry", "dtype", "defines"), VARIANTS)
def test_shared_memory_accesses_have_no_bank_conflicts(device, entry, dtype, defines):
    for rows in (4, 8, 16, 32):  # a tile of rows, and what is computed of one as sequences end
        ways_by_location = conflicts(device, entry, dtype, defines, rows)
        loads = {"matrices buffers"} if dict(defines)["TENSOR_CORES"] else {"load buffers"}
        assert loads | {"put buffers" if entry.cooperative else "copy buffers", "store buffers", "sum"} <= set(
            ways_by_location
        )
        if dtype == "float64":
            assert (
                max(ways_by_location.values()) <= 2
            )  # 8 bytes a number: twice the banks of float32 for the same layout
        else:
            # the left factor on its way in, whose rows are padded for the loads: L2 is slower than half of the banks
            assert ways_by_location.pop("put buffers" if entry.cooperative else "copy buffers") <= 2
            assert set(ways_by_location.values()) == {1}


PERMUTED = "offset ^= 8 * (line / LINES % BLOCKS);"


@pytest.mark.parametrize(
    ("dtype", "units", "kind", "expected"),
    [
        ("float32", 16, "load weights", 4),
        ("float32", 8, "load weights", 4),
        ("float32", 4, "load weights", 2),
        ("float16", 16, "matrices weights", 8),
        ("float16", 8, "matrices weights", 4),
        ("float16", 4, "matrices weights", 2),
    ],
)
def test_without_their_permutation_the_weights_are_in_the_same_banks(device, dtype, units, kind, expected):
    entry = REGISTRY["lstm_forward_tensor"]
    defines = next(defines for defines in entry.variants if ("UNITS", units) in defines)

    def plain(code: str) -> str:
        assert code.count(PERMUTED) == 1
        return code.replace(PERMUTED, "")

    assert conflicts(device, entry, dtype, defines, 16, plain)[kind] == expected


@pytest.mark.parametrize(
    ("words", "size", "expected"),
    [
        (range(32), 4, 1),
        ([0] * 32, 4, 1),
        (range(0, 64, 2), 4, 2),
        (range(0, 1024, 32), 4, 32),
        (range(0, 64, 2), 8, 1),
        (range(0, 128, 4), 8, 2),
        (range(0, 128, 4), 16, 1),
        (range(0, 512, 16), 16, 4),
        (range(32), 2, 1),
    ],
)
def test_bank_conflicts_are_counted_per_part_of_a_warp(words, size, expected):
    assert ways({lane: (4 * word, size) for lane, word in enumerate(words)}) == expected
