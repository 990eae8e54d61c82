"""Tiny ONNX networks for tests of `capgpu.vision`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["save_network", "tiny_network"]


def save_network(
    path: Path,
    nodes: Sequence[Any],
    constants: dict[str, np.ndarray],
    *,
    shape: Sequence[int | str | None] = ("N", 3, 4, 4),
    dtype: Any = np.float32,
    outputs: Sequence[str] = ("scores",),
) -> Path:
    """Write a network whose input is called pictures."""
    from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pictures", kind, list(shape))],
        [ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    for value in graph.output:
        # some values of these networks are sequences or whole numbers: their type is inferred where it is none
        if value.name in ("scores", "maps", "tokens"):
            value.type.tensor_type.elem_type = TensorProto.FLOAT if kind == TensorProto.FLOAT else kind
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def tiny_network(path: Path, **how: Any) -> Path:
    """Write a classifier of three layers: ``maps`` (N, 5, 4, 4), their average ``pooled`` (N, 5), ``scores`` (N, 2)."""
    from onnx import helper

    dtype = how.get("dtype", np.float32)
    rng = np.random.default_rng(0)
    constants = {
        "kernel": rng.normal(size=(5, 3, 1, 1)).astype(dtype),
        "matrix": rng.normal(size=(5, 2)).astype(dtype),
    }
    nodes = [
        helper.make_node("Conv", ["pictures", "kernel"], ["maps"]),
        helper.make_node("ReduceMean", ["maps"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["pooled", "matrix"], ["scores"]),
    ]
    return save_network(path, nodes, constants, **how)
