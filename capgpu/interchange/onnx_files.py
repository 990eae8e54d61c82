"""Export of a captioner as two ONNX networks: from features to the initial state, and from one word to the next.

The decoding loop (greedy, beam search or sampling) is that of the caller; the two networks serve every decoder.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from capgpu.backend import to_numpy
from capgpu.checkpoint import atomic_write
from capgpu.errors import InvalidValueError
from capgpu.optional_deps import require
from capgpu.vocabulary import words_in_order

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN

__all__ = ["BEGIN_FILE", "STEP_FILE", "export_onnx"]

#: From features to the state before START.
BEGIN_FILE = "begin.onnx"
#: From a word and the state before it to the log-probabilities of the next word and the next state.
STEP_FILE = "step.onnx"

# the oldest operator set with all operators used here
_OPSET, _IR_VERSION = 17, 8


def export_onnx(model: CaptioningRNN, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write a model as ONNX networks.

    Parameters
    ----------
    model : CaptioningRNN
        A model in float32 or float64, on any backend.
    folder : path
        Folder of ``begin.onnx`` and ``step.onnx``; created if it does not exist.

    Returns
    -------
    begin, step : pathlib.Path
        The files. ``begin``: features (N, D) to h (N, H) and, for an LSTM, c (N, H). ``step``: words (N,) int64, h and
        c to log_probs (N, V), next_h and next_c. N is free. Both keep the vocabulary in their metadata, a JSON list
        under ``idx_to_word``, and under ``weights`` a checksum that two files of one model have in common (a process
        killed between the two leaves a new one and an old one).

    Raises
    ------
    MissingExtraError
        If the package onnx is not installed.
    ValueError
        For another dtype, or a vocabulary with missing or repeated ids.
    OSError
        If a file cannot be written; existing files are unchanged.
    """
    onnx = require("onnx", "onnx", "Exporting to ONNX")
    if model.dtype.name not in ("float32", "float64"):
        raise InvalidValueError(f"model: expected dtype float32 or float64, got {model.dtype}.")
    words = words_in_order(model.word_to_idx)
    graphs = _Graphs(onnx, model)
    target = Path(folder)
    properties = {
        "idx_to_word": json.dumps(words, ensure_ascii=False),
        "cell_type": model.cell_type,
        "weights": graphs.checksum(),
    }
    contents: dict[Path, bytes] = {}
    for name, graph in ((BEGIN_FILE, graphs.begin()), (STEP_FILE, graphs.step())):
        network = onnx.helper.make_model(
            graph,
            producer_name="capgpu",
            ir_version=_IR_VERSION,
            opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        )
        onnx.helper.set_model_props(network, properties)
        onnx.checker.check_model(network, full_check=True)
        contents[target / name] = network.SerializeToString(deterministic=True)
    target.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        with atomic_write(path) as file:
            file.write(content)
    begin, step = contents
    return begin, step


class _Graphs:
    """Writes the two graphs with `onnx.helper`."""

    def __init__(self, onnx: Any, model: CaptioningRNN) -> None:
        self.helper, self.numpy = onnx.helper, onnx.numpy_helper
        self.cell = model.cell
        self.kind = onnx.helper.np_dtype_to_tensor_dtype(model.dtype)
        self.integer = onnx.TensorProto.INT64
        self.params = {name: to_numpy(value) for name, value in model.params.items()}
        if model.tie_weights:
            self.params["W_vocab"] = self.params["W_embed"].T
        self.D, self.H = self.params["W_proj"].shape
        self.V = len(self.params["b_vocab"])
        self.states = ["h", "c"] if self.cell.has_cell_state else ["h"]
        # a graph cannot take a part of a constant
        self.params["b"], self.params["b_q"] = np.split(self.params["b"], [self.params["Wh"].shape[1]])

    def checksum(self) -> str:
        value = 0
        for name in sorted(self.params):
            value = zlib.crc32(np.ascontiguousarray(self.params[name]).data, value)
        return f"{value:08x}"

    def begin(self) -> Any:
        nodes = [self._node("Gemm", ["features", "W_proj", "b_proj"], ["h"])]
        constants = self._constants("W_proj", "b_proj")
        if self.cell.has_cell_state:
            zero = self.numpy.from_array(np.zeros(1, self.params["b_proj"].dtype))
            nodes.append(self._node("Shape", ["h"], ["extents"]))
            nodes.append(self._node("ConstantOfShape", ["extents"], ["c"], value=zero))
        return self.helper.make_graph(
            nodes,
            "captioner_begin",
            [self._value("features", self.D)],
            [self._value(name, self.H) for name in self.states],
            constants,
        )

    def step(self) -> Any:
        node = self._node
        nodes = [
            node("Gather", ["W_embed", "words"], ["vectors"]),
            node("Gemm", ["vectors", "Wx", "b"], ["projected"]),
            node("MatMul", ["h", "Wh"], ["recurrent"]),
        ]
        constants = self._constants("W_embed", "Wx", "b", "Wh", "W_vocab", "b_vocab")
        cell_nodes, cell_constants = {"rnn": self._rnn, "lstm": self._lstm, "gru": self._gru}[self.cell.name]()
        nodes += cell_nodes
        constants += cell_constants
        nodes += [
            node("Gemm", ["next_h", "W_vocab", "b_vocab"], ["scores"]),
            self._node("LogSoftmax", ["scores"], ["log_probs"], axis=1),
        ]
        return self.helper.make_graph(
            nodes,
            "captioner_step",
            [
                self.helper.make_tensor_value_info("words", self.integer, ["N"]),
                *(self._value(name, self.H) for name in self.states),
            ],
            [self._value("log_probs", self.V), *(self._value(f"next_{name}", self.H) for name in self.states)],
            constants,
        )

    def _rnn(self) -> tuple[list[Any], list[Any]]:
        node = self._node
        return [node("Add", ["projected", "recurrent"], ["sums"]), node("Tanh", ["sums"], ["next_h"])], []

    def _lstm(self) -> tuple[list[Any], list[Any]]:
        node = self._node
        nodes = [
            node("Add", ["projected", "recurrent"], ["sums"]),
            node("Split", ["sums", "gate_sizes"], ["a_i", "a_f", "a_o", "a_g"], axis=1),
            *(node("Sigmoid", [f"a_{gate}"], [gate]) for gate in "ifo"),
            node("Tanh", ["a_g"], ["g"]),
            node("Mul", ["f", "c"], ["kept"]),
            node("Mul", ["i", "g"], ["added"]),
            node("Add", ["kept", "added"], ["next_c"]),
            node("Tanh", ["next_c"], ["shown"]),
            node("Mul", ["o", "shown"], ["next_h"]),
        ]
        return nodes, [self._sizes(4)]

    def _gru(self) -> tuple[list[Any], list[Any]]:
        # n + z (h - n), which needs no constant 1
        node = self._node
        nodes = [
            node("Split", ["projected", "gate_sizes"], ["a_r", "a_z", "a_n"], axis=1),
            node("Split", ["recurrent", "gate_sizes"], ["u_r", "u_z", "u_n"], axis=1),
            *(node("Add", [f"a_{gate}", f"u_{gate}"], [f"sums_{gate}"]) for gate in "rz"),
            *(node("Sigmoid", [f"sums_{gate}"], [gate]) for gate in "rz"),
            node("Add", ["u_n", "b_q"], ["q"]),
            node("Mul", ["r", "q"], ["reset"]),
            node("Add", ["a_n", "reset"], ["sums_n"]),
            node("Tanh", ["sums_n"], ["n"]),
            node("Sub", ["h", "n"], ["difference"]),
            node("Mul", ["z", "difference"], ["kept"]),
            node("Add", ["n", "kept"], ["next_h"]),
        ]
        return nodes, [self._sizes(3), *self._constants("b_q")]

    def _sizes(self, gates: int) -> Any:
        return self.numpy.from_array(np.full(gates, self.H, np.int64), "gate_sizes")

    def _node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
        return self.helper.make_node(operator, inputs, outputs, name=f"{operator} of {outputs[0]}", **attributes)

    def _value(self, name: str, length: int) -> Any:
        return self.helper.make_tensor_value_info(name, self.kind, ["N", length])

    def _constants(self, *names: str) -> list[Any]:
        return [self.numpy.from_array(np.ascontiguousarray(self.params[name]), name) for name in names]
