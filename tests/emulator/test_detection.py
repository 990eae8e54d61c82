"""Small kernels, good and broken: what the emulator and the sanitizers must find, and must not."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.emulator import build
from simulators.emulator.mutations import ADDRESS, FAULT, RESULTS, THREAD, Mutation, finding

ROTATE = """
extern "C" __global__ void f(const int* x, int* y) {
    __shared__ int tile[64];
    for (int step = 0; step < 3; ++step) {
        tile[threadIdx.x] = x[threadIdx.x] + step;
        __syncthreads();  // written
        y[64 * (3 * blockIdx.x + step) + threadIdx.x] = tile[(threadIdx.x + 37) % 64];
        __syncthreads();  // read
    }
}
"""

WARP = """
extern "C" __global__ void f(const int* x, int* y) {
    __shared__ int tile[64];
    int sum = x[threadIdx.x];
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    tile[threadIdx.x] = sum + (int)threadIdx.x;
    __syncwarp();
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}
"""

DYNAMIC = """
extern "C" __global__ void f(const int* x, int* y) {
    DYNAMIC_SHARED(int, tile);
    int* mine = tile + threadIdx.x;
    *mine = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}
"""

STATIC = """
extern "C" __global__ void f(const int* x, int* y) {
    __shared__ int tile[64];
    __shared__ int other[64];
    int* mine = tile + threadIdx.x;
    int* his = other + threadIdx.x;
    *mine = x[threadIdx.x];
    *his = 1;
    __syncthreads();
    y[threadIdx.x] = mine[0] + his[0];
}
"""

ALONG = """
extern "C" __global__ void f(const float* x, float* y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const float4* packs = reinterpret_cast<const float4*>(x);
    if (4 * i < n) {
        const float4 four = packs[i];
        y[i] = four.x + four.y + four.z + four.w;
    }
}
"""

ATOMIC = """
extern "C" __global__ void f(int* total) {
    __shared__ int most;
    if (threadIdx.x == 0) most = 0;
    __syncthreads();
    atomicMax(&most, (int)threadIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(total, most);
}
"""

GRID = """
__device__ void grid_barrier(unsigned* counter, unsigned target) {
    emulated_require_cooperative();
    __syncthreads();  // before
    if (threadIdx.x == 0) {
        __threadfence();  // release
        atomicAdd(counter, 1u);
        while (*(volatile unsigned*)counter < target) __nanosleep(0);
        __threadfence();  // acquire
    }
    __syncthreads();  // after
}
extern "C" __global__ void f(int* x, int* y, unsigned* counter) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
    for (int step = 0; step < 3; ++step) {
        x[step % 2 * n + i] = i + step;
        grid_barrier(counter, gridDim.x * (step + 1));
        y[step * n + i] = x[step % 2 * n + (i + 40) % n];
    }
}
""".replace("*(volatile unsigned*)counter", "atomicAdd(counter, 0u)")


ANNOUNCE = """
extern "C" __global__ void f(unsigned* x, unsigned* y) {
    emulated_require_cooperative();
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
    emulated_store_relaxed(x + i, i + 1u);
    unsigned other;
    while ((other = emulated_load_relaxed(x + (i + 40u) % n)) == 0u) __nanosleep(0);
    y[i] = other;
}
"""


def ints(count):
    return np.arange(count, dtype=np.int32)


LAUNCHES = {
    ROTATE: ((ints(64), np.full(384, -7, np.int32)), {"block": 64, "grid": 2}),
    WARP: ((ints(64), np.full(64, -7, np.int32)), {"block": 64}),
    DYNAMIC: ((ints(64), np.full(64, -7, np.int32)), {"block": 64, "shared": 256}),
    STATIC: ((ints(64), np.full(64, -7, np.int32)), {"block": 64}),
    ALONG: ((np.ones(132, np.float32), np.zeros(33, np.float32), np.int32(132)), {"grid": 2}),
    ATOMIC: ((np.zeros(1, np.int32),), {"grid": 5, "block": 64}),
    GRID: (
        (np.full(192, -7, np.int32), np.full(288, -7, np.int32), np.zeros(1, np.uint32)),
        {"grid": 3, "cooperative": True},
    ),
    ANNOUNCE: ((np.zeros(192, np.uint32), np.zeros(192, np.uint32)), {"grid": 3, "block": 64, "cooperative": True}),
}
NAMES = {
    ROTATE: "rotate",
    WARP: "warp",
    DYNAMIC: "dynamic",
    STATIC: "static",
    ALONG: "along",
    ATOMIC: "atomic",
    GRID: "grid",
    ANNOUNCE: "announce",
}
SANITIZERS = {ADDRESS: build.ADDRESS, THREAD: build.THREAD}

MUTATIONS = [
    (ROTATE, Mutation("f", "read before all have written", "__syncthreads();  // written", "", RESULTS)),
    (ROTATE, Mutation("f", "read before all have written", "__syncthreads();  // written", "", THREAD)),
    (ROTATE, Mutation("f", "overwritten before all have read", "__syncthreads();  // read", "", RESULTS)),
    (ROTATE, Mutation("f", "overwritten before all have read", "__syncthreads();  // read", "", THREAD)),
    (ROTATE, Mutation("f", "a declared bound", "int tile[64]", "int tile[63]", FAULT)),
    (ROTATE, Mutation("f", "the last one not read", "% 64", "% 63", RESULTS)),
    (ROTATE, Mutation("f", "two blocks write the same", "3 * blockIdx.x + step", "step", THREAD)),
    (
        ROTATE,
        Mutation(
            "f", "a barrier that some skip", "__syncthreads();  // read", "if (threadIdx.x) __syncthreads();", FAULT
        ),
    ),
    (
        ROTATE,
        Mutation(
            "f",
            "two barriers for one",
            "__syncthreads();  // read",
            "if (threadIdx.x % 2) __syncthreads();\nelse __syncthreads();",
            FAULT,
        ),
    ),
    (
        ROTATE,
        Mutation(
            "f", "some exit", "__syncthreads();  // read", "if (threadIdx.x == 9) return; __syncthreads();", FAULT
        ),
    ),
    (WARP, Mutation("f", "no barrier of the warp", "__syncwarp();", "", THREAD)),
    (WARP, Mutation("f", "no barrier of the warp", "__syncwarp();", "", RESULTS)),
    (
        WARP,
        Mutation("f", "a mask without the caller", "__syncwarp();", "__syncwarp(~(1u << threadIdx.x % 32));", FAULT),
    ),
    (WARP, Mutation("f", "masks disagree", "__syncwarp();", "__syncwarp(threadIdx.x % 2 ? ~0u : ~1u);", FAULT)),
    (WARP, Mutation("f", "a mask of 31", "0xffffffffu", "0x7fffffffu", FAULT)),
    (WARP, Mutation("f", "a shuffle of some", "sum, d);", "sum, d); if (threadIdx.x == 5) return;", FAULT)),
    (WARP, Mutation("f", "a neighbour's warp", "threadIdx.x ^ 1", "threadIdx.x ^ 32", THREAD)),
    (DYNAMIC, Mutation("f", "beyond the end", "tile[63 -", "tile[64 -", ADDRESS)),
    (DYNAMIC, Mutation("f", "before the beginning", "tile[63 -", "tile[62 -", ADDRESS)),
    (
        DYNAMIC,
        Mutation("f", "unwritten", "*mine = x[threadIdx.x];", "if (threadIdx.x) *mine = x[threadIdx.x];", RESULTS),
    ),
    (STATIC, Mutation("f", "beyond the end", "= mine[0]", "= mine[1]", ADDRESS)),
    (STATIC, Mutation("f", "before the beginning", "= mine[0]", "= mine[-1]", ADDRESS)),
    (STATIC, Mutation("f", "beyond the other's end", "+ his[0]", "+ his[1]", ADDRESS)),
    (ALONG, Mutation("f", "beyond the input", "4 * i < n", "4 * i <= n", ADDRESS)),
    (ALONG, Mutation("f", "before the output", "y[i] =", "y[i - 1] =", ADDRESS)),
    (ALONG, Mutation("f", "misaligned", "(x);", "(x + 1);", FAULT)),
    (ALONG, Mutation("f", "null", "(x);", "((const float*)nullptr);", FAULT)),
    (ATOMIC, Mutation("f", "a plain write beside atomics", "atomicMax(&most, (int)threadIdx.x)", "most = 63", THREAD)),
    (ATOMIC, Mutation("f", "a plain sum", "atomicAdd(total, most)", "*total += most", THREAD)),
    (GRID, Mutation("f", "no barrier before", "__syncthreads();  // before", "", THREAD)),
    (GRID, Mutation("f", "no barrier after", "__syncthreads();  // after", "", THREAD)),
    (GRID, Mutation("f", "nothing released", "__threadfence();  // release", "", THREAD)),
    (GRID, Mutation("f", "nothing acquired", "__threadfence();  // acquire", "", THREAD)),
    (GRID, Mutation("f", "no barrier", "grid_barrier(counter, gridDim.x * (step + 1));", "__syncthreads();", RESULTS)),
    (GRID, Mutation("f", "no barrier", "grid_barrier(counter, gridDim.x * (step + 1));", "__syncthreads();", THREAD)),
    (GRID, Mutation("f", "waits for too many", "(step + 1));", "(step + 1) + 1);", FAULT)),
    (GRID, Mutation("f", "one buffer", "x[step % 2 * n + i] =", "x[n + i] =", RESULTS)),
    (ANNOUNCE, Mutation("f", "a plain store", "emulated_store_relaxed(x + i, i + 1u)", "x[i] = i + 1u", THREAD)),
    (ANNOUNCE, Mutation("f", "a plain load", "emulated_load_relaxed(x + (i + 40u) % n)", "x[(i + 40u) % n]", THREAD)),
    (ANNOUNCE, Mutation("f", "no waiting", "while ((other = emul", "if ((other = emul", RESULTS)),
    (
        ANNOUNCE,
        Mutation(
            "f", "what is announced orders nothing else", "y[i] = other", "y[i] = other; y[(i + 40u) % n] = 0u", THREAD
        ),
    ),
    (
        ANNOUNCE,
        Mutation(
            "f", "one number never comes", "emulated_store_relaxed(x + i", "if (i) emulated_store_relaxed(x + i", FAULT
        ),
    ),
    (GRID, Mutation("f", "one block stays away", "for (int step", "if (blockIdx.x == 1) return; for (int step", FAULT)),
]


@pytest.fixture(scope="module")
def recordings():
    return {}


@pytest.fixture
def recorded(request, record, recordings):
    code = request.param if isinstance(request.param, str) else request.param[0]
    if code not in recordings:
        args, settings = LAUNCHES[code]
        recordings[code] = record(code, *args, **settings)
    return recordings[code]


def skip_without(checker):
    if checker in SANITIZERS and build.missing_sanitizer(SANITIZERS[checker]):
        pytest.skip(build.missing_sanitizer(SANITIZERS[checker]))


@pytest.mark.parametrize("checker", [RESULTS, ADDRESS, THREAD])
@pytest.mark.parametrize("recorded", LAUNCHES, ids=NAMES.get, indirect=True)
def test_the_checks_report_nothing_in_a_correct_kernel(recorded, checker, emulator):
    skip_without(checker)
    assert finding(recorded, emulator.build_cache, checker) == ""


@pytest.mark.parametrize(
    ("recorded", "mutation"),
    [
        pytest.param(entry, entry[1], id=f"{NAMES[entry[0]]}-{entry[1].name}-{entry[1].caught_by}")
        for entry in MUTATIONS
    ],
    indirect=["recorded"],
)
def test_a_broken_copy_is_caught(recorded, mutation, emulator):
    skip_without(mutation.caught_by)
    assert finding(recorded, emulator.build_cache, mutation.caught_by, mutation.apply(recorded.launch.code)) != ""
