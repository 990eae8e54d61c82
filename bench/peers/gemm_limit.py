"""Only the matrix products of a step: a lower bound for every implementation on the same BLAS.

mode is ``<variant>-<library>``; libraries are ``numpy`` (usually OpenBLAS) and ``torch`` (usually MKL).

full
    Every token of the padded batch.
packed
    Unmasked tokens only; the recurrent products of step t at the number of captions that still run.
distinct
    Packed, and the three products of the input projection on the batch's distinct words only.

Buffers are preallocated and reused.  A decoding job has its per-step products, in one variant, ``full``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from bench.workloads import SAMPLE_LENGTH, Workload, batch_sizes, describe, sample_count, split_cell

Product = tuple[Any, Any, Any]
Buffer = Callable[[int, int], Any]


def versions() -> dict[str, str]:
    """Return nothing: the two BLAS are named by the exercise's and PyTorch's entries."""
    return {}


def training_products(work: Workload, variant: str, buffer: Buffer) -> list[Product]:
    """List (left, right, out) of a forward and a backward pass, in the order a step needs them."""
    size, gates = work.size, work.params["Wx"].shape[1]
    if variant == "full":
        sizes, rows = [size.N] * size.T, size.N * size.T
        word_rows = rows
    else:
        sizes = batch_sizes(work.targets)
        rows = sum(sizes)
        word_rows = int(describe(work)["distinct_words"]) if variant == "distinct" else rows
    features, w_proj, h0 = buffer(size.N, size.D), buffer(size.D, size.H), buffer(size.N, size.H)
    x, wx, a = buffer(word_rows, size.W), buffer(size.W, gates), buffer(word_rows, gates)
    # of further layers, which read hidden states: every row is distinct
    upper = split_cell(work.cell)[1] - 1
    whx = buffer(size.H, gates)
    h, wh, da = buffer(rows, size.H), buffer(size.H, gates), buffer(rows, gates)
    w_vocab, scores = buffer(size.H, size.V), buffer(rows, size.V)
    dwx, dwh, dh = buffer(size.W, gates), buffer(size.H, gates), buffer(rows, size.H)
    # not written into x, since values fed back at each step shrink until they are denormal, which is slow
    dx = buffer(word_rows, size.W)
    dw_vocab, dw_proj = buffer(size.H, size.V), buffer(size.D, size.H)

    starts = np.concatenate([[0], np.cumsum(sizes)])
    spans = [slice(int(lo), int(hi)) for lo, hi in pairwise(starts)]
    forward = [(h[span], wh, da[span]) for span in spans]
    backward = [(da[span], wh.T, dh[span]) for span in reversed(spans)]
    return [
        (features, w_proj, h0),
        (x, wx, a),
        *forward,
        *[(h, whx, da), *forward] * upper,
        (h, w_vocab, scores),
        (h.T, scores, dw_vocab),
        (scores, w_vocab.T, dh),
        *[*backward, (h.T, da, dwh), (h.T, da, dwh), (da, whx.T, dh)] * upper,
        *backward,
        (h.T, da, dwh),
        (x.T, a, dwx),
        (a, wx.T, dx),
        (features.T, h0, dw_proj),
    ]


def decoding_products(work: Workload, count: int, buffer: Buffer) -> list[Product]:
    """List (left, right, out) of decoding `count` captions."""
    size, gates = work.size, work.params["Wx"].shape[1]
    h, a, wh = buffer(count, size.H), buffer(count, gates), buffer(size.H, gates)
    step = [
        (buffer(count, size.W), buffer(size.W, gates), a),
        (h, wh, a),
        (h, buffer(size.H, size.V), buffer(count, size.V)),
    ]
    return [(buffer(count, size.D), buffer(size.D, size.H), h), *(step * SAMPLE_LENGTH)]


class GemmTask:
    """The products of one job through one library."""

    def __init__(self, mode: str, work: Workload, job: str) -> None:
        variant, library = mode.split("-")
        rng = np.random.default_rng(0)

        def buffer(rows: int, cols: int) -> Any:
            array = (rng.standard_normal((rows, cols)) * 0.01).astype(np.float32)
            if library == "numpy":
                return array
            import torch

            return torch.from_numpy(array)

        if library == "numpy":
            self.multiply: Any = np.dot
        else:
            import torch

            self.multiply = torch.mm
        if job.startswith("sample"):
            self.products = decoding_products(work, sample_count(job), buffer)
        else:
            self.products = training_products(work, variant, buffer)

    def build(self) -> None:
        """Do nothing: there is nothing to compile."""

    def release(self) -> None:
        """Do nothing: no result is kept."""

    def set_rate(self, rate: float) -> None:
        """Do nothing: there are no updates."""

    def step(self) -> None:
        """Do all products."""
        multiply = self.multiply
        for left, right, out in self.products:
            multiply(left, right, out=out)

    def result(self) -> dict[str, np.ndarray]:
        """Return nothing: there is no result to compare."""
        return {}


def make_task(mode: str, work: Workload, job: str) -> GemmTask:
    """Return the products' task of `mode`."""
    return GemmTask(mode, work, job)
