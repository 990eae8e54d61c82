"""PyTorch, the ways its users write this model: on the CPU, and for `bench.cuda` on a GPU.

padded
    `nn.LSTM` / `nn.RNN` / `nn.GRU` over all T steps (oneDNN's fused layer where there is one), time-major so that no
    transpose is paid; the vocabulary projection and the loss on unmasked tokens only.
packed
    The same layers over a `PackedSequence` built from the word ids, so that padding is never embedded,
    projected or scored.
compiled
    `torch.compile` (default mode, static shapes) of the padded step, with `ignore_index` for the mask,
    because selection by value breaks the graph.
graphed
    That step uncompiled; `bench.peers.cuda_torch` captures it in one CUDA graph.

Adam is the fused implementation.  Sampling is a hand loop over one step under `inference_mode`, compiled in
the compiled mode.  The second bias vector of PyTorch's cells is held at zero and gets no gradient, except for that of
a GRU's candidate.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from bench.workloads import (
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPS,
    CELLS,
    DROPOUT,
    NULL,
    SAMPLE_LENGTH,
    START,
    Workload,
    sample_count,
    split_cell,
    split_job,
    suffixes,
)


def versions() -> dict[str, str]:
    """Return what this competitor runs on."""
    return {
        "torch": torch.__version__,
        "torch_threads": str(torch.get_num_threads()),
        "torch_blas": "MKL" if torch.backends.mkl.is_available() else "other",
    }


def swap_gates(array: np.ndarray, cell: str) -> np.ndarray:
    """Reorder the last axis between i, f, o, g (ours) and i, f, g, o (PyTorch's); its own inverse."""
    if not cell.startswith("lstm"):
        return array
    i, f, third, fourth = np.split(array, 4, axis=-1)
    return np.concatenate([i, f, fourth, third], axis=-1)


class Captioner(nn.Module):
    """The model with the workload's parameters; `dropout` on the features, between layers, before the vocabulary."""

    def __init__(self, work: Workload, dropout: float = 0.0) -> None:
        super().__init__()
        size, p = work.size, work.params
        self.dropout = dropout
        self.cell_type, self.layers = split_cell(work.cell)
        self.embed = nn.Embedding(size.V, size.W, _weight=torch.tensor(p["W_embed"]))
        self.proj = nn.Linear(size.D, size.H)
        kind = {"lstm": nn.LSTM, "rnn": nn.RNN, "gru": nn.GRU}[self.cell_type]
        self.cell = kind(size.W, size.H, self.layers, dropout=dropout if self.layers > 1 else 0.0)
        self.vocab = nn.Linear(size.H, size.V)
        with torch.no_grad():
            self.proj.weight.copy_(torch.tensor(p["W_proj"].T))
            self.proj.bias.copy_(torch.tensor(p["b_proj"]))
            for suffix, (w_ih, w_hh, b_ih, b_hh) in zip(suffixes(work.cell), self.cell.all_weights, strict=True):
                w_ih.copy_(torch.tensor(swap_gates(p[f"Wx{suffix}"], work.cell).T))
                w_hh.copy_(torch.tensor(swap_gates(p[f"Wh{suffix}"], work.cell).T))
                b_ih.copy_(torch.tensor(swap_gates(p[f"b{suffix}"][: len(b_ih)], work.cell)))
                b_hh.zero_()
                of_candidate = p[f"b{suffix}"][len(b_ih) :]
                b_hh[len(b_hh) - len(of_candidate) :] = torch.tensor(of_candidate)
            self.vocab.weight.copy_(torch.tensor(p["W_vocab"].T))
            self.vocab.bias.copy_(torch.tensor(p["b_vocab"]))
        for *_, b_hh in self.cell.all_weights:
            b_hh.requires_grad_(self.cell_type == "gru")
            if self.cell_type == "gru":
                b_hh.register_hook(_of_the_candidate)

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters in the workload's order; a GRU's second bias follows the first."""
        cells = [array for layer in self.cell.all_weights for array in layer if array.requires_grad]
        return [self.embed.weight, self.proj.weight, self.proj.bias, *cells, self.vocab.weight, self.vocab.bias]

    def dropped(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` with dropout, where the model has any."""
        return functional.dropout(x, self.dropout) if self.dropout else x

    def start(self, features: torch.Tensor) -> Any:
        """Return the cell's first state from (N, D) features."""
        h0 = self.proj(self.dropped(features)).repeat(self.layers, 1, 1)
        return (h0, torch.zeros_like(h0)) if self.cell_type == "lstm" else h0

    def padded_loss(
        self, features: torch.Tensor, captions: torch.Tensor, real: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the loss of (T+1, N) captions over all steps; `real` holds the positions (T N) that are scored."""
        hidden, _ = self.cell(self.embed(captions[:-1]), self.start(features))
        targets = captions[1:].reshape(-1)
        if real is None:
            real = torch.nonzero(targets).squeeze(1)
        logits = self.vocab(self.dropped(hidden.flatten(0, 1).index_select(0, real)))
        return functional.cross_entropy(logits, targets[real], reduction="sum") / features.shape[0]

    def static_loss(self, features: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Compute the loss of (T+1, N) captions, with shapes that do not depend on the words."""
        hidden, _ = self.cell(self.embed(captions[:-1]), self.start(features))
        logits = self.vocab(self.dropped(hidden)).flatten(0, 1)
        total = functional.cross_entropy(logits, captions[1:].reshape(-1), ignore_index=NULL, reduction="sum")
        return total / features.shape[0]

    def packed_loss(
        self, features: torch.Tensor, captions: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the loss of (T+1, N) captions without their padding; PyTorch needs the lengths on the host."""
        if lengths is None:
            lengths = (captions[1:] != NULL).sum(0)
        words = pack_padded_sequence(captions[:-1], lengths, enforce_sorted=False)
        targets = pack_padded_sequence(captions[1:], lengths, enforce_sorted=False)
        vectors = PackedSequence(
            self.embed(words.data), words.batch_sizes, words.sorted_indices, words.unsorted_indices
        )
        hidden, _ = self.cell(vectors, self.start(features))
        total = functional.cross_entropy(self.vocab(self.dropped(hidden.data)), targets.data, reduction="sum")
        return total / features.shape[0]


def _of_the_candidate(gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient of a GRU's second bias without that of r and z, which the first bias has already."""
    gradient = gradient.clone()
    gradient[: len(gradient) * 2 // 3] = 0
    return gradient


def advance(
    word: torch.Tensor, h: torch.Tensor, c: torch.Tensor, weights: tuple[torch.Tensor, ...], lstm: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take (N,) words one step on: the scores of the next ones, hidden and cell state."""
    embed, w_ih, w_hh, bias, w_vocab, b_vocab = weights
    gates = functional.linear(embed[word], w_ih, bias).addmm_(h, w_hh.t())
    if lstm:
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    else:
        h = torch.tanh(gates)
    return functional.linear(h, w_vocab, b_vocab), h, c


def decode_step(
    word: torch.Tensor, h: torch.Tensor, c: torch.Tensor, weights: tuple[torch.Tensor, ...], lstm: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take (N,) words one step on: the next words, hidden and cell state."""
    scores, h, c = advance(word, h, c, weights, lstm)
    return scores.argmax(1), h, c


class TorchTask:
    """One job in one of the modes; `dtype` is that of parameters and features."""

    def __init__(
        self,
        mode: str,
        work: Workload,
        job: str,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        dropout: float = 0.0,
    ) -> None:
        torch._dynamo.reset()
        self.work, self.job, self.mode, self.device = work, job, mode, device
        self.model = Captioner(work, dropout).to(device, dtype)
        self.params = self.model.trained()
        self.features = torch.tensor(work.features, device=device, dtype=dtype)
        self.captions = torch.tensor(np.ascontiguousarray(work.captions.T), device=device)
        self.out: Any = None
        self.loss: Any = {
            "padded": self.model.padded_loss,
            "packed": self.model.packed_loss,
            "compiled": self.model.static_loss,
            "graphed": self.model.static_loss,
        }[mode]
        # Counted ahead on the host, where the captions were made: asking a device would make the host wait for it.
        if mode == "packed" and device != "cpu":
            self.loss = functools.partial(self.loss, lengths=torch.tensor((work.targets != NULL).sum(1)))
        if mode == "padded" and device != "cpu":
            real = torch.tensor(np.flatnonzero(work.targets.T != NULL), device=device)
            self.loss = functools.partial(self.loss, real=real)
        self.decode: Any = decode_step
        if mode == "compiled":
            self.loss = torch.compile(self.loss, dynamic=False)
            self.decode = torch.compile(self.decode, dynamic=False)
        if job == "adam":
            self.optimizer = self.make_optimizer()
        elif job.startswith("sample"):
            if work.cell not in CELLS:
                raise ValueError(f"{work.cell}: expected one of {', '.join(CELLS)} for decoding")
            self.features = torch.tensor(work.sample_features[: sample_count(job)], device=device, dtype=dtype)

    def make_optimizer(self, **settings: Any) -> torch.optim.Optimizer:
        """Return Adam over the parameters; `settings` replace or add to its own."""
        own: dict[str, Any] = {"lr": 1e-3, "betas": (ADAM_BETA1, ADAM_BETA2), "eps": ADAM_EPS, "fused": True}
        return torch.optim.Adam(self.params, **(own | settings))

    def build(self) -> None:
        """Compile by running once without an update, and let the result go."""
        if self.mode == "compiled" and self.job.startswith("sample"):
            self._sample()
        elif self.mode == "compiled":
            torch.autograd.grad(self.loss(self.features, self.captions), self.params)

    def release(self) -> None:
        """Drop the last step's result."""
        self.out = None

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate."""
        if self.job == "adam":
            self.optimizer.param_groups[0]["lr"] = rate

    def step(self) -> None:
        """Do the job once."""
        if self.job == "loss":
            loss = self.loss(self.features, self.captions)
            self.out = (loss, *torch.autograd.grad(loss, self.params))
        elif self.job == "adam":
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(self.features, self.captions).backward()
            self.optimizer.step()
            self.out = tuple(self.params)
        else:
            self.out = self._sample()

    @torch.inference_mode()
    def _sample(self) -> torch.Tensor:
        embed, _, _, w_ih, w_hh, bias, w_vocab, b_vocab = self.params
        weights = (embed, w_ih, w_hh, bias, w_vocab, b_vocab)
        h = self.model.proj(self.features)
        c = torch.zeros_like(h)
        word = torch.full((h.shape[0],), START, device=self.device)
        words = torch.empty((SAMPLE_LENGTH, h.shape[0]), dtype=torch.int64, device=self.device)
        for t in range(SAMPLE_LENGTH):
            word, h, c = self.decode(word, h, c, weights, self.work.cell == "lstm")
            words[t] = word
        return words.t().contiguous()

    def result(self) -> dict[str, np.ndarray]:
        """Return the last step's result in the workload's layout."""
        if self.job.startswith("sample"):
            return {"words": self.out.cpu().numpy()}
        cell, work_size = self.work.cell, self.work.size.H
        # NumPy has no bfloat16
        arrays = [
            (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy() for tensor in self.out
        ]
        named = {"loss": arrays.pop(0)} if self.job == "loss" else {}
        embed, w_proj, b_proj, *cells, w_vocab, b_vocab = arrays
        named |= {"W_embed": embed, "W_proj": w_proj.T, "b_proj": b_proj}
        layers = suffixes(cell)
        for suffix, layer in zip(layers, np.split(np.arange(len(cells)), len(layers)), strict=True):
            w_ih, w_hh, bias, *further = (cells[k] for k in layer)
            named[f"Wx{suffix}"], named[f"Wh{suffix}"] = swap_gates(w_ih.T, cell), swap_gates(w_hh.T, cell)
            of_candidate = [array[-work_size:] for array in further]
            named[f"b{suffix}"] = np.concatenate([swap_gates(bias, cell), *of_candidate])
        return named | {"W_vocab": w_vocab.T, "b_vocab": b_vocab}


def make_task(mode: str, work: Workload, job: str) -> TorchTask:
    """Return the task of `mode`: padded, packed or compiled."""
    job, dropout = split_job(job)
    return TorchTask(mode, work, job, dropout=DROPOUT if dropout else 0.0)
