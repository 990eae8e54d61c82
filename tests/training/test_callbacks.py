"""Callbacks after steps and epochs, stopping early, gradients in parts, and parameters with rates of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_captioner import TinyCaptioner, dataset

import capgpu
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.solver import CaptioningSolver
from capgpu.training.callbacks import EarlyStopping
from oracles.snapshots import frozen


@pytest.fixture(autouse=True)
def on_the_host() -> None:
    capgpu.set_backend("numpy")


def solver(model: Any = None, data: Any = None, **settings: Any) -> CaptioningSolver:
    defaults: dict[str, Any] = {"batch_size": 5, "num_epochs": 6, "verbose": False, "seed": 7, "update_rule": "adam"}
    return CaptioningSolver(model or TinyCaptioner(), data or dataset(), **(defaults | settings))


def outcome(trainer: CaptioningSolver) -> Any:
    best = trainer.best_epoch, frozen(trainer.best_params)
    return frozen(trainer.model.params), trainer.loss_history, trainer.val_loss_history, trainer.step, best


def test_step_callbacks_are_called_after_each_update_with_both_units_of_the_loss() -> None:
    seen: list[dict[str, Any]] = []
    trainer = solver(num_epochs=2, step_callbacks=[lambda _, record: seen.append(dict(record))])
    trainer.train()
    assert [(record["step"], record["epoch"]) for record in seen] == [(i + 1, i // 4 + 1) for i in range(8)]
    assert [record["loss"] for record in seen] == trainer.loss_history
    words = int((trainer.data["train_captions"][:, 1:] != 0).sum())
    sizes = [6, 6, 6, 5]  # 23 captions, dealt out to four minibatches
    tokens = [n * record["loss"] / record["train_loss"] for n, record in zip(sizes, seen[:4], strict=True)]
    assert sum(tokens) == pytest.approx(words)
    plain = solver(num_epochs=2)
    plain.train()
    assert outcome(plain) == outcome(trainer)


@pytest.mark.parametrize("step", [3, 4, 6])
def test_a_stopped_run_is_finished_also_when_it_is_resumed_and_trains_on_when_asked(step: int, tmp_path: Path) -> None:
    def stop(trainer: CaptioningSolver, record: Any) -> None:
        if record["step"] == step:
            trainer.stop()

    trainer = solver(step_callbacks=[stop], checkpoint=tmp_path, keep_best=True, history=tmp_path / "h.jsonl")
    trainer.train()
    assert (trainer.stopped, trainer.interrupted, trainer.step, trainer.epoch) == (True, False, step, step // 4)
    assert '"reason": "stopped"' in (tmp_path / "h.jsonl").read_text()
    resumed = solver(checkpoint=tmp_path, keep_best=True, resume=True)
    resumed.train()
    assert outcome(resumed) == outcome(trainer)
    assert resumed.stopped
    resumed.train()
    assert (resumed.stopped, resumed.epoch) == (False, step // 4 + 6)


def test_early_stopping_waits_for_its_patience_and_a_killed_run_stops_in_the_same_epoch(tmp_path: Path) -> None:
    def losses(scores: list[float]) -> Any:
        def score(model: Any, data: Any) -> dict[str, float]:
            if not scores:
                raise RuntimeError("killed")
            return {"CIDEr": scores.pop(0)}

        return score

    settings: dict[str, Any] = {"num_epochs": 9, "callbacks": [EarlyStopping(2, monitor="CIDEr", min_delta=0.05)]}
    whole = solver(metric=losses([0.1, 0.5, 0.52, 0.3, 0.9]), **settings)
    whole.train()
    assert (whole.epoch, whole.stopped) == (4, True)
    killed = solver(metric=losses([0.1, 0.5, 0.52]), checkpoint=tmp_path, **settings)
    with pytest.raises(RuntimeError, match="killed"):
        killed.train()
    resumed = solver(metric=losses([0.3, 0.9]), checkpoint=tmp_path, resume=True, **settings)
    resumed.train()
    assert outcome(resumed) == outcome(whole)


def test_a_run_killed_before_early_stopping_was_asked_stops_in_the_same_epoch(tmp_path: Path) -> None:
    def kill(trainer: CaptioningSolver, record: Any) -> None:
        if record["epoch"] == 3:
            raise KeyboardInterrupt  # nothing is saved, as after a kill

    settings: dict[str, Any] = {"metric": lambda model, data: 0.5, "keep_best": True}
    early_stopping = EarlyStopping(2, monitor="metric")
    whole = solver(callbacks=[early_stopping], **settings)
    whole.train()
    assert (whole.epoch, whole.stopped) == (3, True)
    with pytest.raises(KeyboardInterrupt):
        solver(callbacks=[kill, early_stopping], checkpoint=tmp_path, **settings).train()
    resumed = solver(callbacks=[early_stopping], checkpoint=tmp_path, resume=True, **settings)
    resumed.train()
    assert outcome(resumed) == outcome(whole)
    assert resumed.stopped


@pytest.mark.parametrize(
    ("scores", "settings", "since"),
    [
        ([3.0, 2.0, 2.5, math.nan, 2.1], {}, 3),
        ([3.0, 2.0, 1.99], {"min_delta": 0.1}, 1),
        ([0.1, None, 0.2], {"mode": "max"}, 0),
        ([math.nan], {}, 1),
    ],
)
def test_early_stopping_counts_the_epochs_since_the_best(
    scores: list[float | None], settings: dict[str, Any], since: int
) -> None:
    assert EarlyStopping(9, **settings).epochs_since_best(scores) == since


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStopping(0), "patience: expected at least 1"),
        (lambda: EarlyStopping(1, min_delta=-1), "min_delta"),
        (lambda: EarlyStopping(1, mode="most"), "mode: expected 'min' or 'max'"),
        (lambda: solver(data=dataset(val=0), callbacks=[EarlyStopping(1)]), "expected a solver that validates"),
        (lambda: solver(callbacks=[EarlyStopping(1, monitor="x")]), "expected a solver with a metric for 'x'"),
        (lambda: solver(frozen=["W_prj"]), "frozen: expected .* got 'W_prj'. Did you mean 'W_proj'"),
        (lambda: solver(frozen=["W_proj", "b_vocab"]), "expected some parameters to train"),
        (lambda: solver(param_config={"b": {}}), "param_config: expected parameters of W_proj, b_vocab, got 'b'"),
        (lambda: solver(param_config={"b_vocab": {"rate": 1}}), "expected config entries among .*, got 'rate'"),
        (lambda: solver(param_config={"b_vocab": {"t": 1}}), "expected hyper-parameters, got the state t"),
        (lambda: solver(micro_batch_size=0), "micro_batch_size: expected at least 1"),
    ],
)
def test_invalid_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_frozen_parameters_do_not_change_and_others_have_their_own_rates(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"update_rule": "sgd", "optim_config": {"learning_rate": 0.1}, "clip_norm": 0.5}
    model = TinyCaptioner()
    before = frozen(model.params["W_proj"])
    trainer = solver(model, frozen=["W_proj"], param_config={"b_vocab": {"learning_rate": 0.4}}, **settings)
    bias = model.params["b_vocab"].copy()
    trainer._step()
    assert frozen(model.params["W_proj"]) == before
    step = np.linalg.norm(model.params["b_vocab"] - bias)
    assert step == pytest.approx(0.4 * 0.5)  # the norm of what is trained is clipped
    assert trainer._learning_rate() == 0.1
    special: dict[str, Any] = {"frozen": ["W_proj"], "param_config": {"b_vocab": {"learning_rate": 0.4}}}
    solver(num_epochs=1, checkpoint=tmp_path, schedule="constant", **special).train()
    resumed = solver(checkpoint=tmp_path, resume=True, **special)
    resumed.train()
    whole = solver(**special)
    whole.train()
    assert outcome(resumed) == outcome(whole)
    with pytest.raises(capgpu.CapgpuError, match="param_config="):
        solver(checkpoint=tmp_path, resume=True, frozen=["W_proj"])


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
def test_gradients_of_parts_add_up_to_those_of_the_minibatch(backend: Any) -> None:
    data = dataset(train=20, val=0)
    data["train_captions"][:3, 1:] = 0  # captions without words count as captions

    def trained(**settings: Any) -> Any:
        model = CaptioningRNN(data["word_to_idx"], 6, 5, 8, "lstm", np.float64, seed=1)
        trainer = solver(model, data, batch_size=10, num_epochs=2, clip_norm=1.0, **settings)
        trainer.train()
        return {name: backend.to_numpy(a) for name, a in model.params.items()}, trainer.loss_history

    (whole, losses), (parts, part_losses) = trained(), trained(micro_batch_size=3)
    assert part_losses == pytest.approx(losses, rel=1e-10)
    for name, array in whole.items():
        np.testing.assert_allclose(parts[name], array, atol=1e-9)
    again, _ = trained(micro_batch_size=3)
    assert frozen(again) == frozen(parts)


def test_reprs_of_solver_and_optimizer() -> None:
    trainer = solver(frozen=["b_vocab"])
    trainer.train()
    assert "epoch 6 of 6, step 24, val_loss" in repr(trainer)
    assert "Optimizer('adam', {}, frozen=('b_vocab',))" in repr(trainer)
    assert repr(Optimizer("sgd", {"learning_rate": 0.5})) == "Optimizer('sgd', {'learning_rate': 0.5})"
