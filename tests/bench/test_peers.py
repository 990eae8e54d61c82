"""Every competitor computes the same step; the oracle's gradients are the slopes of its loss."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from typing import Any

import numpy as np
import pytest

from bench import stats
from bench.breakdown import PARTS, REST, parts_of_step
from bench.peers import exercise, gemm_limit
from bench.workloads import (
    CELLS,
    DROPOUT,
    FURTHER_CELLS,
    JOBS,
    PARAMETERS,
    Workload,
    make_workload,
    parse_size,
    split_job,
)
from capgpu.backend import use_backend

TINY = "S4:N=5,D=4,W=3,H=6,V=12,T=7"
JOBS_WITHOUT_DROPOUT = [job for job in JOBS if not split_job(job)[1]]


def result(module: Any, mode: str, work: Workload, job: str) -> dict[str, np.ndarray]:
    task = module.make_task(mode, work, job)
    task.build()
    for _ in range(3 if job == "adam" else 1):
        task.step()
    return {name: np.array(array) for name, array in task.result().items()}


def assert_agrees(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], job: str) -> None:
    if job.startswith("sample"):
        assert stats.disagreement(actual, expected) == 0
    else:
        assert set(actual) == set(expected)
        assert stats.worst_error(actual, expected) < (1e-3 if job == "adam" else 1e-4)


@pytest.mark.parametrize(
    ("cell", "name"), [*itertools.product(CELLS, PARAMETERS), *itertools.product(FURTHER_CELLS, ("Wx", "Wh", "b"))]
)
def test_oracle_gradients_are_slopes_of_its_loss(cell: str, name: str) -> None:
    work = make_workload(parse_size(TINY), cell)
    rng = np.random.default_rng(1)
    params = {key: rng.standard_normal(array.shape) * 0.5 for key, array in work.params.items()}
    direction = rng.standard_normal(params[name].shape)

    def loss_at(step: float) -> float:
        shifted_params = params | {name: params[name] + step * direction}
        return float(exercise.loss_and_grads(shifted_params, work.features.astype(float), work.captions, cell)[0])

    slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    _, grads = exercise.loss_and_grads(params, work.features.astype(float), work.captions, cell)
    assert float((grads[name] * direction).sum()) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("job", JOBS_WITHOUT_DROPOUT)
@pytest.mark.parametrize("cell", CELLS)
def test_exercise_in_float32_stays_float32_and_agrees(cell: str, job: str) -> None:
    work = make_workload(parse_size(TINY), cell)
    actual = result(exercise, "float32", work, job)
    assert job.startswith("sample") or all(array.dtype == np.float32 for array in actual.values())
    assert_agrees(actual, result(exercise, "float64", work, job), job)


@pytest.mark.parametrize("job", JOBS_WITHOUT_DROPOUT)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_capgpus_step_agrees_with_the_oracles(backend: str, cell: str, job: str) -> None:
    work = make_workload(parse_size("S4"), cell)
    with use_backend("numpy"):
        actual = result(importlib.import_module("bench.peers.ours"), backend, work, job)
    assert_agrees(actual, result(exercise, "float64", work, job), job)


@pytest.mark.parametrize("job", JOBS_WITHOUT_DROPOUT)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("mode", ["padded", "packed"])
def test_torchs_step_agrees_with_the_oracles(mode: str, cell: str, job: str) -> None:
    pytest.importorskip("torch")
    work = make_workload(parse_size("S4"), cell)
    actual = result(importlib.import_module("bench.peers.torch_peer"), mode, work, job)
    assert_agrees(actual, result(exercise, "float64", work, job), job)


@pytest.mark.parametrize("cell", FURTHER_CELLS)
def test_further_cells_agree_with_the_oracles(cell: str) -> None:
    pytest.importorskip("torch")
    work = make_workload(parse_size(TINY), cell)
    params = {name: array + np.float32(0.1) for name, array in work.params.items()}  # biases that are not 0
    work = dataclasses.replace(work, params=params)
    for job in ("loss", "adam"):
        expected = result(exercise, "float64", work, job)
        for module, mode in (("ours", "numpy"), ("torch_peer", "packed"), ("torch_peer", "padded")):
            with use_backend("numpy"):
                assert_agrees(result(importlib.import_module(f"bench.peers.{module}"), mode, work, job), expected, job)


@pytest.mark.parametrize("job", JOBS_WITHOUT_DROPOUT)
@pytest.mark.parametrize("cell", CELLS)
def test_jaxs_step_agrees_with_the_oracles(cell: str, job: str) -> None:
    pytest.importorskip("jax")
    work = make_workload(parse_size("S4"), cell)
    actual = result(importlib.import_module("bench.peers.jax_peer"), "scan", work, job)
    assert_agrees(actual, result(exercise, "float64", work, job), job)


@pytest.mark.parametrize(
    ("peer", "mode"),
    [
        ("ours", "cpu"),
        ("ours", "numpy"),
        *(("torch_peer", mode) for mode in ("padded", "packed")),
        ("jax_peer", "scan"),
    ],
)
def test_every_competitor_has_dropout_of_the_commands_rate_with_new_masks_at_each_step(peer: str, mode: str) -> None:
    if peer != "ours":
        pytest.importorskip(peer.removesuffix("_peer"))
    module = importlib.import_module(f"bench.peers.{peer}")
    # with one caption of one word, dropped components have zero rows in the gradients
    work = make_workload(parse_size("S4:N=1,D=2000,T=1,H=2000,V=8"), "rnn")
    with use_backend("numpy"):
        task = module.make_task(mode, work, "loss-dropout")
        dropped_by_step = []
        for _ in range(2):
            task.step()
            grads = task.result()
            dropped = [~grads["W_proj"].any(axis=1), ~grads["W_vocab"].any(axis=1)]
            for positions in dropped:
                assert abs(positions.mean() - DROPOUT) < 4 * (DROPOUT * (1 - DROPOUT) / positions.size) ** 0.5
            dropped_by_step.append(dropped)
    for first, second in zip(*dropped_by_step, strict=True):
        assert (first != second).any()


@pytest.mark.parametrize("decoder", ["greedy", "beam5"])
@pytest.mark.parametrize("cell", CELLS)
def test_torchs_captions_have_the_log_probabilities_of_ours(cell: str, decoder: str) -> None:
    pytest.importorskip("torch")
    work = make_workload(parse_size("S4"), cell)
    with use_backend("numpy"):
        actual = result(importlib.import_module("bench.peers.decoding_ours"), "numpy", work, decoder)
    expected = result(importlib.import_module("bench.peers.decoding_torch"), "eager", work, decoder)
    assert stats.worst_error(actual, expected) < 1e-4


def operations(work: Workload, variant: str) -> int:
    products = gemm_limit.training_products(work, variant, lambda rows, cols: np.empty((rows, cols), np.float32))
    for left, right, out in products:
        assert (left.shape[0], right.shape[1]) == out.shape
        assert left.shape[1] == right.shape[0]
    return sum(2 * left.shape[0] * left.shape[1] * right.shape[1] for left, right, _ in products)


@pytest.mark.parametrize("cell", CELLS)
def test_products_of_the_full_limit_are_the_steps_operations(cell: str) -> None:
    work = make_workload(parse_size(TINY), cell)
    s, gates = work.size, work.params["Wx"].shape[1]
    forward = 2 * s.N * s.D * s.H + 2 * s.N * s.T * (s.W * gates + s.H * gates + s.H * s.V)
    assert operations(work, "full") == 3 * forward - 2 * s.N * s.D * s.H


def test_packed_and_distinct_limits_have_fewer_operations() -> None:
    work = make_workload(parse_size("S4:N=64"), "lstm")
    assert operations(work, "distinct") < operations(work, "packed") < operations(work, "full")


@pytest.mark.parametrize("job", ["loss", "sample1"])
def test_repeated_steps_of_the_limit_give_the_same_values(job: str) -> None:
    task = gemm_limit.make_task("distinct-numpy", make_workload(parse_size(TINY), "lstm"), job)
    task.step()
    first_results = [np.array(out) for _, _, out in task.products]
    for _ in range(3):
        task.step()
    assert all(
        np.array_equal(out, first_out) for (_, _, out), first_out in zip(task.products, first_results, strict=True)
    )


@pytest.mark.parametrize("cell", CELLS)
def test_parts_of_a_step_are_positive_and_the_wrappers_are_removed(cell: str) -> None:
    ours = importlib.import_module("bench.peers.ours")
    captioner = importlib.import_module("capgpu.captioner")
    with use_backend("numpy"):
        task = ours.make_task("numpy", make_workload(parse_size("S4"), cell), "adam")
        original = captioner.kernels_for
        parts = parts_of_step(task.step, 2)
    assert set(parts) >= set(PARTS.values()) - {"decode step", "dropout"} | {REST}
    assert all(milliseconds > 0 for milliseconds in parts.values())
    assert captioner.kernels_for is original
