"""What self-critical training gains on COCO's captions: ``python -m bench.self_critical captions_val2017.json``.

Pictures are not needed: the features are made from the captions. A picture's feature vector is a random projection of
the bag of words of its reference captions (for each word the fraction of the captions that have it, without the 20 most
frequent words), of unit length, plus normal noise of length ``--noise``. The noise leaves a captioner unsure of what is
in the picture, as a picture does.

For each seed (of the split, the features, the parameters and the minibatches) an LSTM is trained by cross-entropy, and
its epoch with the lowest validation loss is trained on by self-critical training, of which the epoch with the best
CIDEr of 500 validation pictures counts. Before, all logits are multiplied by ``--sharpen``: the greedy captions are the
same, and those that are drawn become more like them. Scores are COCO's, of greedy captions and of a beam of 3 on test
pictures that take no part in any choice. Two controls have no self-critical training: the one with multiplied logits,
and one that is trained by cross-entropy for as many updates more.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import capgpu
from bench.machine import describe
from bench.process import ROOT
from bench.report import table, write_atomically
from capgpu import CaptioningRNN, CaptioningSolver, SelfCritical
from capgpu.decode import GenerationConfig
from capgpu.evaluation.caption_metric import CaptionMetric
from capgpu.evaluation.captioning import write_captions
from capgpu.metrics import coco_scores
from capgpu.tokens import coco_tokenize
from capgpu.training.self_critical import sharpen

SPECIAL = ("<NULL>", "<START>", "<END>", "<UNK>")
N_STOP_WORDS = 20
SCORES = ("CIDEr", "BLEU-4", "ROUGE-L")
DECODERS = {"greedy": GenerationConfig(), "beam of 3": GenerationConfig(beam=3)}
BAR = 0.10


def read_references(path: Path) -> list[list[list[str]]]:
    """Return the tokenized captions of each picture of a COCO captions file."""
    annotations = json.loads(path.read_text())["annotations"]
    groups: dict[int, list[list[str]]] = defaultdict(list)
    for annotation in annotations:
        groups[annotation["image_id"]].append(coco_tokenize(annotation["caption"]))
    return [groups[image] for image in sorted(groups)]


def make_data(references: list[list[list[str]]], args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Split the pictures, and make vocabulary, captions and features; `references` of each split are kept beside."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(references))
    counts = Counter(word for i in order[2 * args.held_out :] for words in references[i] for word in words)
    frequent = [word for word, count in counts.most_common() if count >= args.min_count]
    word_to_idx = {word: i for i, word in enumerate((*SPECIAL, *frequent))}
    projection = random.standard_normal((len(word_to_idx), args.features)) / np.sqrt(args.features)
    projection[: len(SPECIAL) + N_STOP_WORDS] = 0
    data: dict[str, Any] = {"word_to_idx": word_to_idx, "idx_to_word": list(word_to_idx)}
    parts = {"test": order[: args.held_out], "val": order[args.held_out : 2 * args.held_out]}
    for split, pictures in {**parts, "train": order[2 * args.held_out :]}.items():
        groups = [references[i] for i in pictures]
        bags = np.zeros((len(groups), len(word_to_idx)))
        for bag, group in zip(bags, groups, strict=True):
            for words in group:
                for word in set(words) & word_to_idx.keys():
                    bag[word_to_idx[word]] += 1 / len(group)
        clean = bags @ projection
        clean /= np.maximum(np.linalg.norm(clean, axis=1, keepdims=True), 1e-9)
        noise = random.standard_normal(clean.shape) * args.noise / np.sqrt(args.features)
        captions = np.zeros((sum(map(len, groups)), args.words + 2), np.int64)
        for caption, words in zip(captions, (words for group in groups for words in group), strict=True):
            ids = [word_to_idx.get(word, 3) for word in words[: args.words]]
            caption[: len(ids) + 2] = [1, *ids, 2]
        data |= {
            f"{split}_captions": captions,
            f"{split}_image_idxs": np.repeat(np.arange(len(groups)), list(map(len, groups))),
            f"{split}_features": (clean + noise).astype(np.float32),
            f"{split}_references": groups,
        }
    return data


def scores_of(model: CaptioningRNN, data: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the scores of the captions of the test pictures, by decoder."""
    result = {}
    for name, config in DECODERS.items():
        captions = write_captions(model, data["test_features"], config)
        scores = coco_scores([caption.text.split() for caption in captions], data["test_references"])
        result[name] = {score: float(scores[score].corpus) for score in SCORES}
    return result


def train(model: CaptioningRNN, data: dict[str, Any], args: argparse.Namespace, seed: int, **settings: Any) -> Any:
    """Train with Adam; returns the solver, and prints what it took."""
    start = time.perf_counter()
    solver = CaptioningSolver(
        model, data, "adam", verbose=False, seed=seed, keep_best=True, clip_norm=5.0, print_every=10**9, **settings
    )
    solver.train()
    print(f"  seed {seed}: {solver.step} updates, best epoch {solver.best_epoch} of {solver.epoch}, "
          f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
    return solver


def run(references: list[list[list[str]]], args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train by cross-entropy, then in both ways; returns the scores of each."""
    data = make_data(references, args, seed)
    model = CaptioningRNN(
        data["word_to_idx"], args.features, args.hidden, args.hidden, "lstm", seed=seed, output_dropout=0.3
    )
    print(f"seed {seed}: {len(data['train_captions'])} captions, {len(data['word_to_idx'])} words", flush=True)
    train(
        model, data, args, seed, optim_config={"learning_rate": 4e-3}, batch_size=100, num_epochs=args.first_epochs,
        schedule="cosine",
    )  # fmt: skip
    results = {"cross-entropy": scores_of(model, data)}
    start = {name: array.copy() for name, array in model.params.items()}
    further = {
        "optim_config": {"learning_rate": args.learning_rate},
        "num_epochs": args.epochs,
        "schedule": "cosine",
    }
    metric = CaptionMetric(["CIDEr"], split="val", count=args.held_out, tokenize=str.split)
    n_pictures = len(data["train_features"])
    captions_per_update = round(len(data["train_captions"]) / (n_pictures // args.batch_size))
    train(model, data, args, seed, batch_size=captions_per_update, metric=metric, best_by="CIDEr", **further)
    results["cross-entropy, trained on"] = scores_of(model, data)
    model.params.update(start)
    model.output_dropout = 0.0
    sharpen(model, args.sharpen)
    results["cross-entropy, logits multiplied"] = scores_of(model, data)
    settings = SelfCritical(samples=args.samples, baseline=args.baseline)
    solver = train(
        model, data, args, seed, batch_size=args.batch_size, metric=metric, best_by="CIDEr", self_critical=settings,
        **further,
    )  # fmt: skip
    steps = solver.iterations_per_epoch
    rewards = np.reshape(solver.reward_history, (-1, steps)).mean(axis=1)
    print(f"  seed {seed}: rewards " + " ".join(f"{reward:.3f}" for reward in rewards), flush=True)
    print(
        f"  seed {seed}: CIDEr of val " + " ".join(f"{entry['CIDEr']:.3f}" for entry in solver.metric_history),
        flush=True,
    )
    results["self-critical"] = scores_of(model, data)
    for name, scores in results.items():
        print(f"  seed {seed}, {name}: " + ", ".join(f"{d} {s['CIDEr']:.4f}" for d, s in scores.items()), flush=True)
    return results


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", type=Path, help="COCO's captions, such as captions_val2017.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=500, help="pictures for validation, and for the test")
    parser.add_argument("--min-count", type=int, default=30, help="of a word of the vocabulary")
    parser.add_argument("--words", type=int, default=16, help="of a caption at most")
    parser.add_argument("--features", type=int, default=256, help="length of a feature vector")
    parser.add_argument("--noise", type=float, default=0.2, help="length of the noise beside features of length 1")
    parser.add_argument("--hidden", type=int, default=128, help="size of hidden states and word vectors")
    parser.add_argument("--batch-size", type=int, default=64, help="pictures of a self-critical step")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--baseline", choices=("samples", "greedy"), default="samples")
    parser.add_argument("--first-epochs", type=int, default=8, help="of cross-entropy")
    parser.add_argument("--sharpen", type=float, default=2.5, help="factor of the logits before self-critical training")
    parser.add_argument("--epochs", type=int, default=5, help="of self-critical training")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="of self-critical training")
    parser.add_argument("--processes", type=int, default=1, help="that seeds are divided among")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "self_critical.md")
    args = parser.parse_args()
    references = read_references(args.captions)
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(partial(run, references, args), range(args.seeds)))
    rows = []
    for decoder in DECODERS:
        for name in results[0]:
            row = [decoder, name]
            row += [spread([result[name][decoder][score] for result in results]) for score in SCORES]
            gains = [
                result[name][decoder]["CIDEr"] / result["cross-entropy"][decoder]["CIDEr"] - 1 for result in results
            ]
            row.append("" if name == "cross-entropy" else ", ".join(f"{gain:+.1%}" for gain in gains))
            rows.append(row)
    threads = os.environ.get("CAPGPU_THREADS")
    versions = {"capgpu": capgpu.__version__, "numpy": np.__version__}
    conditions = describe(versions, None if threads is None else int(threads))
    command = shlex.join([args.captions.name, *sys.argv[2:]])
    conditions["command"] = f"`python -m bench.self_critical {command}`"
    least = min(
        result["self-critical"]["greedy"]["CIDEr"] / result["cross-entropy"]["greedy"]["CIDEr"] - 1
        for result in results
    )
    text = [
        "# Self-critical training on COCO's captions",
        "",
        *table(["", ""], [[name, value] for name, value in conditions.items()]),
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        "",
        f"{args.seeds} seeds; mean and standard deviation, and the gain in CIDEr of each seed over cross-entropy.",
        "",
        *table(["decoder", "training", *SCORES, "gain in CIDEr"], rows),
        f"Bar: a gain of {BAR:.0%} in greedy captions' CIDEr. Least gain of a seed: {least:.1%}.",
    ]
    write_atomically(args.out, ("\n".join(text) + "\n").encode())
    print("\n".join(text))


if __name__ == "__main__":
    main()
