"""Training in several ranks gives what one process gives, whatever is switched on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from capgpu.backend import use_backend
from capgpu.distributed import Communicator, use_communicator

from .training_scenarios import SCENARIOS, captioner, captions_that_the_model_draws, data, run_all, solver

TESTS = Path(__file__).parents[1]
PROGRAM = str(Path(__file__).with_name("training_scenarios.py"))
NAMES = [scenario.__name__ for scenario in SCENARIOS]


def results_of(ranks, size: int) -> list[dict]:
    result = ranks(size, PROGRAM, PYTHONPATH=f"{TESTS.parent}:{TESTS}")
    assert result.returncode == 0, result.stderr
    lines = sorted((json.loads(line) for line in result.stdout.splitlines()), key=lambda line: line["rank"])
    assert [line["rank"] for line in lines] == list(range(size))
    return [line["results"] for line in lines]


@pytest.fixture(scope="module")
def alone() -> dict:
    with use_backend("numpy"):
        return run_all()


@pytest.fixture(scope="module")
def two(ranks) -> list[dict]:
    return results_of(ranks, 2)


def check_like_one_process(every_rank: list[dict], alone: dict) -> None:
    for name in NAMES:
        result, expected = every_rank[0][name], alone[name]
        assert all(other[name] == result for other in every_rank), name  # digests of parameters among them
        np.testing.assert_allclose(result["losses"], expected["losses"], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(result["rewards"], expected["rewards"], rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(result["val"], expected["val"], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(result["metric"], expected["metric"], rtol=1e-3, atol=1e-5, err_msg=name)
        assert result["end"] == expected["end"], name


def test_two_ranks_train_like_one_process(two, alone):
    check_like_one_process(two, alone)


def test_three_ranks_train_like_one_process(ranks, alone):
    check_like_one_process(results_of(ranks, 3), alone)


def test_the_same_ranks_give_the_same_bits(ranks, two):
    assert results_of(ranks, 2) == two


def test_self_critical_training_is_resumed_with_another_number_of_ranks(ranks, alone, tmp_path):
    interrupted = """
    import contextlib, signal, sys
    from distributed.training_scenarios import captions_that_the_model_draws

    def interrupt(solver, record):
        if (solver.step, solver.ranks.rank) == (5, 1):
            signal.raise_signal(signal.SIGINT)

    with contextlib.suppress(KeyboardInterrupt):
        captions_that_the_model_draws(checkpoint=sys.argv[1], step_callbacks=[interrupt]).train()
    """
    result = ranks(2, str(tmp_path), code=interrupted, PYTHONPATH=f"{TESTS.parent}:{TESTS}")
    assert result.returncode == 0, result.stderr
    with use_backend("numpy"):
        resumed = captions_that_the_model_draws(checkpoint=str(tmp_path), resume=True)
        assert resumed.step == len(resumed.reward_history) == 5
        resumed.train()
    expected = alone["captions_that_the_model_draws"]
    np.testing.assert_allclose(resumed.loss_history, expected["losses"], rtol=1e-6)
    np.testing.assert_allclose(resumed.reward_history, expected["rewards"], rtol=1e-12)


def test_the_end_of_the_first_step_alone_is_waited_for_without_limit():
    patience = []

    class Recording(Communicator):
        def start_all_reduce(self, array, *, patient=False):
            patience.append(patient)
            return super().start_all_reduce(array, patient=patient)

    with use_communicator(Recording()):
        given = data()
        solver(captioner(given), given).train()
    assert patience[:4] == [True, False, False, False]
