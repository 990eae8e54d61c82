"""What CUDA's words mean on the CPU: indices, warp operations, votes, half types, vector types."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.emulator.runner import ORDERS


def ints(count):
    return np.arange(count, dtype=np.int32)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("shuffle", "source"),
    [
        ("__shfl_sync(~0u, x, 5)", lambda lane: 5),
        ("__shfl_sync(~0u, x, threadIdx.x + 3)", lambda lane: (lane + 3) % 32),
        ("__shfl_sync(~0u, x, 5, 4)", lambda lane: lane // 4 * 4 + 1),
        ("__shfl_up_sync(~0u, x, 3)", lambda lane: lane - 3 if lane >= 3 else lane),
        ("__shfl_up_sync(~0u, x, 3, 8)", lambda lane: lane - 3 if lane % 8 >= 3 else lane),
        ("__shfl_down_sync(~0u, x, 3)", lambda lane: lane + 3 if lane + 3 < 32 else lane),
        ("__shfl_down_sync(~0u, x, 3, 8)", lambda lane: lane + 3 if lane % 8 + 3 < 8 else lane),
        ("__shfl_xor_sync(~0u, x, 6)", lambda lane: lane ^ 6),
        (
            "__shfl_xor_sync(~0u, x, 6, 4)",
            lambda lane: lane if lane // 4 != (lane ^ 6) // 4 and lane % 8 < 4 else lane ^ 6,
        ),
    ],
)
@pytest.mark.parametrize("kind", ["int", "double"])
def test_shuffles_give_the_value_of_their_source(run, in_order, order, shuffle, source, kind):
    in_order(order)
    code = f"""
    extern "C" __global__ void f(int* out) {{
        {kind} x = 100 * threadIdx.x;
        out[blockIdx.x * blockDim.x + threadIdx.x] = (int){shuffle};
    }}"""
    (out,) = run(code, ints(192), grid=3, block=64)
    expected = [100 * (thread // 32 * 32 + source(thread % 32)) for thread in range(64)]
    assert out.reshape(3, 64).tolist() == [expected] * 3


def test_votes_count_lanes_and_threads(run):
    code = """
    extern "C" __global__ void f(unsigned* out) {
        const int even = threadIdx.x % 2 == 0, first = threadIdx.x < 32;
        unsigned* mine = out + 8 * threadIdx.x;
        mine[0] = __ballot_sync(~0u, even);
        mine[1] = __any_sync(~0u, first);
        mine[2] = __all_sync(~0u, first);
        mine[3] = __syncthreads_count(even);
        mine[4] = __syncthreads_or(first);
        mine[5] = __syncthreads_and(first);
        mine[6] = threadIdx.x % 32 < 8 ? __ballot_sync(0xffu, 1) : __ballot_sync(~0xffu, threadIdx.x % 32 == 9);
        mine[7] = __popc(0xf0u) + __clz(1) + __ffs(8) + warpSize;
    }"""
    (out,) = run(code, np.zeros(512, np.uint32), block=64)
    for thread, row in enumerate(out.reshape(64, 8).tolist()):
        first = thread < 32
        expected = [0x55555555, first, first, 32, 1, 0, 0xFF if thread % 32 < 8 else 1 << 9, 4 + 31 + 4 + 32]
        assert row == expected


@pytest.mark.parametrize("block", [32, 64, 1024])
def test_thread_and_block_indices_are_those_of_cuda(run, block):
    code = """
    extern "C" __global__ void __launch_bounds__(1024) f(int* out, int scale) {
        out[blockIdx.x * blockDim.x + threadIdx.x] = scale * (gridDim.x * 10000 + blockIdx.x * 1000 + threadIdx.x);
    }"""
    (out,) = run(code, ints(3 * block), np.int32(2), grid=3, block=block)
    assert (out.reshape(3, block) == 2 * (30000 + 1000 * np.arange(3)[:, None] + np.arange(block))).all()


def test_atomics_lose_no_update_and_return_the_old_value(run):
    code = """
    extern "C" __global__ void f(int* totals, unsigned* tickets) {
        const int i = blockIdx.x * blockDim.x + threadIdx.x;
        atomicAdd(totals, 1);
        atomicSub(totals + 1, 2);
        atomicMax(totals + 2, i);
        atomicMin(totals + 3, -i);
        atomicOr(totals + 4, 1 << (i % 31));
        atomicAnd(totals + 5, ~(1 << (i % 31)));
        atomicExch(totals + 6, 9);
        if (atomicCAS(totals + 7, 0, i + 1) == 0) totals[8] = i + 1;
        tickets[atomicAdd(tickets + 512, 1u)] += 1;
    }"""
    start = np.array([0, 0, 0, 0, 0, -1, 0, 0, 0], np.int32)
    totals, tickets = run(code, start, np.zeros(513, np.uint32), grid=8, block=64)
    assert totals[:7].tolist() == [512, -1024, 511, -511, 2**31 - 1, -(2**31), 9]
    assert totals[7] == totals[8] > 0
    assert tickets.tolist() == [1] * 512 + [512]


HALVES = np.array(
    [0, -0.0, 1, -1, 1 / 3, 65504, 65519.9, 65520, 1e9, 6e-8, 2e-8, 3e-8, 6.1e-5, np.inf, -np.inf, np.nan]
)


@pytest.mark.parametrize("dtype", ["float32"])
def test_halves_are_rounded_to_nearest_even(run, dtype):
    values = np.concatenate(
        [HALVES, np.random.default_rng(0).standard_normal(2000) * 10.0 ** np.arange(-8, 2).repeat(200)]
    )
    values = np.concatenate([values, (1 + (np.arange(64) + 0.5) / 1024), np.arange(0.5, 32) * 2**-24]).astype(
        np.float32
    )
    code = """
    extern "C" __global__ void f(const float* x, __half* halves, float* back, int n) {
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            halves[i] = __float2half_rn(x[i]);
            back[i] = __half2float(halves[i]);
        }
    }"""
    empty = np.zeros(values.size, np.float16)
    _, halves, back = run(code, values, empty, values, np.int32(values.size))
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(halves, expected)
    np.testing.assert_array_equal(back, expected.astype(np.float32))
    assert (np.signbit(halves) == np.signbit(expected))[~np.isnan(expected)].all()


def test_bfloat16_is_rounded_to_nearest_even(run):
    values = np.array([0, 1, -1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-9, 3.4e38, np.inf, np.nan, 1e-40], np.float32)
    code = """
    extern "C" __global__ void f(const float* x, float* back, int n) {
        if (threadIdx.x < n) back[threadIdx.x] = __bfloat162float(__float2bfloat16_rn(x[threadIdx.x]));
    }"""
    _, back = run(code, values, np.zeros_like(values), np.int32(values.size))
    expected = [0, 1, -1, 1, 1 + 2**-6, 1, np.inf, np.inf, np.nan, 2.0**-133]
    np.testing.assert_array_equal(back, np.float32(expected))


def test_vectors_and_structures_are_laid_out_as_on_the_device(run):
    code = """
    struct Pair { const float* x; int n; };
    extern "C" __global__ void f(Pair pair, float* out) {
        static_assert(sizeof(float3) == 12 && alignof(float4) == 16 && alignof(double2) == 16, "");
        static_assert(sizeof(Pair) == 16 && alignof(int2) == 8 && alignof(double4) == 16, "");
        const float4 four = *reinterpret_cast<const float4*>(pair.x);
        if (threadIdx.x == 0) *out = four.x + 10 * four.y + 100 * four.z + 1000 * four.w + pair.n;
    }"""
    import cupy

    x = cupy.asarray(np.arange(1, 5, dtype=np.float32))
    pair = np.zeros((), dtype=[("x", np.uint64), ("n", np.int32), ("gap", np.int32)])
    pair["x"], pair["n"] = x.data.ptr, 7
    (out,) = run(code, pair, np.zeros(1, np.float32))
    assert out.tolist() == [4321 + 7]


@pytest.mark.parametrize("order", ORDERS)
def test_uninitialized_shared_memory_and_arrays_hold_nan(run, in_order, order):
    in_order(order)
    code = """
    extern "C" __global__ void f(float* out) {
        __shared__ float fixed[32];
        DYNAMIC_SHARED(float, moving);
        const int i = blockIdx.x * 64 + threadIdx.x;
        out[i] = fixed[threadIdx.x];
        out[i + 32] = moving[threadIdx.x];
        fixed[threadIdx.x] = moving[threadIdx.x] = 1;  // for the next block, which must not see it
    }"""
    (out,) = run(code, np.zeros(320, np.float32), grid=5, shared=128)
    assert np.isnan(out).all()


def sequence(run, grid, block):
    code = """
    extern "C" __global__ void f(int* order, int* taken) {
        order[atomicAdd(taken, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
    }"""
    return run(code, ints(grid * block), np.zeros(1, np.int32), grid=grid, block=block)[0].tolist()


def test_threads_and_blocks_run_in_the_order_that_is_chosen(run, in_order):
    in_order("breadth_first")
    assert sequence(run, 3, 32) == list(range(96))
    in_order("reversed")
    assert sequence(run, 3, 32) == list(range(95, -1, -1))
    in_order("random", 1)
    first = sequence(run, 3, 32)
    assert first == sequence(run, 3, 32)
    assert sorted(first) == list(range(96)) != first
    in_order("random", 2)
    assert sequence(run, 3, 32) != first


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_of_a_cooperative_launch_wait_for_each_other(run, in_order, order):
    in_order(order, 3)
    code = """
    extern "C" __global__ void f(int* x, unsigned* counter) {
        emulated_require_cooperative();
        for (int step = 1; step <= 4; ++step) {
            const int before = x[(blockIdx.x + 1) % gridDim.x];
            for (int phase = 0; phase < 2; ++phase) {
                __syncthreads();
                if (threadIdx.x == 0) {
                    emulated_add_release(counter, 1u);
                    while (emulated_load_acquire(counter) < gridDim.x * (2 * step + phase - 1)) __nanosleep(0);
                }
                __syncthreads();
                if (phase == 0 && threadIdx.x == 0) x[blockIdx.x] = before;
            }
        }
    }"""
    x, _ = run(code, ints(7), np.zeros(1, np.uint32), grid=7, cooperative=True)
    assert x.tolist() == [(i + 4) % 7 for i in range(7)]
