"""Times of COCO's caption evaluation in capgpu and pycocoevalcap: ``python -m bench.metrics captions_val2017.json``.

One human caption of each picture is scored against the others. The two libraries alternate in one process, one call
each per round; a round's ratio is that of adjacent calls, so that drift of the machine's speed cancels. Inputs have
each library's own form: lists of words for capgpu, strings of words for pycocoevalcap. Needs
``pip install -e '.[coco-metrics]'``, and Java for the tokens.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shlex
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import capgpu
from bench.machine import describe
from bench.process import ROOT, wait_until_quiet
from bench.report import table, write_atomically
from bench.stats import paired_ratio, summarise
from capgpu.data.coco_json import read_coco_captions
from capgpu.metrics import bleu, cider, coco_scores, rouge_l
from capgpu.tokens import coco_tokenize

Job = tuple[str, Callable[[], Any], Callable[[], Any]]


def jobs(captions: list[list[str]]) -> list[Job]:
    """Return each part of the evaluation as a call of capgpu and one of pycocoevalcap, with comparable results."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    raw = {i: [{"caption": text} for text in captions_of_picture] for i, captions_of_picture in enumerate(captions)}
    tokens = [[coco_tokenize(text) for text in captions_of_picture] for captions_of_picture in captions]
    ours, references = (
        [captions_of_picture[0] for captions_of_picture in tokens],
        [captions_of_picture[1:] for captions_of_picture in tokens],
    )
    their_captions = {i: [" ".join(captions_of_picture)] for i, captions_of_picture in enumerate(ours)}
    their_references = {
        i: [" ".join(reference) for reference in captions_of_picture]
        for i, captions_of_picture in enumerate(references)
    }

    def their_tokens() -> list[list[str]]:
        return list(PTBTokenizer().tokenize(raw).values())

    def their_scores() -> list[float]:
        scorers = (Rouge(), Cider())
        return [
            *Bleu(4).compute_score(their_references, their_captions, verbose=0)[0],
            *(s.compute_score(their_references, their_captions)[0] for s in scorers),
        ]

    def everything() -> list[float]:
        tokens_of_pictures = [[coco_tokenize(text) for text in captions_of_picture] for captions_of_picture in captions]
        return [
            score.corpus
            for score in coco_scores(
                [captions_of_picture[0] for captions_of_picture in tokens_of_pictures],
                [captions_of_picture[1:] for captions_of_picture in tokens_of_pictures],
            ).values()
        ]

    def their_everything() -> list[float]:
        tokens_of_pictures = PTBTokenizer().tokenize(raw)
        their_candidates, their_truths = (
            {i: captions_of_picture[:1] for i, captions_of_picture in tokens_of_pictures.items()},
            {i: captions_of_picture[1:] for i, captions_of_picture in tokens_of_pictures.items()},
        )
        scores = Bleu(4).compute_score(their_truths, their_candidates, verbose=0)[0]
        return [
            *scores,
            Rouge().compute_score(their_truths, their_candidates)[0],
            Cider().compute_score(their_truths, their_candidates)[0],
        ]

    return [
        (
            "tokens",
            lambda: [
                [" ".join(coco_tokenize(text)) for text in captions_of_picture] for captions_of_picture in captions
            ],
            their_tokens,
        ),
        (
            "BLEU-1 to BLEU-4",
            lambda: bleu(ours, references).corpus,
            lambda: Bleu(4).compute_score(their_references, their_captions, 0)[0],
        ),
        (
            "ROUGE-L",
            lambda: [rouge_l(ours, references).corpus],
            lambda: [Rouge().compute_score(their_references, their_captions)[0]],
        ),
        (
            "CIDEr",
            lambda: [cider(ours, references).corpus],
            lambda: [Cider().compute_score(their_references, their_captions)[0]],
        ),
        (
            "these metrics together",
            lambda: [score.corpus for score in coco_scores(ours, references).values()],
            their_scores,
        ),
        ("tokens and metrics together", everything, their_everything),
    ]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Call once; return the milliseconds and the result."""
    start = time.perf_counter()
    result = call()
    return (time.perf_counter() - start) * 1e3, result


def check(job: Job) -> None:
    """Check that both libraries' results agree before they are timed.

    Stanford's tokenizer decides by the following caption in its file whether a final letter keeps its period ("8th
    Ave/CTH D."): one caption in ten thousand may have different tokens, which changes the sixth digit of scores.
    """
    name, ours, theirs = job
    if name == "tokens":
        pairs = zip(chain.from_iterable(ours()), chain.from_iterable(theirs()), strict=True)
        different = [our_token != their_token for our_token, their_token in pairs]
        print(f"captions with other tokens: {sum(different)} of {len(different)}")
        equal = sum(different) <= len(different) / 10_000
    else:
        tolerance = 1e-5 if name.startswith("tokens") else 1e-9
        equal = bool(np.abs(np.array(ours()) - np.array(theirs())).max() <= tolerance)
    if not equal:
        raise SystemExit(f"{name}: ours and theirs differ, there is nothing to compare")


def row(job: Job, rounds: int) -> list[str]:
    """Measure one job."""
    name, ours, theirs = job
    check(job)
    slices: tuple[list[list[float]], list[list[float]]] = ([], [])
    n_quiet = 0
    for round_index in range(rounds):
        n_quiet += wait_until_quiet(2.0)
        # who goes first changes from round to round
        for index in (0, 1) if round_index % 2 else (1, 0):
            slices[index].append([timed((ours, theirs)[index])[0]])
    our_summary, their_summary = summarise(slices[0]), summarise(slices[1])
    ratio = 1 / paired_ratio(*slices)
    print(f"{name}: {our_summary.median:.1f} ms, {their_summary.median:.1f} ms, {ratio:.1f} times", flush=True)
    return [
        name,
        f"{our_summary.median:.1f}",
        f"{our_summary.noise:.0%}",
        f"{their_summary.median:.1f}",
        f"{their_summary.noise:.0%}",
        f"{ratio:.1f}",
        f"{n_quiet} of {rounds}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("annotations", type=Path, help="COCO's captions, such as captions_val2017.json")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "metrics.md")
    args = parser.parse_args()
    captions = [
        captions_of_picture
        for captions_of_picture in read_coco_captions(args.annotations).captions
        if len(captions_of_picture) > 1
    ]
    header = ["", "capgpu, ms", "spread", "pycocoevalcap, ms", "spread", "times faster", "quiet rounds"]
    rows = [row(job, args.rounds) for job in jobs(captions)]
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "pycocoevalcap")}
    versions["capgpu"] = capgpu.__version__
    conditions = describe(versions, None)
    conditions["command"] = f"`python -m bench.metrics {shlex.join(sys.argv[1:])}`".replace(
        str(args.annotations), args.annotations.name
    )
    text = [
        "# COCO's caption evaluation beside pycocoevalcap",
        "",
        "Written by `python -m bench.metrics`.",
        "",
        *table(["", ""], [[name, value] for name, value in conditions.items()]),
        "",
        f"{len(captions)} pictures, one human caption of each judged by the others, {sum(map(len, captions))} captions "
        "in all. Medians over rounds in which both take turns; the spread is the interquartile range over the median, "
        "the ratio the median over rounds of theirs / ours. A round is quiet when the cores were idle just before it. "
        "Before they are timed, the results are compared: figures on the same tokens within 1e-9, tokens of all but "
        "one caption in ten thousand, and figures on those within 1e-5.",
        "",
        *table(header, rows),
        "",
        "Tokens are apart from the metrics' own times; theirs have the start of Java in them, which an evaluation of "
        "theirs pays twice.",
    ]
    write_atomically(args.out, ("\n".join(text) + "\n").encode())
    print(args.out)


if __name__ == "__main__":
    main()
