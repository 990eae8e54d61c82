"""Effect of grouping by length and of prefetching on a training step: ``python -m bench.batches PREPARED``.

PREPARED is a folder of ``capgpu prepare``, such as `examples/coco_captions.py` makes. The two variants alternate, some
steps each (LSTM, H 512, dropout 0.3: loss, gradients, Adam); a round's ratio is that of adjacent slices. Grouping by
length is compared per word, since minibatches differ in their number of words. Features of a mapped file are rows of
4096 numbers in a temporary file, which is evicted from the page cache before each slice, or is in memory. Runs on the
current backend.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import describe
from bench.process import ROOT, wait_until_quiet
from bench.report import table, write_atomically
from bench.stats import paired_ratio, summarise
from capgpu.backend import asarray, current_backend, synchronize
from capgpu.data.arrays import Minibatch
from capgpu.data.batches import epoch_batches
from capgpu.data.prepared_dataset import load_prepared
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.validation import checked_data

Data = dict[str, Any]


class Trainee:
    """A model and its optimizer."""

    def __init__(self, data: Data) -> None:
        length = data["train_features"].shape[1]
        word_to_idx = data["word_to_idx"]
        self.model = CaptioningRNN(
            word_to_idx, length, 256, 512, "lstm", seed=0, feature_dropout=0.3, output_dropout=0.3
        )
        self.optimizer = Optimizer("adam", {"learning_rate": 1e-3}, self.model.params)

    def milliseconds(self, batches: Iterable[Minibatch]) -> tuple[float, int, int]:
        """Train on the minibatches; return milliseconds, the number of words, and of steps of the recurrence."""
        n_words = n_steps = 0
        start = time.perf_counter()
        for key, (captions, features, _) in enumerate(batches):
            with checked_data():
                _, grads = self.model.loss(asarray(features), captions, dropout_key=key)
            self.optimizer.step(self.model.params, grads)
            n_words += int(np.count_nonzero(captions[:, 1:]))
            n_steps += int(np.flatnonzero(captions.any(axis=0))[-1])
        synchronize()
        return (time.perf_counter() - start) * 1e3, n_words, n_steps


def grouping(data: Data, batch_size: int, rounds: int, steps_per_turn: int) -> list[str]:
    """Compare minibatches grouped by length with shuffled ones."""
    trainee = Trainee(data)
    slices: tuple[list[list[float]], list[list[float]]] = ([], [])
    steps_by_variant, n_quiet = [0, 0], 0
    for round_index in range(rounds + 1):
        n_quiet += wait_until_quiet(2.0) and round_index > 0
        for grouped in (0, 1) if round_index % 2 else (1, 0):
            with closing(
                epoch_batches(data, batch_size, seed=round_index, epoch=0, group_by_length=bool(grouped))
            ) as batches:
                milliseconds, n_words, n_steps = trainee.milliseconds(list(islice(batches, steps_per_turn)))
            if round_index:  # the first round compiles and warms up
                slices[grouped].append([milliseconds / n_words * 1e3])
                steps_by_variant[grouped] += n_steps
    steps_per_batch = [f"{count / rounds / steps_per_turn:.1f}" for count in steps_by_variant]
    return [
        f"grouped by length, N {batch_size}",
        *steps_per_batch,
        *compared(slices, "µs a word"),
        f"{n_quiet} of {rounds}",
    ]


def reading_ahead(data: Data, batch_size: int, rounds: int, steps_per_turn: int, cold: bool) -> list[str]:
    """Compare rows of a mapped file that a thread gathers ahead with rows gathered when they are needed."""
    slices: tuple[list[list[float]], list[list[float]]] = ([], [])
    n_quiet = 0
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        rows = np.random.default_rng(0).standard_normal((60_000, 4096), np.float32)
        np.save(file.name, rows)
        data = data | {"train_features": rows}
        trainee = Trainee(data)
        data["train_image_idxs"] = np.random.default_rng(1).integers(0, len(rows), len(data["train_captions"]))
        del rows
        for round_index in range(rounds + 1):
            n_quiet += wait_until_quiet(2.0) and round_index > 0
            for ahead in (0, 1) if round_index % 2 else (1, 0):
                data["train_features"] = None  # mapped pages are not evicted
                if cold:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                mapped = np.load(file.name, mmap_mode="r")
                # a plain array is not prefetched: its rows are read when the minibatch needs them
                data["train_features"] = mapped if ahead else mapped.view(np.ndarray)
                with closing(epoch_batches(data, batch_size, seed=round_index, epoch=0)) as batches:
                    milliseconds, *_ = trainee.milliseconds(islice(batches, steps_per_turn))
                del mapped, batches
                if round_index:
                    slices[ahead].append([milliseconds / steps_per_turn])
    file_state = "forgotten" if cold else "in memory"
    return [
        f"gathered ahead, N {batch_size}, file {file_state}",
        "",
        "",
        *compared(slices, "ms a step"),
        f"{n_quiet} of {rounds}",
    ]


def compared(slices: tuple[list[list[float]], list[list[float]]], unit: str) -> list[str]:
    """Format both times, and the speed-up of the second."""
    baseline, variant = summarise(slices[0]), summarise(slices[1])
    cells = [f"{summary.median:.1f} {unit}, spread {summary.noise:.0%}" for summary in (baseline, variant)]
    return [*cells, f"{1 / paired_ratio(slices[1], slices[0]):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="a folder of capgpu prepare")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=12, help="steps of a turn")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "batches.md")
    args = parser.parse_args()
    data = load_prepared(args.prepared)
    rows = []
    for batch_size in (64, 128):
        rows.append(grouping(data, batch_size, args.rounds, args.steps))
        print(" | ".join(rows[-1]), flush=True)
    for cold in (False, True):
        rows.append(reading_ahead(data, 64, args.rounds, args.steps, cold))
        print(" | ".join(rows[-1]), flush=True)
    conditions = describe({"numpy": np.__version__, "backend": current_backend().name}, None)
    command = " ".join(sys.argv[1:]).replace(str(args.prepared), args.prepared.name)
    conditions["command"] = f"`python -m bench.batches {command}`"
    text = [
        "# Ways of making minibatches",
        "",
        "Written by `python -m bench.batches`.",
        "",
        *table(["", ""], [[name, value] for name, value in conditions.items()]),
        "",
        f"LSTM, H 512, W 256, {len(data['word_to_idx'])} words, {len(data['train_captions'])} captions, dropout 0.3. "
        f"Medians over {args.rounds} rounds of {args.steps} steps in which both take turns; the spread is the "
        "interquartile range over the median, the ratio the median over rounds of plain / this. A round is quiet when "
        "the cores were idle just before it.",
        "",
        *table(
            ["", "steps of the recurrence, plain", "this", "time, plain", "this", "times faster", "quiet rounds"], rows
        ),
    ]
    write_atomically(args.out, ("\n".join(text) + "\n").encode())
    print(args.out)


if __name__ == "__main__":
    main()
