"""The workloads of all competitors: sizes, COCO-like captions, features and parameters.

A workload is a function of (size, cell, seed), so that separate processes use the same numbers. Needs only NumPy.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NULL, START, END, UNK = 0, 1, 2, 3
CELLS = ("lstm", "rnn")
#: Further ones, timed on request: a GRU, and an LSTM of two layers.
FURTHER_CELLS = ("gru", "lstm2")
#: Jobs of the CPU benchmark, with `capgpu train`'s defaults first.
JOBS = ("adam-dropout", "adam", "loss", "sample100", "sample1")
SAMPLE_LENGTH = 30
#: Rate of jobs with the suffix ``-dropout``: `capgpu train`'s default, on the features and before the vocabulary.
DROPOUT = 0.3
ADAM_BETA1, ADAM_BETA2, ADAM_EPS = 0.9, 0.999, 1e-8
PARAMETERS = ("W_embed", "W_proj", "b_proj", "Wx", "Wh", "b", "W_vocab", "b_vocab")


@dataclass(frozen=True)
class Size:
    """Extents of a step: batch N, features D, word vectors W, hidden H, vocabulary V, steps T."""

    name: str
    N: int
    D: int
    W: int
    H: int
    V: int
    T: int


SIZES = {
    size.name: size
    for size in (
        Size("S1", N=64, D=512, W=256, H=512, V=1004, T=16),
        Size("S2", N=25, D=512, W=256, H=512, V=1004, T=16),
        Size("S3", N=128, D=2048, W=512, H=512, V=10000, T=20),
        Size("S4", N=16, D=32, W=16, H=32, V=100, T=10),
    )
}


@dataclass(frozen=True)
class Workload:
    """One size and cell, with its arrays.

    Attributes
    ----------
    captions : (N, T+1) int64
        ``<START> words <END>``, NULL-padded.
    features : (N, D) float32
    sample_features : (100, D) float32
        Features for the sampling jobs (the first one, or all).
    params : dict of float32 arrays
        ``W_embed (V,W) W_proj (D,H) b_proj (H) Wx (W,G) Wh (H,G) b (B) W_vocab (H,V) b_vocab (V)`` with
        G = B = 4H (gate order i, f, o, g) for the LSTM and H for the RNN; G = 3H (r, z, n) and B = 4H for the GRU,
        whose last biases are those of the candidate's recurrent sum. A second layer has ``Wx2 (H,G) Wh2 (H,G) b2 (B)``.
    """

    size: Size
    cell: str
    captions: NDArray[np.int64]
    features: NDArray[np.float32]
    sample_features: NDArray[np.float32]
    params: dict[str, NDArray[np.float32]]

    @property
    def inputs(self) -> NDArray[np.int64]:
        """(N, T) input words."""
        return self.captions[:, :-1]

    @property
    def targets(self) -> NDArray[np.int64]:
        """(N, T) target words; NULL where the loss is masked."""
        return self.captions[:, 1:]


def parse_size(text: str) -> Size:
    """Parse a size: ``"S1"``, or ``"S1:T=32,V=8000"`` for a variant of it.

    Raises
    ------
    ValueError
        For a base size or an extent that does not exist, or an extent below 1.
    """
    base, _, changes = text.partition(":")
    if base not in SIZES:
        raise ValueError(f"no size named {base!r}; there are {', '.join(SIZES)}")
    extents: dict[str, Any] = {}
    for change in filter(None, changes.split(",")):
        key, _, value = change.partition("=")
        if key not in {"N", "D", "W", "H", "V", "T"} or not value.isdigit() or int(value) < 1:
            raise ValueError(f"{change!r} in size {text!r}: write one of N D W H V T, '=', a positive integer")
        extents[key] = int(value)
    return dataclasses.replace(SIZES[base], **extents, name=text)


def describe_size(size: Size, *, every: bool = False) -> str:
    """Return a size in the field's terms: ``"batch 64, hidden 512, vocabulary 1,004"``, or `every` extent."""
    text = f"batch {size.N}, hidden {size.H}, vocabulary {size.V:,}"
    return f"{text}, {size.T} time steps, word vectors {size.W}, features {size.D}" if every else text


def caption_lengths(rng: np.random.Generator, count: int, steps: int) -> NDArray[np.int64]:
    """Draw (count,) caption lengths in tokens, including START and END, distributed like COCO's."""
    lengths = np.rint(rng.normal(10.5, 2.4, size=count)).astype(np.int64)
    max_length = steps + 1
    return np.clip(lengths, min(6, max_length), max_length)


def make_captions(rng: np.random.Generator, count: int, steps: int, vocabulary: int) -> NDArray[np.int64]:
    """Draw (count, steps+1) NULL-padded captions whose words follow Zipf's law over their ids."""
    weights = 1.0 / np.arange(1, vocabulary - UNK)
    captions = rng.choice(np.arange(UNK + 1, vocabulary), size=(count, steps + 1), p=weights / weights.sum()).astype(
        np.int64
    )
    lengths = caption_lengths(rng, count, steps)[:, None]
    column = np.arange(steps + 1)[None, :]
    captions[:, 0] = START
    captions = np.where(column == lengths - 1, END, captions)
    return np.where(column < lengths, captions, NULL)


def make_params(rng: np.random.Generator, size: Size, cell: str) -> dict[str, NDArray[np.float32]]:
    """Draw the parameters with the course's initial scales."""
    kind, layers = split_cell(cell)
    gates, biases = {"lstm": (4, 4), "rnn": (1, 1), "gru": (3, 4)}[kind]

    def normal(rows: int, cols: int, scale: float) -> NDArray[np.float32]:
        return (rng.standard_normal((rows, cols)) * scale).astype(np.float32)

    def zeros(cols: int) -> NDArray[np.float32]:
        return np.zeros(cols, dtype=np.float32)

    params = {
        "W_embed": normal(size.V, size.W, 0.01),
        "W_proj": normal(size.D, size.H, size.D**-0.5),
        "b_proj": zeros(size.H),
    }
    for suffix, inputs in [("", size.W), *((str(layer), size.H) for layer in range(2, layers + 1))]:
        params[f"Wx{suffix}"] = normal(inputs, gates * size.H, inputs**-0.5)
        params[f"Wh{suffix}"] = normal(size.H, gates * size.H, size.H**-0.5)
        params[f"b{suffix}"] = zeros(biases * size.H)
    return params | {"W_vocab": normal(size.H, size.V, size.H**-0.5), "b_vocab": zeros(size.V)}


def make_workload(size: Size, cell: str, seed: int = 0) -> Workload:
    """Return the workload of `size` and `cell`; equal arguments give equal bits."""
    rng = np.random.default_rng([seed, *size_key(size)])
    captions = make_captions(rng, size.N, size.T, size.V)
    features = rng.standard_normal((size.N, size.D)).astype(np.float32)
    sample_features = rng.standard_normal((100, size.D)).astype(np.float32)
    return Workload(size, cell, captions, features, sample_features, make_params(rng, size, cell))


def size_key(size: Size) -> tuple[int, ...]:
    """Return the extents alone, so that a size's name does not change its numbers."""
    return (size.N, size.D, size.W, size.H, size.V, size.T)


def split_cell(cell: str) -> tuple[str, int]:
    """Return the kind of a cell, and the number of layers: ``lstm2`` -> ``lstm``, 2."""
    kind = cell.rstrip("0123456789")
    return kind, int(cell[len(kind) :] or 1)


def suffixes(cell: str) -> list[str]:
    """Return what is appended to the names of each layer's parameters: ``lstm2`` -> ``""``, ``"2"``."""
    return ["", *map(str, range(2, split_cell(cell)[1] + 1))]


def split_job(job: str) -> tuple[str, bool]:
    """Return a job without the suffix ``-dropout``, and whether it had it: ``adam-dropout`` -> ``adam``, True."""
    base = job.removesuffix("-dropout")
    return base, base != job


def sample_count(job: str) -> int:
    """Return how many captions a sampling job decodes: ``sample100`` -> 100."""
    return int(job.removeprefix("sample"))


def batch_sizes(targets: NDArray[np.int64]) -> list[int]:
    """Return the number of active captions of each step (a caption ends at its last unmasked target)."""
    steps = targets.shape[1]
    unmasked = targets != NULL
    lengths = np.where(unmasked.any(axis=1), steps - np.argmax(unmasked[:, ::-1], axis=1), 0)
    counts = [int((lengths > t).sum()) for t in range(steps)]
    return [count for count in counts if count]


def describe(work: Workload) -> dict[str, float]:
    """Return the numbers of unmasked and distinct input words, which decide the cost besides the extents."""
    unmasked = work.targets != NULL
    return {
        "tokens": int(unmasked.sum()),
        "unmasked_share": float(unmasked.mean()),
        "distinct_words": int(np.unique(work.inputs[unmasked]).size),
    }


def self_critical_workload(work: Workload) -> Workload:
    """Return a workload whose model ends a caption with a probability of 0.1 at each word, as COCO's are about as long.

    Random parameters alone give END the probability of any other word.
    """
    params = {name: array.copy() for name, array in work.params.items()}
    params["b_vocab"][END] += np.log((work.size.V - 1) / 9)
    return dataclasses.replace(work, params=params)


def training_references(work: Workload) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the captions of a training set of 5,000 pictures, five a picture, and the picture of each."""
    pictures = 5000
    rng = np.random.default_rng([1, *size_key(work.size)])
    captions = make_captions(rng, 5 * pictures, work.size.T, work.size.V)
    return captions, np.repeat(np.arange(pictures), 5)
