"""Small training runs, the same for any number of ranks. As a program: print what `run_all` returns on every rank."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from tiny_captioner import TinyCaptioner, dataset

import capgpu
from capgpu.distributed import communicator
from capgpu.training.callbacks import EarlyStopping


def data(train: int = 23) -> dict[str, Any]:
    return dataset(train=train, val=9)


def large_vocabulary_data() -> dict[str, Any]:
    """Return data whose W_embed and W_vocab are large enough for sums of their own, of which few rows occur."""
    given = data()
    words = [*given["idx_to_word"], *(f"rare{i}" for i in range(3000))]
    return {**given, "idx_to_word": words, "word_to_idx": {word: i for i, word in enumerate(words)}}


def captioner(given: dict[str, Any], **options: Any) -> capgpu.CaptioningRNN:
    sizes = {"input_dim": 6, "wordvec_dim": 16, "hidden_dim": 16, "cell_type": "lstm", "seed": 0}
    return capgpu.CaptioningRNN(given["word_to_idx"], **{**sizes, **options})


def solver(model: Any, given: dict[str, Any], **options: Any) -> capgpu.CaptioningSolver:
    settings = {"update_rule": "adam", "optim_config": {"learning_rate": 1e-2}, "batch_size": 5, "num_epochs": 2}
    return capgpu.CaptioningSolver(model, given, **{**settings, "verbose": False, "seed": 3, **options})


def with_everything() -> capgpu.CaptioningSolver:
    given = data()
    model = captioner(given, feature_dropout=0.3, output_dropout=0.4, label_smoothing=0.1)
    options = {"clip_norm": 0.5, "group_by_length": True, "schedule": "cosine", "warmup": 2, "keep_best": True}
    return solver(model, given, **options, metric=lambda model, data: {"sum": float(model.params["b_vocab"].sum())})


def few_rows_of_a_large_vocabulary() -> capgpu.CaptioningSolver:
    given = large_vocabulary_data()
    return solver(captioner(given, output_dropout=0.2), given, clip_norm=1.0)


def two_layers() -> capgpu.CaptioningSolver:
    given = data()
    options = {"cell_type": "gru", "n_layers": 2, "hidden_dim": 128, "layer_dropout": 0.3, "output_dropout": 0.2}
    return solver(captioner(given, **options), given, num_epochs=1)


def attention_to_a_grid() -> capgpu.CaptioningSolver:
    given = data()
    rng = np.random.default_rng(5)
    for split in ("train", "val"):
        given[f"{split}_features"] = rng.standard_normal((len(given[f"{split}_features"]), 4, 6)).astype(np.float32)
    return solver(captioner(given, cell_type="attention", feature_dropout=0.3, output_dropout=0.2), given)


def tied_weights_in_float64() -> capgpu.CaptioningSolver:
    given = large_vocabulary_data()
    return solver(captioner(given, tie_weights=True, dtype="float64"), given)


def batch_smaller_than_the_ranks() -> capgpu.CaptioningSolver:
    given = data(train=2)
    return solver(captioner(given, cell_type="rnn", feature_dropout=0.5), given, batch_size=1, validate=True)


def captions_computed_two_at_a_time() -> capgpu.CaptioningSolver:
    given = data()
    return solver(captioner(given), given, batch_size=9, micro_batch_size=2)


def captions_that_the_model_draws(**options: Any) -> capgpu.CaptioningSolver:
    given = large_vocabulary_data()
    critical = capgpu.SelfCritical(samples=3, baseline="greedy")
    model = captioner(given, output_dropout=0.2, dtype="float64")
    return solver(model, given, clip_norm=1.0, self_critical=critical, **options)


def fewer_pictures_than_ranks_to_draw_captions_of() -> capgpu.CaptioningSolver:
    given = data(train=2)
    return solver(captioner(given), given, batch_size=1, self_critical=capgpu.SelfCritical())


def another_model() -> capgpu.CaptioningSolver:
    return solver(TinyCaptioner(), data(), update_rule="sgd_momentum", optim_config={"learning_rate": 1e-2})


def stopped_by_one_ranks_step_callback() -> capgpu.CaptioningSolver:
    given = data()

    def stop(solver: Any, record: Any) -> None:
        if record["step"] == 6 and solver.ranks.rank == solver.ranks.size - 1:
            solver.stop()

    return solver(captioner(given), given, step_callbacks=[stop])


def early_stopping_and_frozen_parameters() -> capgpu.CaptioningSolver:
    given = data()
    options = {"callbacks": [EarlyStopping(1, min_delta=10.0)], "frozen": ["W_embed", "b"], "num_epochs": 5}
    return solver(captioner(given), given, **options)


SCENARIOS: tuple[Callable[[], capgpu.CaptioningSolver], ...] = (
    with_everything,
    few_rows_of_a_large_vocabulary,
    two_layers,
    attention_to_a_grid,
    tied_weights_in_float64,
    batch_smaller_than_the_ranks,
    captions_computed_two_at_a_time,
    captions_that_the_model_draws,
    fewer_pictures_than_ranks_to_draw_captions_of,
    another_model,
    stopped_by_one_ranks_step_callback,
    early_stopping_and_frozen_parameters,
)


def run_all() -> dict[str, dict[str, Any]]:
    """Run each scenario; return its losses, where it ended, and a digest of its parameters."""
    results = {}
    for scenario in SCENARIOS:
        run = scenario()
        run.train()
        digest = hashlib.sha256()
        for name in sorted(run.model.params):
            digest.update(np.ascontiguousarray(run.model.params[name]))
        results[scenario.__name__] = {
            "losses": run.loss_history,
            "rewards": run.reward_history,
            "val": run.val_loss_history,
            "metric": [entry["sum"] if isinstance(entry, dict) else entry for entry in run.metric_history],
            "end": [run.step, run.epoch, run.stopped, run.best_epoch],
            "digest": digest.hexdigest(),
        }
    return results


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"rank": communicator().rank, "results": run_all()}) + "\n")
