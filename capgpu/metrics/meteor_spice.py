"""METEOR and SPICE: Java programs, run through the package pycocoevalcap."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from capgpu.metrics.corpus import MetricScore, Words, check_corpus
from capgpu.optional_deps import require

__all__ = ["check_java_metric", "meteor", "spice"]

_MODULES = {"METEOR": "pycocoevalcap.meteor.meteor", "SPICE": "pycocoevalcap.spice.spice"}


def check_java_metric(name: str) -> Any:
    """Check that a metric's program can run on this machine.

    Parameters
    ----------
    name : {"METEOR", "SPICE"}
        The metric.

    Returns
    -------
    module
        The module of pycocoevalcap that runs the program.

    Raises
    ------
    MissingExtraError
        If pycocoevalcap is not installed.
    OSError
        If there is no Java runtime or, for SPICE, if its language models are missing.
    """
    module = require(_MODULES[name], "coco-metrics", name)
    if shutil.which("java") is None:
        raise OSError(f"{name}: expected a java program on PATH, got none. Install a Java runtime (8 for SPICE).")
    if name == "SPICE":
        folder = Path(module.__file__).parent
        if not (folder / "lib" / "stanford-corenlp-3.6.0.jar").is_file():
            raise OSError(
                "SPICE: Stanford CoreNLP 3.6.0 is missing; pycocoevalcap does not include it. Fetch it (400 MB) "
                f"with: cd {folder} && python get_stanford_models.py"
            )
    return module


def meteor(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> MetricScore:
    """Compute METEOR with its reference program, version 1.5, as COCO's caption evaluation does.

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
        As `check_java_metric`, and if the program fails.
    TypeError, ValueError
        As for `capgpu.metrics.corpus_bleu`.

    Notes
    -----
    M. Denkowski and A. Lavie, "Meteor Universal: Language Specific Translation Evaluation for Any Target Language",
    2014.
    """
    check_corpus(captions, references)
    module = check_java_metric("METEOR")
    with _english_java():
        scorer = module.Meteor()
    try:
        corpus, values = scorer.compute_score(*(_without_separators(texts) for texts in _joined(captions, references)))
    except (OSError, ValueError) as error:  # the program ended, or printed something that is not a number
        raise OSError(
            f"METEOR's Java program failed ({error}). It needs 2 GB of memory and Java 8 or newer."
        ) from error
    finally:
        program = scorer.meteor_p
        program.kill()
        program.communicate()
        # after a failure pycocoevalcap still holds its lock, and the scorer's destructor would wait for it forever
        if scorer.lock.locked():
            scorer.lock.release()
    return MetricScore(corpus, np.array(values))


@contextmanager
def _english_java() -> Iterator[None]:
    """Set the English number format of Java programs started in the block: 0.5, whatever the locale, not 0,5."""
    # the later option counts, and those of _JAVA_OPTIONS last
    names = [name for name in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS") if name in os.environ or name[0] != "_"]
    before = {name: os.environ.get(name) for name in names}
    for name, options in before.items():
        os.environ[name] = f"{options or ''} -Duser.language=en -Duser.country=US -Duser.region=US".strip()
    try:
        yield
    finally:
        for name, options in before.items():
            if options is None:
                del os.environ[name]
            else:
                os.environ[name] = options


def spice(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> MetricScore:
    """Compute SPICE with its reference program, version 1.0, as COCO's caption evaluation does.

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
        As `check_java_metric`, and if the program fails.
    TypeError, ValueError
        As for `capgpu.metrics.corpus_bleu`.

    Notes
    -----
    P. Anderson et al., "SPICE: Semantic Propositional Image Caption Evaluation", 2016.
    """
    import subprocess

    check_corpus(captions, references)
    try:
        corpus, values = check_java_metric("SPICE").Spice().compute_score(*_joined(captions, references))
    except subprocess.CalledProcessError as error:
        raise OSError(f"SPICE's Java program failed ({error}). It needs 8 GB of memory and Java 8.") from error
    return MetricScore(float(corpus), np.array([value["All"]["f"] for value in values]))


def _joined(
    captions: Sequence[Words], references: Sequence[Sequence[Words]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return references and captions as pycocoevalcap's dictionaries of texts."""
    texts = {i: [" ".join(words) for words in truths] for i, truths in enumerate(references)}
    return texts, {i: [" ".join(words)] for i, words in enumerate(captions)}


def _without_separators(texts: dict[int, list[str]]) -> dict[int, list[str]]:
    """Replace the separators of METEOR's line protocol by spaces."""
    line_ends = str.maketrans("\n\r", "  ")
    return {i: [text.translate(line_ends).replace("|||", " ") for text in group] for i, group in texts.items()}
