"""The attention captioner in PyTorch, as its users write it: a loop over `nn.LSTMCell` on [word vector | context].

loop
    All T steps of all captions, padded.
shrinking
    Captions sorted by length; each step takes those that have not ended, as the well-known tutorials do.
compiled
    `torch.compile` of the loop's loss (static shapes, default mode).

The vocabulary is scored once, for all steps. Adam is the fused implementation. The second bias is held at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench.peers.torch_peer import swap_gates
from bench.workloads import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, NULL

__all__ = ["MODES", "AttentionCaptioner", "make_step"]

MODES = ("loop", "shrinking", "compiled")


class AttentionCaptioner(nn.Module):
    """The model with the parameters of `capgpu.CaptioningRNN` (host arrays)."""

    def __init__(self, params: dict[str, np.ndarray]) -> None:
        super().__init__()
        p = {name: torch.tensor(value) for name, value in params.items()}
        (words, length), (features, size) = p["W_embed"].shape, p["W_proj"].shape
        self.project, self.embed = nn.Linear(features, size), nn.Embedding(words, length)
        self.cell, self.vocab = nn.LSTMCell(length + size, size), nn.Linear(size, words)
        with torch.no_grad():
            self.project.weight.copy_(p["W_proj"].T)
            self.project.bias.copy_(p["b_proj"])
            self.embed.weight.copy_(p["W_embed"])
            inputs = np.concatenate([params["Wx"], params["Wattn"]])
            self.cell.weight_ih.copy_(torch.tensor(swap_gates(inputs, "lstm").T))
            self.cell.weight_hh.copy_(torch.tensor(swap_gates(params["Wh"], "lstm").T))
            self.cell.bias_ih.copy_(torch.tensor(swap_gates(params["b"], "lstm")))
            self.cell.bias_hh.zero_()
            self.vocab.weight.copy_(p["W_vocab"].T)
            self.vocab.bias.copy_(p["b_vocab"])
        self.cell.bias_hh.requires_grad_(False)

    def advance(
        self, word: torch.Tensor, h: torch.Tensor, c: torch.Tensor, A: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step: attention, then the LSTM."""
        weights = torch.softmax(torch.bmm(A, h.unsqueeze(2)).squeeze(2) / math.sqrt(h.shape[1]), dim=1)
        context = torch.bmm(weights.unsqueeze(1), A).squeeze(1)
        state: tuple[torch.Tensor, torch.Tensor] = self.cell(torch.cat([word, context], dim=1), (h, c))
        return state

    def padded_loss(self, features: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Compute the loss of (N, T + 1) captions, with all steps of all captions."""
        A, words = self.project(features), self.embed(captions[:, :-1])
        h = c = A.mean(1)
        states = []
        for t in range(words.shape[1]):
            h, c = self.advance(words[:, t], h, c, A)
            states.append(h)
        scores = self.vocab(torch.stack(states, 1)).flatten(0, 1)
        total = functional.cross_entropy(scores, captions[:, 1:].flatten(), ignore_index=NULL, reduction="sum")
        return total / len(captions)

    def shrinking_loss(self, features: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Compute the loss of (N, T + 1) captions, each up to its end."""
        lengths, order = (captions[:, 1:] != NULL).sum(1).sort(descending=True, stable=True)
        captions = captions[order]
        A, words = self.project(features[order]), self.embed(captions[:, :-1])
        h = c = A.mean(1)
        states, targets = [], []
        for t in range(int(lengths[0])):
            count = int((lengths > t).sum())
            h, c = self.advance(words[:count, t], h[:count], c[:count], A[:count])
            states.append(h)
            targets.append(captions[:count, t + 1])
        total = functional.cross_entropy(self.vocab(torch.cat(states)), torch.cat(targets), reduction="sum")
        return total / len(captions)


def make_step(
    mode: str, params: dict[str, np.ndarray], features: np.ndarray, captions: np.ndarray
) -> Callable[[], float]:
    """Return a training step with Adam in one of the modes; each call returns the loss before its update."""
    model = AttentionCaptioner(params)
    loss_of: Any = model.shrinking_loss if mode == "shrinking" else model.padded_loss
    if mode == "compiled":
        loss_of = torch.compile(loss_of, dynamic=False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3, betas=(ADAM_BETA1, ADAM_BETA2), eps=ADAM_EPS, fused=True)
    grid, ids = torch.tensor(features), torch.tensor(captions)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(grid, ids)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
