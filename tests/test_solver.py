"""The solver: the course's interface, what it computes each epoch, and what it refuses before computing."""

from __future__ import annotations

import math
import signal
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_captioner import TinyCaptioner, dataset

import capgpu
from capgpu.errors import NonFiniteError
from capgpu.evaluation.caption_metric import CaptionMetric
from capgpu.model import CaptioningRNN
from capgpu.optim import adam, clip_gradients
from capgpu.random import fold_key
from capgpu.solver import CaptioningSolver
from capgpu.training.callbacks import EarlyStopping
from capgpu.training.history import read_history
from oracles.snapshots import frozen

HOMES = pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)


@pytest.fixture(autouse=True)
def on_the_host() -> None:
    capgpu.set_backend("numpy")


def solver(model: Any = None, data: Any = None, **settings: Any) -> CaptioningSolver:
    defaults: dict[str, Any] = {
        "batch_size": 5,
        "num_epochs": 3,
        "verbose": False,
        "seed": 7,
        "update_rule": "adam",
    }
    return CaptioningSolver(model or TinyCaptioner(), data or dataset(), **(defaults | settings))


# --- the course's face ------------------------------------------------------------------------------------


def test_the_notebooks_call_works_and_prints_the_courses_lines(capsys: pytest.CaptureFixture[str]) -> None:
    model, data = TinyCaptioner(), dataset(val=0)
    trainer = CaptioningSolver(
        model,
        data,
        update_rule="adam",
        num_epochs=2,
        batch_size=5,
        optim_config={"learning_rate": 5e-3},
        lr_decay=0.95,
        verbose=True,
        print_every=3,
    )
    trainer.train()
    assert len(trainer.loss_history) == 8
    assert all(type(loss) is float for loss in trainer.loss_history)
    assert trainer.epoch == 2
    losses = trainer.loss_history
    assert capsys.readouterr().out.splitlines() == [
        f"(Iteration {step + 1} / 8) loss: {losses[step]:.6f}" for step in (0, 3, 6)
    ]


def test_a_quiet_solver_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    solver().train()
    assert capsys.readouterr() == ("", "")


def test_the_steps_are_those_of_the_update_rule() -> None:
    data = dataset(train=4, val=0)
    trainer = solver(data=data, batch_size=100, num_epochs=3, optim_config={"learning_rate": 0.1}, clip_norm=1.5)
    trainer.train()
    model, config = TinyCaptioner(), {name: {"learning_rate": 0.1} for name in ("W_proj", "b_vocab")}
    features = data["train_features"][data["train_image_idxs"]]
    for _ in range(3):
        _, grads = model.loss(features, data["train_captions"])
        clipped, norm = clip_gradients(grads, 1.5)
        assert norm > 1.5
        for name, config_of in config.items():
            model.params[name], _ = adam(model.params[name], clipped[name], config_of)
    for name, array in model.params.items():  # one batch, but shuffled: sums in another order
        np.testing.assert_allclose(trainer.model.params[name], array, rtol=1e-12)


def test_the_learning_rate_decays_after_each_epoch_where_the_course_shows_it() -> None:
    trainer = solver(optim_config={"learning_rate": 0.4}, lr_decay=0.5)
    trainer.train()
    assert {config["learning_rate"] for config in trainer.optim_configs.values()} == {0.05}


def test_a_second_train_call_runs_the_same_number_of_epochs_again() -> None:
    trainer = solver(num_epochs=2)
    trainer.train()
    trainer.train()
    assert (trainer.epoch, trainer.step, len(trainer.loss_history)) == (4, 16, 16)
    longer = solver(num_epochs=4)
    longer.train()
    assert frozen(trainer.model.params) == frozen(longer.model.params)


@pytest.mark.parametrize("cell_type", ["rnn", "lstm"])
@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
def test_the_model_memorizes_fifty_captions(backend: Any, cell_type: Any) -> None:
    data = dataset(train=50, val=0)
    model = CaptioningRNN(data["word_to_idx"], 6, 32, 64, cell_type, seed=2)
    trainer = CaptioningSolver(
        model,
        data,
        "adam",
        {"learning_rate": 1e-2},
        0.99,
        batch_size=25,
        num_epochs=120,
        verbose=False,
        seed=0,
    )
    trainer.train()
    assert trainer.loss_history[0] > 5
    assert trainer.loss_history[-1] < 0.1


# --- the same bits ----------------------------------------------------------------------------------------


@HOMES
def test_the_same_seed_gives_the_same_bits(backend: Any) -> None:
    def trained(seed: int) -> Any:
        data = dataset()
        model = CaptioningRNN(data["word_to_idx"], 6, 5, 8, "lstm", seed=1, output_dropout=0.3)
        trainer = solver(model, data, seed=seed, clip_norm=1.0, num_epochs=2)
        trainer.train()
        return frozen(model.params), trainer.loss_history, trainer.val_loss_history

    assert trained(3) == trained(3)
    assert trained(3) != trained(4)


def test_single_steps_and_a_reset_as_in_the_course() -> None:
    whole, single = solver(), solver()
    whole.train()
    assert whole.lr_decay == single.lr_decay == 1.0
    for _ in range(whole.step):
        single._step()
    assert single.loss_history == whole.loss_history
    assert frozen(single.model.params) == frozen(whole.model.params)
    assert (single.best_val_acc, single.train_acc_history, single.val_acc_history) == (0.0, [], [])
    assert single.check_accuracy(None, None) == 0.0
    trained = frozen(single.model.params)
    single._reset()
    assert (single.step, single.epoch, single.loss_history) == (0, 0, [])
    assert frozen(single.model.params) == trained


def test_without_a_seed_a_random_one_is_drawn_and_stored() -> None:
    one, other = solver(seed=None), solver(seed=None)
    assert one.seed != other.seed
    one.train()
    again = solver(seed=one.seed)
    again.train()
    assert again.loss_history == one.loss_history


def test_the_dropout_key_depends_on_seed_and_step_and_is_passed_only_with_dropout() -> None:
    for rate in (0.0, 0.2):
        model = TinyCaptioner(output_dropout=rate)
        solver(model, dataset(val=0), num_epochs=1).train()
        assert model.keys == [fold_key(7, step) if rate else None for step in range(4)]


# --- each epoch -------------------------------------------------------------------------------------------


@HOMES
def test_validation_scores_every_word_of_the_split_each_epoch(backend: Any) -> None:
    data = dataset(val=9)
    model = CaptioningRNN(data["word_to_idx"], 6, 5, 8, seed=1, dtype=np.float64)
    scores: list[float] = []

    def by_caption(model: Any, data: Any) -> float:
        total = tokens = 0.0
        for caption, image in zip(data["val_captions"], data["val_image_idxs"], strict=True):
            nll, counted = model.nll(capgpu.asarray(data["val_features"][image][None]), caption[None])
            total, tokens = total + float(nll), tokens + counted
        scores.append(total / tokens)
        return scores[-1]

    trainer = solver(model, data, metric=by_caption)
    trainer.train()
    assert len(scores) == 3
    np.testing.assert_allclose(trainer.val_loss_history, scores, rtol=1e-12)
    assert trainer.metric_history == scores
    assert trainer.evaluate("val") == trainer.val_loss_history[-1]


def test_a_model_without_nll_is_scored_by_its_loss() -> None:
    trainer = solver()
    features = trainer.data["val_features"][trainer.data["val_image_idxs"]]
    captions = trainer.data["val_captions"]
    loss, _ = trainer.model.loss(features, captions)
    assert trainer.evaluate() == pytest.approx(float(loss) * 9 / (captions[:, 1:] != 0).sum(), rel=1e-12)


class Overfits(TinyCaptioner):
    """Gets better on the validation set until the second epoch, then worse; remembers its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.scored: list[Any] = []

    def nll(self, features: Any, captions: Any) -> tuple[float, int]:
        if len(captions) == 5:  # the first minibatch of a pass over the nine validation captions
            self.scored.append(frozen(self.params))
        return (3.0, 1.0, 2.0, 1.0)[len(self.scored) - 1] * len(captions), len(captions)


@pytest.mark.parametrize("keep_best", [False, True])
def test_the_best_parameters_are_kept_and_restored_on_request(keep_best: bool) -> None:
    model = Overfits()
    trainer = solver(model, num_epochs=4, keep_best=keep_best)
    trainer.train()
    assert (trainer.best_epoch, trainer.best_val_loss) == (2, 1.0)
    assert frozen(trainer.best_params) == model.scored[1]
    assert frozen(model.params) == model.scored[1 if keep_best else 3]
    model.params["W_proj"] += 1.0
    assert frozen(trainer.best_params) == model.scored[1]


def test_the_history_has_a_record_per_printed_step_and_per_epoch(tmp_path: Path) -> None:
    seen: list[Any] = []
    trainer = solver(
        data=dataset(train=23),
        optim_config={"learning_rate": 0.1},
        num_epochs=2,
        print_every=3,
        schedule="linear",
        history=tmp_path / "run" / "history.jsonl",
        metric=lambda model, data: {"bleu": 0.25},
        callbacks=[lambda trainer, record: seen.append((trainer.epoch, record))],
    )
    trainer.train()
    lines = read_history(tmp_path / "run" / "history.jsonl")
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("start", 0), ("step", 1), ("step", 4), ("epoch", 4), ("step", 7), ("epoch", 8), ("end", 8),
    ]  # fmt: skip
    losses = trainer.loss_history
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["loss"] for line in steps] == [losses[0], losses[3], losses[6]]
    assert [line["learning_rate"] for line in steps] == pytest.approx([0.1, 0.1 * 5 / 8, 0.1 * 2 / 8])
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["val_loss"] for line in epochs] == trainer.val_loss_history
    assert [line["loss"] for line in epochs] == pytest.approx([np.mean(losses[:4]), np.mean(losses[4:])])
    words = int((trainer.data["train_captions"][:, 1:] != 0).sum())
    sizes = [6, 6, 6, 5]  # 23 captions, dealt out to four minibatches
    assert epochs[0]["train_loss"] == pytest.approx(np.dot(losses[:4], sizes) / words)
    assert epochs[0]["metric.bleu"] == 0.25
    tokens = [line["loss"] / line["train_loss"] for line in steps]  # words in a caption of the minibatch
    assert all(1 < mean < 8 for mean in tokens)
    assert not any(isinstance(value, dict) for line in lines for value in line.values())
    assert [record["train_loss"] for _, record in seen] == [line["train_loss"] for line in epochs]
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert lines[-1]["reason"] == "finished"


def test_validation_is_skipped_if_it_has_over_twenty_times_the_training_captions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = dataset(train=5, val=101)
    trainer = solver(data=data, verbose=True)
    trainer.train()
    assert trainer.val_loss_history == []
    assert "no validation" in capsys.readouterr().out
    assert solver(data=data, validate=True).validate
    assert solver(data=dataset(train=5, val=100)).validate


def test_a_split_without_words_cannot_be_scored() -> None:
    data = dataset()
    data["val_captions"][:, 1:] = 0
    with pytest.raises(ValueError, match="val_captions: expected words"):
        solver(data=data).evaluate()


@pytest.mark.parametrize("grouped", [False, True])
def test_the_training_loss_of_an_epoch_weighs_each_minibatch_by_its_captions(grouped: bool) -> None:
    data, sizes, records = dataset(train=23, val=0), [], []

    class Measures(TinyCaptioner):
        def loss(self, features: Any, captions: Any, *, dropout_key: int | None = None) -> Any:
            sizes.append(len(captions))
            return super().loss(features, captions)

    trainer = solver(
        Measures(), data, group_by_length=grouped, callbacks=[lambda _, record: records.append(record["train_loss"])]
    )
    trainer.train()
    words = int((data["train_captions"][:, 1:] != 0).sum())
    totals = np.reshape(np.multiply(trainer.loss_history, sizes), (3, 4)).sum(axis=1)
    assert records == pytest.approx(totals / words, rel=1e-12)


@pytest.mark.usefixtures("sigint_is_not_ignored")
@pytest.mark.parametrize("leaves", ["finishes", "is interrupted", "fails"])
def test_training_on_a_mapped_file_has_the_bits_of_memory_and_leaves_no_thread(leaves: str, tmp_path: Path) -> None:
    def leave(call: int) -> None:
        if leaves != "finishes" and call == 2:
            if leaves == "fails":
                raise RuntimeError("no more")
            signal.raise_signal(signal.SIGINT)

    data = dataset(val=9)
    files = {}
    for name in ("train_features", "val_features"):
        np.save(tmp_path / f"{name}.npy", data[name])
        files[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    trainers = []
    for features in ({}, files):
        trainers.append(solver(TinyCaptioner(before=leave), data | features))
        with {
            "finishes": nullcontext(),
            "is interrupted": pytest.raises(KeyboardInterrupt),
            "fails": pytest.raises(RuntimeError, match="no more"),
        }[leaves]:
            trainers[-1].train()
        assert [thread.name for thread in threading.enumerate() if "prefetch" in thread.name] == []
    memory, mapped = trainers
    assert frozen(mapped.model.params) == frozen(memory.model.params)
    assert mapped.loss_history == memory.loss_history
    assert mapped.val_loss_history == memory.val_loss_history
    assert mapped.step == (12 if leaves == "finishes" else 3 if leaves == "is interrupted" else 2)


# --- divergence -------------------------------------------------------------------------------------------


class Diverges(TinyCaptioner):
    """Fails at one call: a loss that is not finite, or a gradient that spoils the parameters."""

    def __init__(self, at: int, spoil: str) -> None:
        super().__init__()
        self._at, self._spoil = at, spoil
        self.seen: list[Any] = []

    def loss(self, features: Any, captions: Any, *, dropout_key: int | None = None) -> Any:
        self.seen.append(frozen(self.params))
        loss, grads = super().loss(features, captions)
        if self.calls - 1 == self._at:
            if self._spoil == "loss":
                return loss * math.nan, grads
            grads["W_proj"] = grads["W_proj"] * math.inf
        return loss, grads


@HOMES
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the update with the bad gradient
@pytest.mark.parametrize(
    ("at", "spoil", "named", "host_step", "device_step"),
    [
        (5, "loss", 6, 5, 4),  # on a device the loss of step 6 is looked at with that of step 7
        (6, "loss", 7, 6, 6),
        (0, "loss", 1, 0, 0),
        (5, "grads", 7, 4, 4),
        (3, "grads", 5, 3, 3),
    ],
)
def test_divergence_names_its_step_and_keeps_finite_parameters(
    backend: Any, at: int, spoil: str, named: int, host_step: int, device_step: int, tmp_path: Path
) -> None:
    model = Diverges(at, spoil)
    trainer = solver(model, dataset(val=0), print_every=3, optim_config={"learning_rate": 0.1}, history=tmp_path / "h")
    with pytest.raises(NonFiniteError, match=rf"step {named} is (nan|inf).*learning rate 0\.1.*clip_norm"):
        trainer.train()
    step = device_step if backend.name == "cuda" else host_step
    assert trainer.step == len(trainer.loss_history) == step
    assert frozen(model.params) == model.seen[step]
    assert read_history(tmp_path / "h")[-1]["reason"].startswith("NonFiniteError")


def test_steps_that_print_nothing_do_not_wait_for_the_device(standin: Any) -> None:
    capgpu.set_backend("cuda")
    waits = []
    for captions in (20, 40, 80):
        trainer = solver(data=dataset(train=captions, val=0), num_epochs=1, print_every=1000)
        before = standin.counters().synchronisations
        trainer.train()
        waits.append(standin.counters().synchronisations - before)
    assert waits[0] == waits[1] == waits[2]


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"learning_rate": 1e-3}, TypeError, "learning_rate"),
        ({"update_rule": "adamm"}, ValueError, "update rule: expected .*, got 'adamm'. Did you mean 'adam'"),
        ({"update_rule": {"rule": "x" * 999}}, ValueError, r"update rule: expected .*, got \{[^.]{,60}\.\.\."),
        ({"optim_config": {"lr": 1e-3}}, ValueError, "sgd: expected config entries among learning_rate, got 'lr'"),
        ({"optim_config": {"learning_rate": -1.0}}, ValueError, "learning_rate: expected .* got -1.0"),
        ({"optim_config": {"learning_rate": 10**400}}, ValueError, "learning_rate: expected a value .* got 1000"),
        ({"optim_config": 1e-3}, TypeError, "config: expected a dict .* got float"),
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1.*got .*0"),
        ({"batch_size": 2.5}, TypeError, "batch_size: expected an integer, got 2.5"),
        ({"num_epochs": 0}, ValueError, "num_epochs: expected at least 1, got 0"),
        ({"print_every": 0}, ValueError, "print_every: expected at least 1, got 0"),
        ({"lr_decay": 0.0}, ValueError, "lr_decay: expected a positive finite number, got 0.0"),
        ({"lr_decay": "slow"}, TypeError, "lr_decay: expected a number, got 'slow'"),
        ({"clip_norm": math.inf}, ValueError, "clip_norm: expected a positive finite number, got inf"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ({"warmup": -1}, ValueError, "warmup: expected at least 0, got -1"),
        ({"warmup": 1000}, ValueError, r"warmup: expected at most the \d+ steps of \d+ epochs, got 1,000"),
        (
            {"metric": CaptionMetric(["CIDEr"]), "callbacks": [EarlyStopping(1, monitor="BLEU-4")]},
            ValueError,
            "monitor: expected one of CIDEr, got 'BLEU-4'",
        ),
        ({"schedule": "cosin"}, ValueError, "Did you mean 'cosine'"),
        ({"metric": 3}, TypeError, "expected functions, got 3"),
        ({"callbacks": [print, "x"]}, TypeError, "expected functions, got 'x'"),
        ({"callbacks": [None]}, TypeError, "expected functions, got None"),
        ({"callbacks": [EarlyStopping]}, TypeError, "expected functions, got <class .*EarlyStopping'>"),
        ({"callbacks": EarlyStopping(1)}, TypeError, "callbacks: expected a list of functions, got a EarlyStopping"),
        ({"frozen": "W_embed"}, TypeError, r"frozen: expected a list of names .* got 'W_embed'"),
        ({"param_config": ["W_embed"]}, TypeError, r"param_config: expected a dict of dicts.*\['W_embed'\]"),
        ({"param_config": {"w": 1e-4}}, TypeError, "param_config: expected a dict of dicts"),
        ({"resume": True}, ValueError, "checkpoint: expected the folder"),
        ({"model": object()}, TypeError, "model: expected params and loss.*, got <object object"),
        ({"model": TinyCaptioner}, TypeError, "model: expected params and loss"),
        ({"data": dataset(val=0), "keep_best": True}, ValueError, "keep_best: expected False without validation"),
        ({"data": dataset(val=0), "validate": True}, ValueError, "expected the entries val_captions"),
        ({"data": {"x": 1}}, ValueError, "expected the entries train_captions"),
        ({"data": []}, TypeError, "data: expected a dict .* got list"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_computed(
    settings: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    given = {"model": TinyCaptioner(), "data": dataset(), "history": tmp_path / "h", **settings}
    with pytest.raises(error, match=message):
        CaptioningSolver(**given)
    assert list(tmp_path.iterdir()) == []


@HOMES
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_parameters_that_are_not_finite_are_refused_before_training(backend: Any, value: float, tmp_path: Path) -> None:
    model = TinyCaptioner()
    trainer = solver(model, history=tmp_path / "h", checkpoint=tmp_path / "c")
    bias = np.zeros(16)
    bias[3] = value
    model.params["b_vocab"] = capgpu.asarray(bias)
    for call in (trainer.train, lambda: solver(model)):
        with pytest.raises(ValueError, match=r"params\['b_vocab'\]: expected finite values, got NaN or infinity"):
            call()
    assert model.calls == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["0.5", [0.5], {"CIDEr": "0.5"}, {}, None, np.ones(2)], ids=repr)
def test_a_metric_that_returns_no_numbers_is_refused(value: Any) -> None:
    solver = CaptioningSolver(TinyCaptioner(), dataset(), metric=lambda model, data: value, num_epochs=1, verbose=False)
    with pytest.raises(TypeError, match="metric: expected a function that returns a number or a dict of numbers"):
        solver.train()


@pytest.mark.parametrize("factor", [math.nan, math.inf, 10**400, -1.0, None, "1"])
def test_a_schedule_that_returns_no_factor_is_named(factor: Any) -> None:
    trainer = solver(schedule=lambda step, total_steps: factor if step == 2 else 1.0)
    with pytest.raises((TypeError, ValueError), match=r"schedule: expected .* at step 2, got"):
        trainer.train()
    assert trainer.step == 2


def test_data_that_do_not_fit_the_model_are_refused() -> None:
    data = dataset()
    with pytest.raises(ValueError, match="expected vectors of length 5, as the model's input_dim, got 6"):
        solver(CaptioningRNN(data["word_to_idx"], 5, 4, 4, seed=0), data)
    words = {word: i for word, i in data["word_to_idx"].items() if i < 9}
    with pytest.raises(ValueError, match="for 9 token ids"):
        solver(CaptioningRNN(words, 6, 4, 4, seed=0), data)
    data["val_features"][2, 3] = math.inf
    with pytest.raises(ValueError, match="val_features: expected finite values, got NaN or infinity in row 2"):
        solver(CaptioningRNN(data["word_to_idx"], 6, 4, 4, seed=0), data)
