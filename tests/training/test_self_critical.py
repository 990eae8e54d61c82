"""Self-critical training: what it draws and how it weighs it, the solver's bookkeeping, and that it helps."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tiny_captioner import TinyCaptioner

import capgpu
from capgpu import CaptioningRNN, CaptioningSolver, SelfCritical, decode
from capgpu.distributed import ALONE, Communicator
from capgpu.evaluation.caption_metric import CaptionMetric
from capgpu.metrics.rewards import CaptionRewards
from capgpu.random import fold_key
from capgpu.training.history import read_history
from capgpu.training.self_critical import Critic, SampledCaptions, sharpen
from oracles.numbers import distance
from oracles.snapshots import frozen
from oracles.thread_ranks import run_ranks

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"w{i}" for i in range(8))]
START, END = 1, 2


def data(pictures: int = 12, seed: int = 0) -> dict[str, Any]:
    """Return pictures whose features determine two words; picture 0 has one caption, the others two or three."""
    random = np.random.default_rng(seed)
    arrays: dict[str, Any] = {"word_to_idx": {word: i for i, word in enumerate(WORDS)}, "idx_to_word": WORDS}
    for split in ("train", "val"):
        first, second = random.integers(4, 8, pictures), random.integers(8, 12, pictures)
        features = np.zeros((pictures, 8), np.float32)
        features[np.arange(pictures), first - 4] = features[np.arange(pictures), second - 4] = 1
        images = np.repeat(np.arange(pictures), [1, *random.integers(2, 4, pictures - 1)])
        captions = np.zeros((len(images), 6), np.int64)
        for caption, image in zip(captions, images, strict=True):
            words = [START, first[image], second[image], *random.integers(4, 12, random.integers(0, 2)), END]
            caption[: len(words)] = words
        arrays |= {f"{split}_captions": captions, f"{split}_image_idxs": images, f"{split}_features": features}
    return arrays


def captioner(cell: Any = "lstm", **settings: Any) -> CaptioningRNN:
    return CaptioningRNN(data()["word_to_idx"], 8, 6, 10, cell, seed=1, **settings)


def solver(model: CaptioningRNN | None = None, **settings: Any) -> CaptioningSolver:
    defaults: dict[str, Any] = {
        "update_rule": "adam",
        "optim_config": {"learning_rate": 0.02},
        "batch_size": 4,
        "num_epochs": 3,
        "print_every": 2,
        "verbose": False,
        "seed": 7,
        "clip_norm": 2.0,
        "self_critical": SelfCritical(samples=3),
    }
    return CaptioningSolver(model or captioner(), data(), **(defaults | settings))


def outcome(trainer: CaptioningSolver) -> Any:
    return (
        frozen(trainer.model.params),
        trainer.loss_history,
        trainer.reward_history,
        trainer.val_loss_history,
        trainer.step,
        trainer.best_epoch,
    )


@pytest.mark.nightly(unless=lambda p: p.backend == "numpy" or (p.cell, p.baseline) == ("lstm", "samples"))
@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize("baseline", ["samples", "greedy"])
def test_captions_are_drawn_on_every_backend_alike_and_weighed_by_reward_less_baseline(
    backend: Any, cell: str, baseline: Any
) -> None:
    arrays = data()
    images = np.array([5, 0, 3])
    features = arrays["train_features"][images]
    settings = SelfCritical(samples=4, baseline=baseline, reward={"CIDEr": 1.0, "BLEU-4": 0.5})
    drawn = Critic(settings, captioner(cell), arrays).draw(captioner(cell), capgpu.asarray(features), images, key=9)
    capgpu.set_backend("numpy")
    model = captioner(cell)
    ids = decode.sample(model, np.repeat(features, 4, axis=0), seed=fold_key(9, -1), max_length=5).ids[:, 0]
    score = CaptionRewards(arrays["train_captions"], arrays["train_image_idxs"], settings.reward)
    rewards = score(ids, np.repeat(images, 4)).reshape(3, 4)
    if baseline == "greedy":
        expected = rewards - score(decode.greedy(model, features, max_length=5).ids[:, 0], images)[:, None]
    else:
        expected = np.array([[r - np.delete(row, k).mean() for k, r in enumerate(row)] for row in rewards])
    assert drawn.captions.tolist() == np.column_stack([np.full(12, START), ids]).tolist()
    assert distance(drawn.weights, expected.reshape(-1)) < 1e-12
    assert drawn.reward == pytest.approx(rewards.mean())
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("baseline", ["samples", "greedy"])
@pytest.mark.parametrize("size", [2, 5])
def test_ranks_draw_the_captions_of_one_process_and_all_get_them(size: int, baseline: Any) -> None:
    capgpu.set_backend("numpy")
    arrays, model, images = data(), captioner(dtype="float64"), np.array([5, 0, 3, 9])  # one rank of five has none
    settings = SelfCritical(samples=3, baseline=baseline)

    def draw(ranks: Communicator) -> SampledCaptions:
        features = arrays["train_features"][images[ranks.rank :: ranks.size]]
        return Critic(settings, model, arrays, ranks).draw(model, features, images, key=9)

    alone = draw(ALONE)
    for rank, drawn in enumerate(run_ranks(size, draw)):
        assert drawn.captions.tolist() == alone.captions.tolist()
        assert distance(drawn.weights, alone.weights) < 1e-12
        assert drawn.reward == pytest.approx(alone.reward, rel=1e-12)
        own = np.repeat(np.arange(4), 3) % size == rank
        assert drawn.features.tolist() == alone.features[own].tolist()


def test_a_rank_that_cannot_draw_leaves_no_other_waiting() -> None:
    capgpu.set_backend("numpy")
    arrays, images = data(), np.array([5, 0])

    def draw(ranks: Communicator) -> float:
        model = captioner()
        if ranks.rank == 1:
            model.params["b_vocab"] = np.full_like(model.params["b_vocab"], np.nan)
        features = arrays["train_features"][images[ranks.rank :: ranks.size]]
        return Critic(SelfCritical(), model, arrays, ranks).draw(model, features, images, key=9).reward

    assert np.isnan(run_ranks(2, draw)).all()


def test_the_loss_is_that_of_the_words_that_can_be_drawn() -> None:
    capgpu.set_backend("numpy")
    model, never, drawn = captioner(), [0, START, 3], [END, *range(4, 12)]
    features = data()["train_features"][:1]
    with Critic(SelfCritical(), model, data()).policy(model):
        losses = [float(model.nll(features, np.array([[START, word]]))[0]) for word in drawn]
    assert np.exp(-np.array(losses)).sum() == pytest.approx(1, abs=1e-6)
    before = {name: array.copy() for name, array in model.params.items()}
    solver(model, num_epochs=1).train()
    for name in ("W_vocab", "b_vocab"):
        changed = (model.params[name] != before[name]).reshape(-1, len(WORDS)).any(axis=0)
        assert not changed[never].any()
        assert changed[drawn].all()


@pytest.mark.parametrize("backend", ["cpu", "cuda"], indirect=True)
def test_the_biases_of_what_is_drawn_have_the_models_dtype(backend: Any) -> None:
    pytest.importorskip("ml_dtypes")
    model = captioner(dtype="bfloat16")
    with Critic(SelfCritical(), model, data()).policy(model):
        assert model.params["b_vocab"].dtype == model.dtype


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.usefixtures("sigint_is_not_ignored")
@pytest.mark.nightly(unless=lambda p: p.backend == "numpy")
def test_a_run_stopped_within_an_epoch_resumes_with_the_same_bits(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model() -> CaptioningRNN:
        return captioner("rnn" if backend.name == "cuda" else "lstm", output_dropout=0.2)

    whole = solver(model())
    whole.train()
    first = solver(model(), checkpoint=tmp_path, history=tmp_path / "history.jsonl")
    draw, calls = Critic.draw, []

    def interrupted(self: Critic, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        return draw(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Critic, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            first.train()
    assert (first.step, first.epoch, len(first.reward_history)) == (5, 1, 5)
    resumed = solver(model(), checkpoint=tmp_path, resume=True, history=tmp_path / "history.jsonl")
    resumed.train()
    assert outcome(resumed) == outcome(whole)
    _, *epochs = [line for line in read_history(tmp_path / "history.jsonl") if line["kind"] == "epoch"]
    means = np.reshape(whole.reward_history, (3, 3)).mean(axis=1)
    assert [line["reward"] for line in epochs] == pytest.approx(means.tolist())


def test_rewards_rise_and_the_best_epoch_is_that_of_the_best_score() -> None:
    capgpu.set_backend("numpy")
    taught = solver(self_critical=None, num_epochs=4, validate=False)
    taught.train()
    metric = CaptionMetric(["CIDEr"], split="train")
    settings = {"self_critical": SelfCritical(), "batch_size": 12, "num_epochs": 40, "validate": False}
    trained = solver(taught.model, metric=metric, best_by="CIDEr", keep_best=True, **settings)
    trained.train()
    assert np.mean(trained.reward_history[-5:]) > 1.5 * np.mean(trained.reward_history[:5])
    scores = [entry["CIDEr"] for entry in trained.metric_history]
    assert max(scores) > trained.start_scores["metric"]["CIDEr"]
    assert trained.best_epoch == int(np.argmax(scores)) + 1
    assert trained.best_score == max(scores)
    assert f"CIDEr {max(scores):.4f} in epoch {trained.best_epoch};" in repr(trained)
    assert trained.best_val_loss == float("inf")  # without validation there is none
    assert frozen(trained.model.params) == frozen(trained.best_params)
    assert f"CIDEr {max(scores):.4f} in epoch {trained.best_epoch}" in repr(trained)


def test_the_start_is_kept_if_no_epoch_is_better(tmp_path: Path) -> None:
    capgpu.set_backend("numpy")
    scores = iter([0.5, 0.2, 0.4, 0.5])
    settings: dict[str, Any] = {"best_by": "score", "keep_best": True, "checkpoint": tmp_path / "state"}
    trained = solver(metric=lambda model, data: next(scores), history=tmp_path / "history.jsonl", **settings)
    start, start_loss = frozen(trained.model.params), trained.evaluate()
    trained.train()
    assert frozen(trained.model.params) == start
    assert (trained.best_epoch, trained.best_score, trained.best_val_loss) == (0, 0.5, start_loss)
    assert trained.metric_history == [0.2, 0.4, 0.5]
    epochs = [line for line in read_history(tmp_path / "history.jsonl") if line["kind"] == "epoch"]
    assert [(line["epoch"], line["metric"], line["best"]) for line in epochs] == [
        (0, 0.5, True),
        (1, 0.2, False),
        (2, 0.4, False),
        (3, 0.5, False),
    ]
    resumed = solver(metric=lambda model, data: 0.6, resume=True, num_epochs=4, **settings)
    assert (resumed.best_epoch, resumed.best_score, resumed.best_val_loss) == (0, 0.5, start_loss)
    resumed.train()
    assert (resumed.best_epoch, resumed.best_score) == (4, 0.6)


@pytest.mark.usefixtures("sigint_is_not_ignored")
def test_an_interrupt_while_the_start_is_scored_leaves_a_run_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    capgpu.set_backend("numpy")
    whole, other = solver(), solver()
    whole.train()
    with monkeypatch.context() as patch:
        nll = other.model.nll
        patch.setattr(other.model, "nll", lambda *given: (signal.raise_signal(signal.SIGINT), nll(*given))[1])
        with pytest.raises(KeyboardInterrupt):
            other.train()
    assert (other.step, other.start_scores, other.interrupted) == (0, {}, True)
    other.train()
    assert outcome(other) == outcome(whole)


def test_a_divergence_names_the_learning_rate_and_keeps_the_last_good_parameters() -> None:
    capgpu.set_backend("numpy")
    trainer = solver(update_rule="sgd", optim_config={"learning_rate": 1e38}, clip_norm=None)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"diverged \(learning rate 1e\+38"):
        trainer.train()
    assert all(np.isfinite(array).all() for array in trainer.model.params.values())
    assert len(trainer.loss_history) == len(trainer.reward_history) == trainer.step


def test_words_and_dropout_of_a_step_have_keys_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    capgpu.set_backend("numpy")
    seeds: list[Any] = []

    def greedy(model: Any, features: Any, *, seed: int, rows: Any, **settings: Any) -> Any:
        seeds.append(seed)
        return decode.greedy(model, features, **settings)

    monkeypatch.setattr(decode, "sample", greedy)
    arrays = data()
    model = captioner(n_layers=3, feature_dropout=0.1, output_dropout=0.1, layer_dropout=0.1)
    Critic(SelfCritical(), model, arrays).draw(model, arrays["train_features"][:2], np.array([0, 1]), key=4)
    _, _, options = model.loss_inputs(arrays["train_features"][:2], arrays["train_captions"][:2], dropout_key=4)
    dropouts = (options.feature_dropout, options.output_dropout, *options.layer_dropouts)
    assert len({*seeds, *(dropout.key for dropout in dropouts if dropout is not None)}) == 1 + 4


def test_gradient_accumulation_gives_the_same_gradients() -> None:
    capgpu.set_backend("numpy")
    whole, parts = (solver(captioner(dtype="float64"), num_epochs=1, micro_batch_size=size) for size in (None, 5))
    whole.train()
    parts.train()
    for name, array in whole.model.params.items():
        assert distance(parts.model.params[name], array) < 1e-6, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 1}, "samples: expected"),
        ({"samples": 0, "baseline": "greedy"}, "samples: expected"),
        ({"baseline": "mean"}, "baseline: expected"),
        ({"max_length": 0}, "max_length: expected"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfCritical(**settings)


def test_what_the_solver_cannot_do_is_refused() -> None:
    capgpu.set_backend("numpy")
    with pytest.raises(ValueError, match="group_by_length"):
        solver(group_by_length=True)
    with pytest.raises(ValueError, match="best_by"):
        solver(best_by="CIDEr")
    with pytest.raises(ValueError, match="best_by: expected one of CIDEr, got 'BLEU-4'"):
        solver(best_by="BLEU-4", metric=CaptionMetric(["CIDEr"]))
    with pytest.raises(TypeError, match=r"best_by: expected the name of a score, got \['CIDEr'\]"):
        solver(best_by=["CIDEr"], metric=CaptionMetric(["CIDEr"]))
    with pytest.raises(ValueError, match="reward: expected"):
        solver(self_critical=SelfCritical(reward={"METEOR": 1.0}))
    with pytest.raises(TypeError, match=r"self_critical: expected a model that writes captions, .* TinyCaptioner"):
        solver(cast(Any, TinyCaptioner(length=8)))
    for wrong in (True, {"samples": 3}):
        with pytest.raises(TypeError, match=r"self_critical: expected a capgpu\.SelfCritical, got"):
            solver(self_critical=wrong)
    with pytest.raises(ValueError, match="expected a model with label_smoothing=0, got"):
        solver(captioner(label_smoothing=0.1))
    without_start = CaptioningRNN({"<NULL>": 0, "<END>": 2, "a": 1}, 8, 6, 10, seed=0)
    with pytest.raises(ValueError, match="vocabulary with <START>"):
        Critic(SelfCritical(), without_start, data())


def test_a_sharpened_model_writes_the_same_greedy_captions_with_multiplied_scores(backend: Any) -> None:
    model, features = captioner(), capgpu.asarray(data()["train_features"])

    def scores() -> Any:
        words = capgpu.asarray(np.full(features.shape[0], START, np.int32))
        return capgpu.to_numpy(model.step(model.begin(features), words)[0])

    before, ids = scores(), capgpu.to_numpy(decode.greedy(model, features).ids)
    sharpen(model, 3.0)
    assert scores() == pytest.approx(3 * before, rel=1e-5, abs=1e-6)
    assert capgpu.to_numpy(decode.greedy(model, features).ids).tolist() == ids.tolist()
    with pytest.raises(ValueError, match="sharpen: expected"):
        sharpen(model, 0)
    before = frozen(model.params)
    for factor in (1e39, 1e-46):  # float32 holds neither
        with pytest.raises(ValueError, match="sharpen: expected a factor that keeps W_vocab within float32, got 1e"):
            sharpen(model, factor)
    assert frozen(model.params) == before
    with pytest.raises(ValueError, match="sharpen: expected 1 for a model with tied weights"):
        sharpen(CaptioningRNN(data()["word_to_idx"], 8, 10, 10, "lstm", seed=1, tie_weights=True), 2.0)
