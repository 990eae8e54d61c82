"""EfficientNet-Lite0 in PyTorch, layer by layer as published: the oracle of the network built for onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["pooled_outputs"]

#: Blocks of each stage, the stride of its first block, and whether its blocks expand their input first.
STAGES = (
    (1, 1, False),
    (2, 2, True),
    (2, 2, True),
    (3, 2, True),
    (3, 1, True),
    (4, 2, True),
    (1, 1, True),
)
NORM_EPS = 1e-3


def pooled_outputs(pictures: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Compute the pooled outputs (N, 1280), float32, of pictures (N, 224, 224, 3), uint8."""
    import torch
    from torch.nn import functional as F

    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def conv(x: Any, name: str, stride: int = 1, groups: int = 1) -> Any:
        # TensorFlow's "SAME" padding, where an odd pixel goes right and below
        kernel = weights[f"{name}.weight"]
        missing = max((-(-x.shape[-1] // stride) - 1) * stride + kernel.shape[-1] - x.shape[-1], 0)
        before, after = missing // 2, missing - missing // 2
        return F.conv2d(F.pad(x, (before, after, before, after)), kernel, stride=stride, groups=groups)

    def norm(x: Any, name: str) -> Any:
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=NORM_EPS)

    with torch.inference_mode():
        x = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127) / 128
        x = F.relu6(norm(conv(x, "_conv_stem", stride=2), "_bn0"))
        strides = [(stride if i == 0 else 1, expands) for blocks, stride, expands in STAGES for i in range(blocks)]
        for i, (stride, expands) in enumerate(strides):
            block, y = f"_blocks.{i}", x
            if expands:
                y = F.relu6(norm(conv(y, f"{block}._expand_conv"), f"{block}._bn0"))
            y = conv(y, f"{block}._depthwise_conv", stride, groups=y.shape[1])
            y = F.relu6(norm(y, f"{block}._bn1"))
            y = norm(conv(y, f"{block}._project_conv"), f"{block}._bn2")
            x = x + y if x.shape == y.shape else y
        x = F.relu6(norm(conv(x, "_conv_head"), "_bn1"))
        pooled: np.ndarray = x.mean((2, 3)).numpy()
    return pooled
