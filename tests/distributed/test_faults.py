"""Ranks that die, hang or fail: the job ends with the cause, and is resumed from its state with any number of ranks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capgpu.training.history import read_history
from capgpu.training.state import load_state

from .conftest import REPOSITORY, find_mpiexec, rank_environment

TESTS = Path(__file__).parents[1]
NOT_FINITE = """
import math, sys
from tiny_captioner import TinyCaptioner, dataset
import capgpu
from capgpu.distributed import communicator
model = TinyCaptioner()
plain_loss = model.loss
def loss(features, captions, **options):
    value, grads = plain_loss(features, captions, **options)
    return value * (math.nan if communicator().rank == 1 and model.calls == 4 else 1), grads
model.loss = loss
solver = capgpu.CaptioningSolver(model, dataset(), batch_size=5, num_epochs=1, verbose=False, seed=0)
try:
    solver.train()
except FloatingPointError as error:
    sys.stdout.write(f"{solver.step} {str(error).partition(':')[0]}\\n")
"""


def test_a_loss_that_is_not_finite_names_the_rank(ranks):
    result = ranks(2, code=NOT_FINITE, PYTHONPATH=f"{REPOSITORY}:{TESTS}")
    assert result.stdout.splitlines() == ["3 the loss of step 4 is nan on rank 1"] * 2, result.stderr


def test_an_error_of_all_ranks_is_printed_once_and_one_of_a_single_rank_is_named(ranks, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    result = ranks(2, "-m", "capgpu", "train", str(tmp_path / "other"), "--epochs", "1")
    assert result.returncode == 2
    assert result.stderr.count("capgpu: error:") == 1
    assert "expected a run folder or a new folder, got other files" in result.stderr
    code = """
    import sys
    from capgpu.cli import main
    from capgpu.distributed import communicator
    from capgpu.errors import InvalidValueError

    def fail(name):
        raise InvalidValueError("no data on this machine")

    if communicator().rank == 1:
        sys.modules["capgpu.cli.train"].open_dataset = fail
    sys.argv = ["capgpu", "train", sys.argv[1]]
    main()
    """
    result = ranks(2, str(tmp_path / "run"), code=code)
    assert result.returncode != 0
    assert "capgpu: rank 1 of 2: error: no data on this machine" in result.stderr


def test_a_rank_whose_options_are_refused_ends_the_others_which_wait_for_it(ranks, tmp_path):
    code = """
    import os, sys
    from capgpu.cli import main

    data = "no-such-folder" if os.environ["PMI_RANK"] == "1" else "emoji"
    sys.argv = ["capgpu", "train", sys.argv[1], "--data", data]
    main()
    """
    result = ranks(2, str(tmp_path / "run"), code=code)
    assert result.returncode != 0
    assert "capgpu: rank 1 of 2: error: Invalid value for '--data'" in result.stderr


DIFFERENT_RANKS = """
import sys
import capgpu
from capgpu.distributed import communicator
from distributed.training_scenarios import captioner, data, solver
ranks = communicator()
other = ranks.rank == 1

def attempt(name, given=None, model=None, **options):
    given = data() if given is None else given
    try:
        solver(captioner(data()) if model is None else model, given, **options).train()
        cause = "nothing"
    except (ValueError, FloatingPointError) as error:
        cause = " ".join(str(error).split()[:14])
    print(f"{name}: {cause}\\n", end="", flush=True)

attempt("captions", data(train=22 if other else 23))
attempt("model", model=captioner(data(), hidden_dim=8 if other else 16))
with capgpu.use_backend("cpu" if other else "numpy"):
    attempt("kernels")
attempt("validation", validate=not other)
attempt("epochs", num_epochs=3 if other else 2)
attempt("metric", metric=None if other else lambda model, data: 1.0)
attempt("folders", checkpoint=None if other else sys.argv[1], history=None if other else sys.argv[1] + "/history")
attempt("resumed", checkpoint=sys.argv[1], resume=True, history=None if other else sys.argv[1] + "/history")
if other:
    def sample(*arguments, **options):
        raise FloatingPointError

    capgpu.decode.sample = sample
attempt("drawn", self_critical=capgpu.SelfCritical(samples=2))
"""
EXPECTED = {
    "captions": "data of the split train: expected the same on all ranks, got",
    "model": "model.params: expected the same on all ranks, got",
    "kernels": "kernels: expected the same on all ranks, got ['cpu'] on rank 1 and ['reference']",
    "validation": "validate: expected the same on all ranks, got False on rank 1",
    "epochs": "num_epochs: expected the same on all ranks, got 3 on rank 1",
    "metric": "metric: expected the same on all ranks, got False on rank 1",
    "folders": "nothing",
    "resumed": "nothing",
    "drawn": "the loss of step 1 is nan on rank 1:",
}


def test_ranks_that_differ_are_named_by_all_of_them(ranks, tmp_path):
    result = ranks(2, str(tmp_path), code=DIFFERENT_RANKS, PYTHONPATH=f"{REPOSITORY}:{TESTS}", CAPGPU_RANK_TIMEOUT="5")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    for name, cause in EXPECTED.items():
        assert [line.startswith(f"{name}: {cause}") for line in lines if line.startswith(name)] == [True] * 2, lines


def test_an_environment_that_one_rank_refuses_ends_all_with_its_name(ranks, tmp_path):
    code = """
    import os, sys
    from capgpu.cli import main

    if os.environ["PMI_RANK"] == "1":
        os.environ["CAPGPU_THREADS"] = "many"
    sys.argv = ["capgpu", "train", sys.argv[1]]
    main()
    """
    result = ranks(2, str(tmp_path / "run"), code=code, timeout=30)
    assert result.returncode == 2
    assert result.stderr.count("capgpu: error: rank 1: CAPGPU_THREADS: expected a number of threads") == 1


@pytest.mark.nightly
def test_rank_0_alone_needs_the_run_that_self_critical_training_starts_from(ranks, tmp_path):
    code = """
    import os, sys
    from capgpu.cli import main

    folder, *options = sys.argv[1:]
    if os.environ.get("PMI_RANK") == "1":  # as on another machine, which has no such folder
        folder += "/missing"
        options = [option for option in options if option != "--resume"]
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    sys.argv = ["capgpu", "train", *options, "--epochs", "1", "--batch-size", "3000"]
    main()
    """
    small = ["--hidden", "4", "--wordvec", "4"]
    assert ranks(1, str(tmp_path), "start", *small, code=code).returncode == 0
    started = ["better", "--self-critical", "--from", "start", "--samples", "2"]
    result = ranks(2, str(tmp_path), *started, code=code)
    assert result.returncode == 0, result.stderr
    (tmp_path / "better" / "summary.json").unlink()
    resumed = ranks(2, str(tmp_path), "better", "--resume", code=code)
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.nightly(unless=lambda p: p.signum == signal.SIGTERM)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_is_resumed_with_another_number_of_ranks(signum, tmp_path):
    run, state = tmp_path / "run", tmp_path / "run" / "checkpoint"
    settings = ["--epochs", "8", "--hidden", "8", "--wordvec", "8", "--batch-size", "1200", "--backend", "numpy"]
    command = [sys.executable, "-m", "capgpu", "train", str(run)]
    environment = rank_environment()
    job = subprocess.Popen(
        [find_mpiexec(), "-n", "2", *command, *settings],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 120
    while not state.exists() and job.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    job.send_signal(signum)
    out, err = job.communicate(timeout=60)
    assert job.returncode != 0, out
    assert err.count("capgpu: interrupted") == 1
    assert err.count("Resume with: capgpu train") == 1
    step = load_state(state).step
    assert 1 <= step < 16
    resumed = subprocess.run(
        [find_mpiexec(), "-n", "3", *command, "--resume"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((run / "summary.json").read_text())["steps"] == 16
    kinds = [(record["kind"], record["step"]) for record in read_history(run / "history.jsonl")]
    assert [step for kind, step in kinds if kind == "epoch"] == list(range(2, 17, 2))
    assert ("start", step) in kinds


@pytest.mark.nightly(unless=lambda p: p.kills == 2)
@pytest.mark.parametrize("kills", [2, 100])
def test_killed_ranks_lose_nothing(kills):
    find_mpiexec()
    command = [sys.executable, "-m", "tools.kill_ranks", "--kills", str(kills)]
    result = subprocess.run(
        command, cwd=REPOSITORY, env=rank_environment(), capture_output=True, text=True, timeout=40 * (kills + 5)
    )
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert sum(summary[kind] for kind in ("killed", "stopped", "interrupted", "terminated")) == kills
    assert summary["slowest_end_s"] < 30
