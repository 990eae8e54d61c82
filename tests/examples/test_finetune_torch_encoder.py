"""The encoder of the example learns through the captioner: its gradients are those that PyTorch alone computes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import capgpu
from capgpu.model import CaptioningRNN

torch = pytest.importorskip("torch")
SCRIPT = Path(__file__).parents[2] / "examples" / "finetune_torch_encoder.py"


def test_the_loss_falls():
    options = ["--pictures", "60", "--epochs", "4", "--batch-size", "20"]
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert len(losses) == 4
    assert losses[-1] < 0.8 * losses[0]


def test_gradients_of_the_encoder_are_those_of_pytorch_alone():
    specification = importlib.util.spec_from_file_location("finetune_torch_encoder", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    torch.manual_seed(1)
    encoder = script.small_encoder().double()
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3, "cat": 4}
    with capgpu.use_backend("numpy"):
        model = CaptioningRNN(words, script.FEATURES, 5, 6, "rnn", np.float64, seed=0)
        p = {name: torch.from_numpy(array) for name, array in model.params.items()}
        captions = np.array([[1, 3, 4, 2], [1, 4, 2, 0]])
        pictures = torch.randn(2, 3, 16, 16, dtype=torch.float64)
        features = encoder(pictures)
        _, grads = model.loss(features.detach().numpy(), captions, features_gradient=True)
        features.backward(torch.from_numpy(grads["features"]))
    found = [parameter.grad.clone() for parameter in encoder.parameters()]
    encoder.zero_grad()
    h = encoder(pictures) @ p["W_proj"] + p["b_proj"]
    scores = []
    for t in range(captions.shape[1] - 1):
        h = torch.tanh(p["W_embed"][captions[:, t]] @ p["Wx"] + h @ p["Wh"] + p["b"])
        scores.append(h @ p["W_vocab"] + p["b_vocab"])
    targets = torch.from_numpy(captions[:, 1:])
    loss = torch.nn.functional.cross_entropy(torch.stack(scores, 2), targets, ignore_index=0, reduction="sum") / 2
    loss.backward()
    for gradient, parameter in zip(found, encoder.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-12)
