"""METEOR and SPICE, which exist as Java programs: run through the package pycocoevalcap."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from capgpu.extras import require
from capgpu.metrics.corpus import MetricScore, Words, check_captions

__all__ = ["check_java_metric", "meteor", "spice"]

_MODULES = {"METEOR": "pycocoevalcap.meteor.meteor", "SPICE": "pycocoevalcap.spice.spice"}


def check_java_metric(name: str) -> Any:
    """Make sure that a metric can run, before anything else is done.

    Parameters
    ----------
    name : {"METEOR", "SPICE"}
        The metric.

    Returns
    -------
    module
        The module of pycocoevalcap that runs it.

    Raises
    ------
    MissingExtraError
        Without the package pycocoevalcap.
    OSError
        Without a Java runtime, or, for SPICE, the language models that it does not come with.
    """
    module = require(_MODULES[name], "coco-metrics", name)
    if shutil.which("java") is None:
        raise OSError(f"{name} is a Java program, and there is no java on PATH. Install a Java runtime (8 for SPICE).")
    if name == "SPICE":
        folder = Path(module.__file__).parent
        if not (folder / "lib" / "stanford-corenlp-3.6.0.jar").is_file():
            raise OSError(
                "SPICE needs Stanford CoreNLP 3.6.0, which pycocoevalcap does not bring. Fetch it (some 400 MB) "
                f"with: cd {folder} && python get_stanford_models.py"
            )
    return module


def meteor(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> MetricScore:
    """Compute METEOR with its program, version 1.5, as COCO's caption evaluation does.

    Parameters
    ----------
    captions, references
        As for `capgpu.metrics.corpus_bleu`.

    Returns
    -------
    MetricScore
        From 0 to 1.

    Raises
    ------
    MissingExtraError, OSError
        As `check_java_metric`, and where the program fails.
    TypeError, ValueError
        As for `capgpu.metrics.corpus_bleu`.

    Notes
    -----
    M. Denkowski and A. Lavie, "Meteor Universal: Language Specific Translation Evaluation for Any Target Language",
    2014.
    """
    check_captions(captions, references)
    scorer = check_java_metric("METEOR").Meteor()
    try:
        corpus, values = scorer.compute_score(*(_on_lines(texts) for texts in _joined(captions, references)))
    except (OSError, ValueError) as error:  # its program ended, or said something that is no number
        raise OSError(
            f"METEOR's Java program failed ({error}). It needs 2 GB of memory and Java 8 or newer."
        ) from error
    finally:
        program = scorer.meteor_p
        program.kill()
        program.communicate()
        # pycocoevalcap keeps its lock when it fails, and then waits for it without end when the scorer is let go of
        if scorer.lock.locked():
            scorer.lock.release()
    return MetricScore(corpus, np.array(values))


def spice(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> MetricScore:
    """Compute SPICE with its program, version 1.0, as COCO's caption evaluation does.

    Parameters
    ----------
    captions, references
        As for `capgpu.metrics.corpus_bleu`.

    Returns
    -------
    MetricScore
        The F-score over all relations, from 0 to 1.

    Raises
    ------
    MissingExtraError, OSError
        As `check_java_metric`, and where the program fails.
    TypeError, ValueError
        As for `capgpu.metrics.corpus_bleu`.

    Notes
    -----
    P. Anderson et al., "SPICE: Semantic Propositional Image Caption Evaluation", 2016.
    """
    import subprocess

    check_captions(captions, references)
    try:
        corpus, values = check_java_metric("SPICE").Spice().compute_score(*_joined(captions, references))
    except subprocess.CalledProcessError as error:
        raise OSError(f"SPICE's Java program failed ({error}). It needs 8 GB of memory and Java 8.") from error
    return MetricScore(float(corpus), np.array([value["All"]["f"] for value in values]))


def _joined(
    captions: Sequence[Words], references: Sequence[Sequence[Words]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Hand truths and captions over as pycocoevalcap takes them."""
    truths = {i: [" ".join(words) for words in own] for i, own in enumerate(references)}
    return truths, {i: [" ".join(words)] for i, words in enumerate(captions)}


def _on_lines(texts: dict[int, list[str]]) -> dict[int, list[str]]:
    """Take out what parts sentences in METEOR's protocol of lines."""
    parted = str.maketrans("\n\r", "  ")
    return {i: [text.translate(parted).replace("|||", " ") for text in own] for i, own in texts.items()}
