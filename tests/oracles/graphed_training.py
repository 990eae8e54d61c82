"""A small captioner and batches for tests of training steps as CUDA graphs."""

from __future__ import annotations

import numpy as np

import capgpu
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer

WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{k}": k for k in range(3, 40)}}

D, W, H, MAX_STEPS = 7, 5, 6, 11


def captioner(cell="lstm", dtype="float32", **options):
    return CaptioningRNN(WORDS, D, W, H, cell, dtype, seed=3, **options)


def batch(seed, count=9, dtype="float32", max_length=MAX_STEPS):
    random = np.random.default_rng(seed)
    captions = random.integers(1, len(WORDS), (count, MAX_STEPS + 1))
    captions[np.arange(MAX_STEPS + 1) > random.integers(0, max_length + 1, (count, 1))] = 0
    captions[0, :2] = 4  # at least one word
    return random.standard_normal((count, D)).astype(dtype), captions


def train(device, steps, batches, whole, cell="lstm", dtype="float32", rule="adam", clip_norm=None, **options):
    """Train on the batches with `steps`, a class of training steps; return loss and parameters after each step."""
    model = captioner(cell, dtype, **options)
    optimizer = Optimizer(rule, {"learning_rate": 1e-2}, model.params)
    trainer = steps(model, optimizer, clip_norm)
    results = []
    for index, (features, captions) in enumerate(batches):
        key = 100 + index if model.feature_dropout or model.output_dropout else None
        loss = trainer.loss(device.asarray(features), captions, 1.0 / (1 + index), whole=whole, dropout_key=key)
        trainer.update(1.0 / (1 + index))
        results.append((float(loss), {name: capgpu.to_numpy(array).copy() for name, array in model.params.items()}))
    return results
