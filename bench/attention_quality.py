"""Quality of attention over a feature grid beside pooled features: ``python -m bench.attention_quality``.

Models are trained on the embedded emoji as by ``capgpu train``, with its settings, once for each seed: an LSTM on
pooled features (``--data emoji``), and one with attention on grids of 4 x 4 cells (``--data emoji-grid --cell
attention``); with ``--control`` also an LSTM on the mean of those cells, which has the grid's numbers but not their
places. The parameters are those of the lowest validation loss. Captions are greedy, a picture counts if its caption
equals its name: of ``val`` and ``test``, variants of emoji of which training has seen others.

Results are kept in FILE.json after each run, from which the script goes on; the table is written when all are there.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import describe
from bench.report import table, write_atomically
from capgpu import CaptioningRNN, CaptioningSolver
from capgpu.backend import current_backend
from capgpu.data import emoji
from capgpu.data.datasets import open_dataset
from capgpu.evaluation.captioning import write_captions

VARIANTS = {
    "pooled": ("LSTM, pooled feature", "emoji", "lstm"),
    "mean": ("LSTM, mean of the grid", "emoji-grid", "lstm"),
    "grid": ("attention over the grid", "emoji-grid", "attention"),
}
SPLITS = ("val", "test")
#: Settings of ``capgpu train``.
_WORDVEC, _DROPOUT, _BATCH, _RATE = 256, 0.3, 64, 3e-3
#: Two-sided 95% quantiles of Student's distribution, by degrees of freedom.
_STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def train_once(variant: str, seed: int, epochs: int, hidden: int) -> dict[str, Any]:
    """Train a model, and return its losses and the fractions of right captions."""
    _, name, cell = VARIANTS[variant]
    data = dict(open_dataset(name).data)
    if variant == "mean":
        for split in emoji.PARTS:
            data[f"{split}_features"] = data[f"{split}_features"].mean(axis=1)
    model = CaptioningRNN(
        data["word_to_idx"],
        data["train_features"].shape[-1],
        _WORDVEC,
        hidden,
        cell,  # type: ignore[arg-type] # of the table above
        seed=seed,
        feature_dropout=_DROPOUT,
        output_dropout=_DROPOUT,
    )
    start = time.process_time()
    solver = CaptioningSolver(
        model,
        data,
        update_rule="adam",
        optim_config={"learning_rate": _RATE},
        batch_size=_BATCH,
        num_epochs=epochs,
        schedule="cosine",
        seed=seed,
        keep_best=True,
        verbose=False,
    )
    solver.train()
    result: dict[str, Any] = {
        "variant": variant,
        "seed": seed,
        "parameters": sum(int(array.size) for array in model.params.values()),
        "val_loss": solver.best_val_loss,
        "best_epoch": solver.best_epoch,
        "train_loss": float(np.mean(solver.loss_history[-solver.iterations_per_epoch :])),
        "processor_seconds": time.process_time() - start,
    }
    for split in (*SPLITS, "unseen"):
        captions = [caption.text for caption in write_captions(model, data[f"{split}_features"])]
        result[split], result[f"{split}_base"] = emoji.exact_and_base(captions, data[f"{split}_names"])
    return result


def _spread(values: list[float]) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else math.nan
    return f"{100 * np.mean(values):.1f}% ± {100 * deviation:.1f}"


def report(results: list[dict[str, Any]], epochs: int, hidden: int, command: str) -> str:
    """Return the page of results."""
    found = {(entry["variant"], entry["seed"]): entry for entry in results}
    seeds = sorted({seed for _, seed in found})
    variants = [variant for variant in VARIANTS if any(name == variant for name, _ in found)]
    conditions = describe({"numpy": np.__version__}, None) | {"command": f"`{command}`"}
    lines = ["# Attention over a grid beside pooled features", "", *table(["", ""], conditions.items())]
    lines += [
        f"Held-out variants of the embedded emoji, {hidden} units, {epochs} epochs, else the settings of "
        f"`capgpu train`; backend {current_backend().name}. Exact: the caption is the picture's name word for word. "
        f"Mean and standard deviation over {len(seeds)} seeds; 187 pictures in each of val and test.",
        "",
    ]
    rows = []
    for variant in variants:
        entries = [found[variant, seed] for seed in seeds]
        rows.append(
            [
                VARIANTS[variant][0],
                f"{entries[0]['parameters']:,}",
                *(_spread([entry[split] for entry in entries]) for split in SPLITS),
                _spread([entry["test_base"] for entry in entries]),
                f"{np.mean([entry['val_loss'] for entry in entries]):.3f}",
                f"{np.mean([entry['best_epoch'] for entry in entries]):.0f}",
                f"{np.mean([entry['processor_seconds'] for entry in entries]):.0f} s",
            ]
        )
    headings = ["model", "parameters", "exact, val", "exact, test", "base name, test", "validation loss", "best epoch"]
    lines += [*table([*headings, "processor time"], rows), "Exact on test (and val), by seed:", ""]
    rows = [
        [VARIANTS[variant][0], *(f"{found[variant, s]['test']:.1%} ({found[variant, s]['val']:.1%})" for s in seeds)]
        for variant in variants
    ]
    lines += table(["model", *map(str, seeds)], rows)
    for other in (variant for variant in variants if variant != "grid"):
        for split in SPLITS:
            gains = [found["grid", seed][split] - found[other, seed][split] for seed in seeds]
            half = _STUDENT.get(len(gains) - 1, 2.0) * np.std(gains, ddof=1) / math.sqrt(len(gains))
            lines.append(
                f"- Attention minus {VARIANTS[other][0]}, {split}: {100 * np.mean(gains):+.1f} points, 95% interval "
                f"over seeds ± {100 * half:.1f}; larger in {sum(gain > 0 for gain in gains)} of {len(gains)} seeds."
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, train what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--control", action="store_true", help="also train on the mean of the grid")
    parser.add_argument("--out", type=Path, default=Path("attention_quality"), metavar="FILE")
    options = parser.parse_args()
    kept = options.out.with_suffix(".json")
    settings = {"epochs": options.epochs, "hidden": options.hidden}
    stored = json.loads(kept.read_text()) if kept.is_file() else {**settings, "results": []}
    if {name: stored[name] for name in settings} != settings:
        parser.error(f"{kept} holds results of other settings: name another --out.")
    done = {(entry["variant"], entry["seed"]) for entry in stored["results"]}
    variants = [variant for variant in VARIANTS if variant != "mean" or options.control]
    for seed in range(options.seeds):
        for variant in variants:
            if (variant, seed) in done:
                continue
            entry = train_once(variant, seed, options.epochs, options.hidden)
            stored["results"].append(entry)
            write_atomically(kept, (json.dumps(stored, indent=1) + "\n").encode())
            print(
                f"{VARIANTS[variant][0]}, seed {seed}: exact {entry['test']:.1%} of test, {entry['val']:.1%} of val; "
                f"{entry['processor_seconds']:.0f} s of processor time",
                flush=True,
            )
    command = " ".join(["python -m bench.attention_quality", *sys.argv[1:]])
    chosen = [entry for entry in stored["results"] if entry["variant"] in variants and entry["seed"] < options.seeds]
    page = report(chosen, options.epochs, options.hidden, command)
    write_atomically(options.out.with_suffix(".md"), page.encode())


if __name__ == "__main__":
    main()
