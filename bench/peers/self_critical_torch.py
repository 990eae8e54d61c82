"""A self-critical step in PyTorch, with pycocoevalcap's CIDEr-D.

one pass
    Words are drawn with gradients, so that the log-probabilities of the drawing are those of the loss.
two passes
    Words are drawn under `no_grad`; the loss of the drawn captions is that of `nn.LSTM` over a packed sequence.

Document frequencies are computed once, as in the code of the papers; the references of a minibatch are cooked at each
step, by pycocoevalcap.
"""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from pycocoevalcap.cider.cider_scorer import CiderScorer, precook
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from bench.peers.torch_peer import Captioner, advance
from bench.peers.torch_peer import versions as torch_versions
from bench.workloads import (
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPS,
    END,
    NULL,
    START,
    Workload,
    self_critical_workload,
    training_references,
)

__all__ = ["TorchSelfCritical", "make_task", "versions"]

SAMPLES = 5


def versions() -> dict[str, str]:
    """Return what this competitor runs on."""
    return {**torch_versions(), "pycocoevalcap": version("pycocoevalcap")}


class _Counted(list[Any]):
    """References of a minibatch, whose number is that of the pictures of the training set, as the scorer reads it."""

    count_of_pictures = 0

    def __len__(self) -> int:
        return self.count_of_pictures


def text(ids: list[int]) -> str:
    """Return word ids as pycocoevalcap takes captions: END is a word, START and NULL are none."""
    return " ".join(str(word) for word in ids if word not in (NULL, START))


class TorchSelfCritical:
    """Draw 5 captions a picture, score them by CIDEr-D, and update the parameters with Adam; or score them only."""

    def __init__(self, mode: str, work: Workload, job: str) -> None:
        self.work = work = self_critical_workload(work)
        self.mode, self.job, self.lstm = mode, job, work.cell == "lstm"
        self.model = Captioner(work)
        self.features = torch.tensor(work.features)
        self.optimizer = torch.optim.Adam(
            self.model.trained(), lr=1e-3, betas=(ADAM_BETA1, ADAM_BETA2), eps=ADAM_EPS, fused=True
        )
        captions, images = training_references(work)
        self.references: list[list[str]] = [[] for _ in range(images[-1] + 1)]
        for caption, image in zip(captions.tolist(), images.tolist(), strict=True):
            self.references[image].append(text(caption))
        self.frequencies: dict[tuple[str, ...], float] = defaultdict(float)
        for group in self.references:
            for gram in {gram for reference in group for gram in precook(reference)}:
                self.frequencies[gram] += 1
        self.words = torch.empty(0)
        self.step_of("step")
        self.drawn = self.words.tolist()

    def rewards(self, captions: list[list[int]]) -> np.ndarray:
        """Return the CIDEr-D of captions, 5 of each picture."""
        scorer = CiderScorer()
        for row, caption in enumerate(captions):
            scorer += (text(caption), self.references[row // SAMPLES])
        scorer.document_frequency = self.frequencies
        scorer.crefs = _Counted(scorer.crefs)
        scorer.crefs.count_of_pictures = len(self.references)
        return np.array(scorer.compute_cider())

    def draw(self) -> torch.Tensor:
        """Draw words (M, T) into `words`; returns their log-probabilities, 0 for NULL."""
        embed, _, _, w_ih, w_hh, bias, w_vocab, b_vocab = self.model.trained()
        weights = (embed, w_ih, w_hh, bias, w_vocab, b_vocab)
        h = self.model.proj(self.features).repeat_interleave(SAMPLES, 0)
        c = torch.zeros_like(h)
        word = torch.full((len(h),), START)
        alive = torch.ones(len(h), dtype=torch.bool)
        words, log_probs = [], []
        for _ in range(self.work.size.T):
            scores, h, c = advance(word, h, c, weights, self.lstm)
            log_softmax = scores.log_softmax(1)
            allowed = log_softmax.detach().clone()
            allowed[:, [NULL, START, 3]] = -torch.inf
            word = torch.multinomial(allowed.exp(), 1).squeeze(1)
            word = torch.where(alive, word, NULL)
            words.append(word)
            log_probs.append(torch.where(alive, log_softmax.gather(1, word[:, None]).squeeze(1), 0.0))
            alive = alive & (word != END)
            if not bool(alive.any()):
                break
        self.words = torch.stack(words, 1)
        return torch.stack(log_probs, 1)

    def packed_log_probs(self) -> torch.Tensor:
        """Return the log-probability of each drawn caption, by one pass over all of them."""
        captions = functional.pad(self.words, (1, 0), value=START)
        lengths = (self.words != NULL).sum(1)
        inputs = pack_padded_sequence(captions[:, :-1].T, lengths, enforce_sorted=False)
        targets = pack_padded_sequence(captions[:, 1:].T, lengths, enforce_sorted=False)
        vectors = PackedSequence(
            self.model.embed(inputs.data), inputs.batch_sizes, inputs.sorted_indices, inputs.unsorted_indices
        )
        hidden, _ = self.model.cell(vectors, self.model.start(self.features.repeat_interleave(SAMPLES, 0)))
        losses = functional.cross_entropy(self.model.vocab(hidden.data), targets.data, reduction="none")
        ranks = torch.cat([torch.arange(int(size)) for size in targets.batch_sizes])
        assert targets.sorted_indices is not None
        return torch.zeros(len(captions)).index_add(0, targets.sorted_indices[ranks], -losses)

    def step_of(self, job: str) -> None:
        """Do a job once."""
        if job == "reward":
            self.rewards(self.drawn)
            return
        if self.mode == "one pass":
            log_probs = self.draw().sum(1)
        else:
            with torch.no_grad():
                self.draw()
            log_probs = self.packed_log_probs()
        rewards = torch.tensor(self.rewards(self.words.tolist()), dtype=torch.float32).reshape(-1, SAMPLES)
        baselines = (rewards.sum(1, keepdim=True) - rewards) / (SAMPLES - 1)
        loss = -((rewards - baselines).reshape(-1) * log_probs).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def build(self) -> None:
        """Do nothing: there is nothing to compile."""

    def step(self) -> None:
        """Do the job once."""
        self.step_of(self.job)

    def release(self) -> None:
        """Do nothing: only words are kept."""

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def result(self) -> dict[str, np.ndarray]:
        """Return the rewards of fixed captions: the references of other pictures."""
        captions, _ = training_references(self.work)
        return {"rewards": self.rewards(captions[500:820].tolist())}


def make_task(mode: str, work: Workload, job: str) -> TorchSelfCritical:
    """Return the task of `mode`: one pass or two passes."""
    return TorchSelfCritical(mode, work, job)
