"""Decoding in idiomatic PyTorch: one batched step, then a top-k over all hypotheses' words.

eager
    Plain calls under `inference_mode`.
compiled
    The step with the choice behind it through `torch.compile` (static shapes).

Each picture has K hypotheses. One that has ended keeps its score: its only continuation is NULL with log-probability 0.
Greedy decoding is a beam of one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from bench.peers.torch_peer import Captioner, advance, versions
from bench.workloads import END, NULL, SAMPLE_LENGTH, START, Workload

__all__ = ["TorchDecoding", "make_task", "versions"]

State = tuple[torch.Tensor, ...]


def search_step(word: torch.Tensor, state: State, scores: torch.Tensor, weights: State, lstm: bool) -> tuple[Any, ...]:
    """Take the hypotheses of (N, K) words one step on: words, states (N K, H), scores and parents' rows (N, K)."""
    n_pictures, width = scores.shape
    words = word.reshape(-1)
    logits, h, c = advance(words, *state, weights, lstm)
    log_probs = logits.log_softmax(1)
    ended = (words == END) | (words == NULL)
    log_probs[:, NULL] = torch.where(ended, 0.0, -math.inf)
    log_probs[:, START] = -math.inf
    log_probs[:, START + 1 :].masked_fill_(ended[:, None], -math.inf)
    total = (scores.reshape(-1, 1) + log_probs).reshape(n_pictures, -1)
    scores, choices = total.topk(width, dim=1)
    size = log_probs.shape[1]
    rows = (choices // size + width * torch.arange(n_pictures)[:, None]).reshape(-1)
    return choices % size, (h[rows], c[rows] if lstm else c), scores, rows


class TorchDecoding:
    """100 captions, searched for with a beam."""

    def __init__(self, mode: str, work: Workload, job: str) -> None:
        torch._dynamo.reset()
        self.lstm = work.cell == "lstm"
        self.model = Captioner(work)
        self.features = torch.tensor(work.sample_features)
        self.width = 1 if job == "greedy" else int(job.removeprefix("beam"))
        self.advance: Any = torch.compile(search_step, dynamic=False) if mode == "compiled" else search_step
        self.words = self.scores = torch.empty(0)

    def build(self) -> None:
        """Compile by running once."""
        self.step()

    def release(self) -> None:
        """Drop the last step's result."""
        self.words = self.scores = torch.empty(0)

    def set_rate(self, rate: float) -> None:
        """Do nothing: decoding has no learning rate."""

    @torch.inference_mode()
    def step(self) -> None:
        """Write the captions."""
        embed, _, _, w_ih, w_hh, bias, w_vocab, b_vocab = self.model.trained()
        weights = (embed, w_ih, w_hh, bias, w_vocab, b_vocab)
        h = self.model.proj(self.features).repeat_interleave(self.width, 0)
        count = len(self.features)
        state: State = (h, torch.zeros_like(h))
        scores = torch.full((count, self.width), -math.inf)
        scores[:, 0] = 0
        word = torch.full((count, self.width), START)
        written = torch.empty((count * self.width, SAMPLE_LENGTH), dtype=torch.int64)
        for t in range(SAMPLE_LENGTH):
            word, state, scores, rows = self.advance(word, state, scores, weights, self.lstm)
            written = written[rows]
            written[:, t] = word.reshape(-1)
            if bool(((word == END) | (word == NULL)).all()):
                written[:, t + 1 :] = NULL
                break
        self.words = written.reshape(count, self.width, -1)[:, 0]
        self.scores = scores[:, 0]

    def result(self) -> dict[str, np.ndarray]:
        """Return the log-probability of each picture's best caption."""
        return {"scores": self.scores.numpy()}


def make_task(mode: str, work: Workload, job: str) -> TorchDecoding:
    """Return the task of `mode`: eager or compiled."""
    return TorchDecoding(mode, work, job)
