"""What a launch is refused for: arguments, sources, names, and faults with their place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from simulators.emulator import build
from simulators.emulator.arguments import KernelArgumentError
from simulators.emulator.recording import run_again
from simulators.emulator.runner import KernelFaultError, Order

SCALE = """
#define BOUND 64
struct Both { int n; float k; };
// extern "C" __global__ void commented(int x) {}
extern "C" __global__ void __launch_bounds__(BOUND * 2, 1) f(float* x, Both both, int n, double k, const __half* h) {
    __shared__ float tile[16];
    if (threadIdx.x < 16) tile[15 - threadIdx.x] = both.k * k;
    __syncthreads();
    if (threadIdx.x < n) x[threadIdx.x] *= tile[threadIdx.x];
}
"""


def both():
    value = np.zeros((), dtype=[("n", np.int32), ("k", np.float32)])
    value["n"], value["k"] = 1, 2.0
    return value


def test_arguments_are_passed_as_by_cupy(run, cupy):
    x = np.ones(4, np.float32)
    assert run(SCALE, x, both(), np.int32(3), np.float64(3), None)[0].tolist() == [6, 6, 6, 1]
    assert run(SCALE, x, both(), np.int32(3), 3.0, None)[0].tolist() == [6, 6, 6, 1]
    dev_array = cupy.asarray(np.ones(8, np.float32))
    run(SCALE, dev_array[4:].data, both(), np.int32(3), 3.0, cupy.zeros(1, np.float16))
    assert dev_array.tolist() == [1, 1, 1, 1, 6, 6, 6, 1]


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.ones(4), "pointer to floating of 4 bytes, got a pointer to floating of 8 bytes"),
        (0, np.ones(4, np.int32), "got a pointer to integer of 4 bytes"),
        (0, np.float32(1), "got a floating of 4 bytes"),
        (1, np.int32(1), "structure of 8 bytes, got a integer of 4 bytes"),
        (2, 3, "integer of 4 bytes, got a integer of 8 bytes"),
        (2, np.float32(3), "integer of 4 bytes, got a floating of 4 bytes"),
        (2, np.ones(4, np.int32), "integer of 4 bytes, got a pointer"),
        (3, np.float32(3), "floating of 8 bytes, got a floating of 4 bytes"),
        (4, np.ones(4, np.float32), "pointer to structure of 2 bytes"),
    ],
)
def test_an_argument_of_another_type_is_refused(run, position, value, message):
    args = [np.ones(4, np.float32), both(), np.int32(3), np.float64(3), None]
    args[position] = value
    with pytest.raises(KernelArgumentError, match=message):
        run(SCALE, *args)


def test_arguments_are_counted(run):
    with pytest.raises(KernelArgumentError, match="expected 5 arguments, got 4"):
        run(SCALE, np.ones(4, np.float32), both(), np.int32(3), np.float64(3))


def test_host_arrays_are_no_arguments(cupy):
    kernel = cupy.RawModule(code=SCALE).get_function("f")
    with pytest.raises(TypeError, match="of size one can be passed by value"):
        kernel((1,), (32,), (np.ones(4, np.float32), both(), np.int32(3), 3.0, None))


def test_a_kernel_has_the_attributes_of_its_source(cupy):
    kernel = cupy.RawModule(code=SCALE).get_function("f")
    assert kernel.max_threads_per_block == 128
    assert kernel.shared_size_bytes == 64
    with pytest.raises(RuntimeError, match="NOT_FOUND"):
        cupy.RawModule(code=SCALE).get_function("commented")


def test_a_source_that_does_not_compile_is_refused_with_the_log(cupy):
    module = cupy.RawModule(code='extern "C" __global__ void f(int x) { y = x; }')
    with pytest.raises(cupy.cuda.compiler.CompileException, match=r"y. was not declared"):
        module.get_function("f")
    with pytest.raises(cupy.cuda.compiler.CompileException, match="unrecognized option -funroll"):
        cupy.RawModule(code=SCALE, options=("-funroll",)).compile()


def test_macros_reach_the_source(run):
    code = 'extern "C" __global__ void f(int* x) { *x = ANSWER; }'
    assert run(code, np.zeros(1, np.int32), options=("-DANSWER=42", "-std=c++17"))[0].tolist() == [42]


def test_a_fault_names_kernel_block_thread_and_line(run):
    code = """#line 1 "mine.cu"
    extern "C" __global__ void f(float* x) {
        __shared__ float tile[8];
        tile[threadIdx.x + (blockIdx.x == 1)] = 1;
    }"""
    with pytest.raises(KernelFaultError, match="kernel f, block 1, thread 7, line 3: index 8 is out of bounds"):
        run(code, np.zeros(1, np.float32), grid=2, block=8)
    assert run('extern "C" __global__ void f(int* x) { *x = 1; }', np.zeros(1, np.int32))[0].tolist() == [1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 40) __syncthreads();", "exited while threads of its block wait|exited will not reach"),
        ("if (threadIdx.x % 32 < 9) __syncwarp(0x3ffu);", "exited while lanes of its warp wait|have exited"),
        ("if (threadIdx.x < 32) __syncthreads(); else __syncwarp(); __syncwarp();", "divergent|exited|deadlock"),
        (
            "if (threadIdx.x < 32 && threadIdx.x != 3) __syncwarp(); else __syncthreads();",
            "deadlock: waits at __syncwarp",
        ),
        ("emulated_require_cooperative();", "a grid barrier in a launch that is not cooperative"),
        ("while (emulated_load_acquire((unsigned*)x) == 0) __nanosleep(0);", "in a launch that is not cooperative"),
        ("__shfl_sync(0xfu, 1, 9);", "does not name the calling lane|from lane 9, which mask 0000000f does not name"),
        ("__shfl_sync(~0u, 1, 0, 12);", "a power of two"),
        ("if (threadIdx.x == 9) __trap();", "thread 9.*__trap"),
    ],
)
def test_deadlocks_and_undefined_behaviour_are_faults(run, body, message):
    with pytest.raises(KernelFaultError, match=message):
        run(f'extern "C" __global__ void f(int* x) {{ {body} }}', np.zeros(1, np.int32), block=64)


def test_a_deadlock_of_all_blocks_is_a_fault(run):
    code = """
    extern "C" __global__ void f(unsigned* counter) {
        if (threadIdx.x == 0) {
            atomicAdd(counter, 1u);
            while (emulated_load_acquire(counter) <= gridDim.x) __nanosleep(0);
        }
        __syncthreads();
    }"""
    with pytest.raises(KernelFaultError, match="deadlock: every block waits"):
        run(code, np.zeros(1, np.uint32), grid=5, cooperative=True)


def test_only_integers_are_added_atomically(cupy):
    module = cupy.RawModule(code='extern "C" __global__ void f(float* x) { atomicAdd(x, 1.0f); }')
    with pytest.raises(cupy.cuda.compiler.CompileException, match="atomics on floating numbers"):
        module.compile()


def test_two_that_compile_at_once_do_no_harm(tmp_path):
    code = 'extern "C" __global__ void f(int* x) { *x = 3; }'
    with ThreadPoolExecutor(4) as pool:
        paths = {*pool.map(lambda _: build.BuildCache(tmp_path).kernel(code, ()), range(4))}
    assert len(paths) == 1
    # one of each, and nothing temporary
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["header", "kernel"]


def test_other_machines_switch_stacks_through_the_c_library(record, emulator):
    # the switch written for x86-64 is not all there is
    portable = build.Variant("ucontext", build.PLAIN.kernel_flags, ("-DEMULATOR_UCONTEXT",))
    code = """
    extern "C" __global__ void f(const int* x, int* y) {
        __shared__ int tile[64];
        tile[threadIdx.x] = __shfl_down_sync(~0u, x[threadIdx.x], 1);
        __syncthreads();
        y[64 * blockIdx.x + threadIdx.x] = tile[63 - threadIdx.x];
    }"""
    recorded = record(code, np.arange(64, dtype=np.int32), np.zeros(192, np.int32), grid=3, block=64)
    orders = [Order("breadth_first"), Order("random", 4)]
    outcome = run_again(recorded, emulator.build_cache, portable, orders)
    assert outcome.finding == ""
    assert outcome.results == (recorded.result, recorded.result)
