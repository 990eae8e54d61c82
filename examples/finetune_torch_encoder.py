"""Fine-tune a small PyTorch encoder of pictures through a captioner of this library.

    python examples/finetune_torch_encoder.py --epochs 3

PyTorch computes features from pixels, `CaptioningRNN.loss` the loss of the captions and, with `features_gradient`, its
gradient with respect to the features, which PyTorch carries on through the encoder. Needs the package torch; both
compute on the processor. The embedded pictures are few: this shows how the parts are joined, not how well they can get.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

import capgpu
from capgpu.data import emoji
from capgpu.optim import Optimizer

FEATURES = 64


def small_encoder() -> torch.nn.Module:
    """Return a network from pictures (N, 3, 64, 64) to features (N, FEATURES)."""
    layers: list[torch.nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, FEATURES)):
        layers += [torch.nn.Conv2d(before, after, 3, stride=2, padding=1), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def pictures_and_captions(data: dict[str, Any], split: str, count: int) -> tuple[torch.Tensor, Any]:
    """Return pictures of a split of the embedded emoji, scaled to -1..1, and their captions."""
    captions = data[f"{split}_captions"][:count]
    pixels = np.stack([emoji.thumbnail(split, row)[:, :, :3] for row in range(len(captions))])
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.nn.functional.interpolate(pictures, size=(64, 64)), captions


def train_step(
    encoder: torch.nn.Module,
    encoder_optimizer: torch.optim.Optimizer,
    model: capgpu.CaptioningRNN,
    optimizer: Optimizer,
    pictures: torch.Tensor,
    captions: Any,
) -> float:
    """Update encoder and captioner on a minibatch; return its loss per caption."""
    features = encoder(pictures)
    loss, grads = model.loss(capgpu.asarray(features.detach().numpy()), captions, features_gradient=True)
    # PyTorch goes on from the gradient of the features, as it would from that of a loss of its own
    encoder_optimizer.zero_grad()
    features.backward(torch.from_numpy(capgpu.to_numpy(grads.pop("features"))))
    encoder_optimizer.step()
    optimizer.step(model.params, grads, clip_norm=5.0)
    return float(loss)


def main() -> None:
    """Train encoder and captioner together, and print the loss per word."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=400, help="at most so many of the split val")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=50)
    options = parser.parse_args()
    torch.manual_seed(0)
    encoder = small_encoder()
    data = emoji.load()
    pictures, captions = pictures_and_captions(data, "val", options.pictures)
    other_pictures, other_captions = pictures_and_captions(data, "test", options.pictures)
    model = capgpu.CaptioningRNN(
        data["word_to_idx"], input_dim=FEATURES, wordvec_dim=128, hidden_dim=128, cell_type="lstm", seed=0
    )
    print(model)
    encoder_optimizer = torch.optim.Adam(encoder.parameters(), lr=2e-3)
    optimizer = Optimizer("adam", {"learning_rate": 3e-3}, model.params)
    words_per_caption = float((captions[:, 1:] != model.null).sum() / len(captions))
    order = np.random.default_rng(0)
    for epoch in range(1, options.epochs + 1):
        rows = order.permutation(len(captions))
        batches = np.array_split(rows, max(len(rows) // options.batch_size, 1))
        losses = [
            train_step(encoder, encoder_optimizer, model, optimizer, pictures[batch], captions[batch])
            for batch in batches
        ]
        with torch.no_grad():
            total, words = model.nll(capgpu.asarray(encoder(other_pictures).numpy()), other_captions)
        print(
            f"epoch {epoch}: {np.mean(losses) / words_per_caption:.3f} nats per word, "
            f"{float(total) / words:.3f} on other pictures"
        )


if __name__ == "__main__":
    main()
