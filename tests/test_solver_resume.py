"""Stopping and going on: a run in pieces has the bits of a run in one, whatever stopped it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_captioner import TinyCaptioner, dataset

import capgpu
from capgpu.checkpoint import CheckpointError
from capgpu.model import CaptioningRNN
from capgpu.solver import CaptioningSolver
from capgpu.training.history import read_history
from capgpu.training.state import STATE_FILE
from oracles.snapshots import frozen

pytestmark = pytest.mark.usefixtures("sigint_is_not_ignored")

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def on_the_host() -> None:
    capgpu.set_backend("numpy")


def solver(model: Any = None, **settings: Any) -> CaptioningSolver:
    defaults: dict[str, Any] = {
        "update_rule": "adam",
        "optim_config": {"learning_rate": 0.05},
        "lr_decay": 0.9,
        "batch_size": 5,
        "num_epochs": 5,
        "print_every": 3,
        "verbose": False,
        "seed": 7,
        "schedule": "cosine",
        "warmup": 3,
        "clip_norm": 2.0,
    }
    return CaptioningSolver(model or TinyCaptioner(), dataset(), **(defaults | settings))


def trained(**settings: Any) -> CaptioningSolver:
    trainer = solver(**settings)
    trainer.train()
    return trainer


def outcome(trainer: CaptioningSolver) -> Any:
    return {
        "params": frozen(trainer.model.params),
        "configs": frozen(trainer.optim_configs),
        "losses": trainer.loss_history,
        "val": trainer.val_loss_history,
        "best": (trainer.best_epoch, frozen(trainer.best_params)),
        "position": (trainer.step, trainer.epoch),
    }


def call_of(step: int) -> int:
    """Return which call of `loss` makes a step, from 0: an epoch has 4 of them, and 2 of validation."""
    return step + 2 * (step // 4)


def interrupts_at(call: int) -> Any:
    """Return a hook that sends SIGINT to this process during one call of `loss`."""
    return lambda number: signal.raise_signal(signal.SIGINT) if number == call else None


def train_until_interrupted(trainer: CaptioningSolver) -> None:
    """Train until Ctrl-C, which is passed on once the state is saved: a notebook must not go on to its next cell."""
    with pytest.raises(KeyboardInterrupt, match=r"after step \d+; train\(\) continues from there"):
        trainer.train()
    assert trainer.interrupted


def without_times(path: Path) -> list[dict[str, Any]]:
    lines = [line for line in read_history(path) if line["kind"] in ("step", "epoch")]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]


# --- resuming ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["sgd", "sgd_momentum", "rmsprop", "adam", "adamw"])
def test_a_run_resumed_after_an_epoch_has_the_bits_of_one_that_never_stopped(tmp_path: Path, rule: str) -> None:
    whole = solver(update_rule=rule, schedule="constant")
    whole.train()
    solver(update_rule=rule, schedule="constant", num_epochs=2, checkpoint=tmp_path).train()
    resumed = solver(update_rule=rule, schedule="constant", checkpoint=tmp_path, resume=True, seed=None)
    assert resumed.epoch == 2
    resumed.train()
    assert outcome(resumed) == outcome(whole)


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("cell_type", ["rnn", "lstm"])
def test_a_captioner_with_dropout_stopped_within_an_epoch_resumes_with_the_same_bits(
    backend: Any, cell_type: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model() -> CaptioningRNN:
        words = dataset()["word_to_idx"]
        return CaptioningRNN(words, 6, 5, 8, cell_type, seed=1, feature_dropout=0.2, output_dropout=0.3)

    # all steps ask a model for these; one of another class would not be trained by CUDA graphs
    loss_inputs, calls = CaptioningRNN.loss_inputs, []

    def interrupted(self: CaptioningRNN, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        return loss_inputs(self, *args)

    whole = solver(model())
    whole.train()
    first = solver(model(), checkpoint=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(CaptioningRNN, "loss_inputs", interrupted)
        train_until_interrupted(first)
    assert (first.interrupted, first.step, first.epoch) == (True, 7, 1)
    resumed = solver(model(), checkpoint=tmp_path, resume=True)
    assert (resumed.step, resumed.epoch) == (7, 1)
    resumed.train()
    assert outcome(resumed) == outcome(whole)


@pytest.mark.parametrize("step", [0, 2, 5, 19])
def test_minibatches_grouped_by_length_are_the_same_after_resuming(step: int, tmp_path: Path) -> None:
    whole = trained(group_by_length=True)
    assert outcome(whole) != outcome(trained())
    train_until_interrupted(
        solver(TinyCaptioner(before=interrupts_at(call_of(step))), group_by_length=True, checkpoint=tmp_path)
    )
    resumed = solver(group_by_length=True, checkpoint=tmp_path, resume=True)
    assert resumed.step == step + 1
    resumed.train()
    assert outcome(resumed) == outcome(whole)


def test_a_state_from_before_grouping_was_a_choice_resumes_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = solver(num_epochs=2, schedule="constant", checkpoint=tmp_path)
    with monkeypatch.context() as patch:
        patch.delitem(first._settings, "group_by_length")
        first.train()
    with pytest.raises(CheckpointError, match="group_by_length=False, this run has True"):
        solver(schedule="constant", checkpoint=tmp_path, resume=True, group_by_length=True)
    resumed = solver(schedule="constant", checkpoint=tmp_path, resume=True)
    resumed.train()
    assert outcome(resumed) == outcome(trained(schedule="constant"))


def test_resuming_without_a_state_starts_a_new_run_and_a_finished_run_stays_finished(tmp_path: Path) -> None:
    first = solver(checkpoint=tmp_path, resume=True, keep_best=True)
    first.train()
    again = solver(checkpoint=tmp_path, resume=True, keep_best=True)
    again.train()
    assert outcome(again) == outcome(first)
    assert frozen(again.model.params) == frozen(first.best_params)


def test_history_is_that_of_a_run_that_never_stopped(tmp_path: Path) -> None:
    solver(history=tmp_path / "whole.jsonl").train()
    path = tmp_path / "history.jsonl"
    train_until_interrupted(
        solver(TinyCaptioner(before=interrupts_at(call_of(6))), history=path, checkpoint=tmp_path / "state")
    )
    with path.open("a") as file:  # what a killed process may have left behind the last state
        file.write('{"kind": "step", "step": 13, "loss": 0}\n{"kind": "step", "st')
    solver(history=path, checkpoint=tmp_path / "state", resume=True).train()
    assert without_times(path) == without_times(tmp_path / "whole.jsonl")
    reasons = [line["reason"] for line in read_history(path) if line["kind"] == "end"]
    assert reasons == ["interrupted", "finished"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update_rule": "adamw"}, "update_rule='adam', this run has 'adamw'"),
        ({"optim_config": {"learning_rate": 0.1}}, "optim_config="),
        ({"batch_size": 6}, "batch_size=5"),
        ({"clip_norm": None}, "clip_norm=2.0"),
        ({"seed": 8}, "seed=7, this run has 8"),
        ({"group_by_length": True}, "group_by_length=False, this run has True"),
        (
            {"model": TinyCaptioner(dtype="float32")},
            "another model: W_proj is .*float64.* there and .*float32",
        ),
    ],
)
def test_a_state_of_another_run_is_refused_and_kept(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    solver(num_epochs=1, checkpoint=tmp_path).train()
    before = (tmp_path / STATE_FILE).read_bytes()
    model = settings.pop("model", None)
    with pytest.raises(CheckpointError, match=message):
        solver(model, checkpoint=tmp_path, resume=True, **settings)
    assert (tmp_path / STATE_FILE).read_bytes() == before


def test_a_state_trained_with_another_dropout_is_refused(tmp_path: Path) -> None:
    solver(TinyCaptioner(output_dropout=0.5), checkpoint=tmp_path, num_epochs=1).train()
    with pytest.raises(CheckpointError, match=r"trained with output_dropout=0\.5, this run has 0\.25"):
        solver(TinyCaptioner(output_dropout=0.25), checkpoint=tmp_path, resume=True)
    solver(TinyCaptioner(output_dropout=0.5), checkpoint=tmp_path, resume=True).train()


def test_a_state_trained_with_another_precision_is_refused(tmp_path: Path) -> None:
    def trainer(precision: Any, resume: bool) -> CaptioningSolver:
        model = CaptioningRNN(dataset()["word_to_idx"], 6, 4, 4, "gru", seed=0, precision=precision)
        return CaptioningSolver(
            model, dataset(), num_epochs=1, verbose=False, seed=0, checkpoint=tmp_path, resume=resume
        )

    trainer("bf16", False).train()
    with pytest.raises(CheckpointError, match="trained with precision='bf16', this run has 'float32'"):
        trainer("float32", True)
    trainer("bf16", True).train()


def test_the_best_epoch_of_a_run_resumed_with_validation_is_that_of_the_lowest_loss(tmp_path: Path) -> None:
    overfitting: Any = {"checkpoint": tmp_path, "optim_config": {"learning_rate": 0.5}, "schedule": "constant"}
    solver(num_epochs=2, validate=False, **overfitting).train()
    resumed = solver(num_epochs=8, metric=lambda model, data: 1.0, resume=True, keep_best=True, **overfitting)
    resumed.train()
    losses = np.array(resumed.val_loss_history)
    assert np.isnan(losses).tolist() == [True] * 2 + [False] * 6
    assert resumed.metric_history == [None] * 2 + [1.0] * 6
    assert (resumed.best_epoch, resumed.best_val_loss) == (int(np.nanargmin(losses)) + 1, np.nanmin(losses))
    assert resumed.best_epoch < 8


def test_an_earlier_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    solver(num_epochs=1, checkpoint=tmp_path).train()
    with pytest.raises(FileExistsError, match="resume=True"):
        solver(checkpoint=tmp_path)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    solver(num_epochs=1, checkpoint=tmp_path).train()
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=STATE_FILE):
        solver(checkpoint=tmp_path, resume=True)


def test_a_failing_metric_loses_no_epoch(tmp_path: Path) -> None:
    def fails(model: Any, data: Any) -> float:
        raise RuntimeError("no metric today")

    with pytest.raises(RuntimeError, match="no metric today"):
        solver(checkpoint=tmp_path, metric=fails).train()
    resumed = solver(checkpoint=tmp_path, resume=True)
    assert (resumed.step, resumed.epoch) == (4, 0)
    resumed.train()
    whole = solver()
    whole.train()
    assert outcome(resumed) == outcome(whole)


# --- Ctrl-C -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 3, 5, 19])
def test_the_first_interrupt_lets_the_step_finish_and_train_continues(step: int) -> None:
    trainer = solver(TinyCaptioner(before=interrupts_at(call_of(step))))
    train_until_interrupted(trainer)
    assert trainer.step == len(trainer.loss_history) == step + 1
    assert trainer.epoch == step // 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    trainer.train()
    whole = solver()
    whole.train()
    assert not trainer.interrupted
    assert outcome(trainer) == outcome(whole)


def test_an_interrupt_during_validation_ends_it_and_resuming_scores_the_epoch(tmp_path: Path) -> None:
    stopped = solver(TinyCaptioner(before=interrupts_at(call_of(3) + 1)), checkpoint=tmp_path)
    train_until_interrupted(stopped)
    assert (stopped.interrupted, stopped.step, stopped.epoch, stopped.val_loss_history) == (True, 4, 0, [])
    resumed = solver(checkpoint=tmp_path, resume=True)
    resumed.train()
    whole = solver()
    whole.train()
    assert outcome(resumed) == outcome(whole)


def test_the_second_interrupt_stops_at_once_with_consistent_parameters() -> None:
    def twice(call: int) -> None:
        if call == call_of(5):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    trainer = solver(TinyCaptioner(before=twice))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.step == 5
    trainer.model.before = None
    trainer.train()
    whole = solver()
    whole.train()
    assert outcome(trainer) == outcome(whole)


def test_a_program_that_ignores_sigint_still_ignores_it_during_training() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer = solver(TinyCaptioner(before=interrupts_at(call_of(2))))
        trainer.train()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert not trainer.interrupted
    assert trainer.epoch == 5


def test_sigterm_saves_the_state_like_an_interrupt_unless_the_program_has_a_handler(tmp_path: Path) -> None:
    def terminate(number: int) -> None:
        if number == call_of(5):
            signal.raise_signal(signal.SIGTERM)

    received: list[int] = []
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        trainer = solver(TinyCaptioner(before=terminate), checkpoint=tmp_path)
        train_until_interrupted(trainer)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, lambda signum, frame: received.append(signum))
        other = solver(TinyCaptioner(before=terminate))
        other.train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (trainer.step, other.interrupted, received) == (6, False, [signal.SIGTERM])
    resumed = solver(checkpoint=tmp_path, resume=True)
    resumed.train()
    assert outcome(resumed) == outcome(other)


def test_training_works_outside_the_main_thread() -> None:
    trainer = solver()
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.epoch == 5


SLOW_RUN = """
import signal, sys, time
import capgpu
capgpu.set_backend("numpy")
signal.signal(signal.SIGINT, signal.default_int_handler)
from tiny_captioner import TinyCaptioner, dataset
from capgpu.solver import CaptioningSolver

delay = float(sys.argv[2])

def wait(call):
    print("in loss", flush=True)
    time.sleep(delay)

trainer = CaptioningSolver(
    TinyCaptioner(before=wait), dataset(), "adam", {"learning_rate": 0.05}, 0.9, 5, 5, 1,
    seed=7, clip_norm=2.0, checkpoint=sys.argv[1], resume=True,
)
try:
    trainer.train()
except KeyboardInterrupt:
    if not trainer.interrupted:
        raise
    print("interrupted", trainer.step, flush=True)
"""


def run(folder: Path, delay: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW_RUN, str(folder), str(delay)]
    return subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"{words!r} did not come: {process.stderr.read() if process.stderr else ''}")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_process_stopped_by_a_signal_resumes_with_the_same_bits(tmp_path: Path, how: signal.Signals) -> None:
    with run(tmp_path, 0.05) as process:
        read_until(process, "(Iteration 7 / 20)")
        process.send_signal(how)
        out, err = process.communicate()
    if how == signal.SIGINT:
        assert process.returncode == 0, err
        assert "train() continues from there" in out
        assert "interrupted" in out.splitlines()[-1]
    settings: dict[str, Any] = {"schedule": "constant", "warmup": 0, "print_every": 1}
    resumed = solver(checkpoint=tmp_path, resume=True, **settings)
    assert resumed.step >= 7 if how == signal.SIGINT else resumed.step in (4, 8, 12, 16)
    resumed.train()
    whole = solver(**settings)
    whole.train()
    assert outcome(resumed) == outcome(whole)


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    with run(tmp_path, 60.0) as process:  # the step at hand would take a minute
        read_until(process, "in loss")
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in err
    assert process.returncode == -signal.SIGINT
