"""The host's fused kernels beyond the contract's small shapes: blocks, tiles, shares and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

import capgpu
from capgpu.kernels.cpu import KERNELS, greedy
from capgpu.kernels.cpu.gemm import CHUNK
from capgpu.optim import UPDATE_RULES, Optimizer
from oracles.kernel_cases import KERNEL_CASES, Extents, example
from oracles.numbers import TOLERANCE, distance
from oracles.pools import MODULES, await_workers
from oracles.scenes import CELLS
from oracles.snapshots import frozen

#: Around the edges of tiles (12 rows), panels (2 vectors), strips, groups and blocks of depth.
EDGES = (1, 2, 11, 13, 31, 33, 65, 250, 257, 530)


def run(case, arguments):
    copied_arguments = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    results = getattr(KERNELS, case.operation)(**copied_arguments)
    return results if isinstance(results, tuple) else (results,)


def run_as_given(case, arguments):
    return getattr(KERNELS, case.operation)(**arguments)


def test_the_modules_with_parallel_kernels_are_found():
    names = {module.__name__.rsplit(".", 1)[1] for module in MODULES if hasattr(module, "POOL")}
    assert {"recurrence", "gemm", "softmax", "embedding"} <= names


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
def test_the_number_of_threads_changes_no_bit(shared_by, case, dtype, threads):
    for extents in (Extents((5, 4, 2), 7, 33), Extents((4,) * 13 + (2,) * 24, 40, 70)):
        arguments, expected = example(case, extents, dtype)
        shared_by(1)
        one_thread = run(case, arguments)
        pool = shared_by(threads)
        await_workers(pool)
        together = run(case, arguments)
        assert frozen(together) == frozen(one_thread)
        shared_by(threads, alone=True)
        assert frozen(run(case, arguments)) == frozen(one_thread), "the caller alone, in a pool of several"
        for actual, expected_array, kind in zip(together, expected, case.kinds, strict=True):
            assert expected_array is None or distance(actual, expected_array) < TOLERANCE[dtype][kind]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", UPDATE_RULES)
def test_the_number_of_threads_changes_no_bit_of_an_update(shared_by, rule, dtype):
    # as many as a captioner has; cut anywhere, a share would begin inside of a vector
    shapes = [(33, 70), (1,), (1024,), (4, 2063), (999,), (70, 64), (3, 3), (5000,)]
    results = []
    for threads in (1, 2, 3, 7):
        await_workers(shared_by(threads))
        random = np.random.default_rng(0)
        params = {str(k): random.standard_normal(shape).astype(dtype) for k, shape in enumerate(shapes)}
        with capgpu.use_backend("cpu"):
            optimizer = Optimizer(rule, {"learning_rate": 0.1}, params)
            for _ in range(3):
                grads = {name: random.standard_normal(array.shape).astype(dtype) for name, array in params.items()}
                optimizer.step(params, grads, clip_norm=5.0)
        results.append(frozen([params, optimizer.state_dict()]))
    assert results[1:] == results[:1] * 3


@pytest.mark.parametrize("cell_type", CELLS)
def test_the_number_of_threads_changes_no_decoded_word(shared_by, monkeypatch, cell_type):
    monkeypatch.setattr(greedy, "FEW_BYTES", 0)  # columns are shared, not captions
    monkeypatch.setattr(greedy, "WORTH_BARRIERS", 0)
    with capgpu.use_backend("cpu"):
        words = {word: i for i, word in enumerate(["<NULL>", "<START>", "<END>", *map(str, range(130))])}
        model = capgpu.CaptioningRNN(words, 33, 40, 70, cell_type, seed=0)
        features = np.random.default_rng(1).standard_normal((7, 33)).astype(np.float32)
        written = []
        for threads, one_thread in ((1, False), (3, False), (3, True)):
            pool = shared_by(threads, one_thread)
            if not one_thread:
                await_workers(pool)
            written.append(model.sample(features, 9).tolist())
    assert written[1] == written[0]
    assert written[2] == written[0]


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_any_size_agree_with_numpy(shared_by, random, dtype, transposed):
    await_workers(shared_by(2))
    extents = [(m, k, n) for m in EDGES for k in EDGES for n in EDGES]
    for m, k, n in [*random.permutation(extents)[:60].tolist(), (13, 1400, 33), (300, 641, 600), (CHUNK + 90, 20, 33)]:
        a, b = random.uniform(-1, 1, (m, k)).astype(dtype), random.uniform(-1, 1, (k, n)).astype(dtype)
        bias = random.uniform(-1, 1, n).astype(dtype)
        expected = a.astype(np.float64) @ b.astype(np.float64) + bias
        given = [np.ascontiguousarray(x.T) if t else x for x, t in zip((a, b), transposed, strict=True)]
        actual = KERNELS.matmul(*given, bias, transpose_a=transposed[0], transpose_b=transposed[1])
        assert distance(actual, expected) < TOLERANCE[dtype]["forward"], (m, k, n)


@hypothesis.given(
    sizes=strategies.tuples(*[strategies.integers(1, 70)] * 3),
    transposed=strategies.tuples(strategies.booleans(), strategies.booleans()),
)
def test_products_of_any_small_size_agree_with_numpy(sizes, transposed):
    random, (m, k, n) = np.random.default_rng(0), sizes
    a = random.uniform(-1, 1, (k, m) if transposed[0] else (m, k))
    b = random.uniform(-1, 1, (n, k) if transposed[1] else (k, n))
    expected = (a.T if transposed[0] else a) @ (b.T if transposed[1] else b)
    assert distance(KERNELS.matmul(a, b, transpose_a=transposed[0], transpose_b=transposed[1]), expected) < 1e-12


@pytest.mark.parametrize("operation", ["lstm_forward", "lstm_backward", "rnn_forward", "rnn_backward"])
def test_states_wider_than_the_depth_of_a_panel_agree_with_the_reference(operation):
    extents = Extents((3, 2), 700, 1)
    for case in KERNEL_CASES:
        if case.operation == operation:
            arguments, expected = example(case, extents, "float32")
            for actual, expected_array, kind in zip(run(case, arguments), expected, case.kinds, strict=True):
                assert expected_array is None or distance(actual, expected_array) < TOLERANCE["float32"][kind]


@pytest.mark.parametrize("rows_a_block", [1, 2, 5, 1000])
def test_the_number_of_score_blocks_does_not_change_results(monkeypatch, rows_a_block):
    from capgpu.kernels.cpu import softmax

    extents = Extents((5, 4, 2), 7, 33)
    monkeypatch.setattr(softmax, "BLOCK_BYTES", rows_a_block * 33 * 8)
    for case in KERNEL_CASES:
        if case.operation == "linear_cross_entropy":  # with masks whose rows lie in several blocks, too
            arguments, expected = example(case, extents, "float64")
            # as it is, and the transpose of a matrix, as with tied weights
            for W in (arguments["W"], arguments["W"].T.copy().T):
                for actual, expected_array in zip(run_as_given(case, {**arguments, "W": W}), expected, strict=True):
                    assert (actual is None and expected_array is None) or distance(actual, expected_array) < 1e-12


@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
def test_concurrent_calls_from_threads_are_independent(shared_by, case):
    await_workers(shared_by(3))
    sizes = [Extents((4,) * 13 + (2,) * 24, 40, 70), Extents((5, 4, 2), 7, 33), Extents((3,) * 7, 33, 3)]
    jobs = [example(case, extents, "float32")[0] for extents in sizes] * 4
    expected = [frozen(run(case, arguments)) for arguments in jobs]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda arguments: frozen(run(case, arguments)), jobs)) == expected


def test_a_call_that_fails_leaves_the_pool_usable(shared_by):
    shared_by(2)
    capgpu.set_backend("cpu")
    a = np.ones((40, 30), dtype=np.float32)
    with pytest.raises(Exception, match=r"."):
        KERNELS.matmul(a, np.array([["x"] * 5] * 30))
    assert KERNELS.matmul(a, np.ones((30, 7), dtype=np.float32)).tolist() == [[30.0] * 7] * 40
