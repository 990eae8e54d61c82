"""How long COCO's caption evaluation takes beside pycocoevalcap's: ``python -m bench.metrics captions_val2017.json``.

One human caption of each picture is judged by the others. Ours and theirs take turns in one process, one call each a
round; a round's ratio compares neighbours in time, so that drift of the machine's speed cancels. Scorers get what each
takes as input: ours lists of words, theirs texts of words and spaces. Needs ``pip install 'capgpu[coco-metrics]'``, and
Java for the tokens.
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
    """Make ours and theirs of each part of the evaluation; both of a pair return the corpus's figures."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    raw = {i: [{"caption": text} for text in own] for i, own in enumerate(captions)}
    words = [[coco_tokenize(text) for text in own] for own in captions]
    ours, references = [own[0] for own in words], [own[1:] for own in words]
    theirs = {i: [" ".join(own)] for i, own in enumerate(ours)}
    truths = {i: [" ".join(truth) for truth in own] for i, own in enumerate(references)}

    def their_tokens() -> list[list[str]]:
        return list(PTBTokenizer().tokenize(raw).values())

    def their_scores() -> list[float]:
        scorers = (Rouge(), Cider())
        return [
            *Bleu(4).compute_score(truths, theirs, verbose=0)[0],
            *(s.compute_score(truths, theirs)[0] for s in scorers),
        ]

    def everything() -> list[float]:
        split = [[coco_tokenize(text) for text in own] for own in captions]
        return [score.corpus for score in coco_scores([own[0] for own in split], [own[1:] for own in split]).values()]

    def their_everything() -> list[float]:
        split = PTBTokenizer().tokenize(raw)
        first, rest = {i: own[:1] for i, own in split.items()}, {i: own[1:] for i, own in split.items()}
        scores = Bleu(4).compute_score(rest, first, verbose=0)[0]
        return [*scores, Rouge().compute_score(rest, first)[0], Cider().compute_score(rest, first)[0]]

    return [
        ("tokens", lambda: [[" ".join(coco_tokenize(text)) for text in own] for own in captions], their_tokens),
        (
            "BLEU-1 to BLEU-4",
            lambda: bleu(ours, references).corpus,
            lambda: Bleu(4).compute_score(truths, theirs, 0)[0],
        ),
        ("ROUGE-L", lambda: [rouge_l(ours, references).corpus], lambda: [Rouge().compute_score(truths, theirs)[0]]),
        ("CIDEr", lambda: [cider(ours, references).corpus], lambda: [Cider().compute_score(truths, theirs)[0]]),
        (
            "these metrics together",
            lambda: [score.corpus for score in coco_scores(ours, references).values()],
            their_scores,
        ),
        ("tokens and metrics together", everything, their_everything),
    ]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Call once; milliseconds, and what it gave."""
    start = time.perf_counter()
    result = call()
    return (time.perf_counter() - start) * 1e3, result


def check(job: Job) -> None:
    """Refuse to time results that differ.

    That program decides by the caption after it in its file whether a last letter keeps its period ("8th Ave/CTH D."):
    one token in ten thousand may differ, and with it the sixth digit of figures that are computed on its tokens.
    """
    name, ours, theirs = job
    if name == "tokens":
        pairs = zip(chain.from_iterable(ours()), chain.from_iterable(theirs()), strict=True)
        different = [mine != other for mine, other in pairs]
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
    quiet = 0
    for number in range(rounds):
        quiet += wait_until_quiet(2.0)
        # who goes first changes from round to round
        for side in (0, 1) if number % 2 else (1, 0):
            slices[side].append([timed((ours, theirs)[side])[0]])
    mine, other = summarise(slices[0]), summarise(slices[1])
    ratio = 1 / paired_ratio(*slices)
    print(f"{name}: {mine.median:.1f} ms, {other.median:.1f} ms, {ratio:.1f} times", flush=True)
    return [
        name,
        f"{mine.median:.1f}",
        f"{mine.noise:.0%}",
        f"{other.median:.1f}",
        f"{other.noise:.0%}",
        f"{ratio:.1f}",
        f"{quiet} of {rounds}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("annotations", type=Path, help="COCO's captions, such as captions_val2017.json")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "metrics.md")
    args = parser.parse_args()
    captions = [own for own in read_coco_captions(args.annotations).captions if len(own) > 1]
    header = ["", "capgpu, ms", "spread", "pycocoevalcap, ms", "spread", "times faster", "quiet rounds"]
    rows = [row(job, args.rounds) for job in jobs(captions)]
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "pycocoevalcap")}
    versions["capgpu"] = capgpu.__version__
    facts = describe(versions, None)
    facts["command"] = f"`python -m bench.metrics {shlex.join(sys.argv[1:])}`".replace(
        str(args.annotations), args.annotations.name
    )
    text = [
        "# COCO's caption evaluation beside pycocoevalcap",
        "",
        "Written by `python -m bench.metrics`.",
        "",
        *table(["", ""], [[name, value] for name, value in facts.items()]),
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
