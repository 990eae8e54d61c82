"""Export of a captioner as two ONNX networks: from features to the initial state, and from one word to the next.

The decoding loop (greedy, beam search or sampling) is that of the caller; the two networks serve every decoder.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from capgpu.backend import to_numpy
from capgpu.checkpoint import atomic_write, check_single_model
from capgpu.errors import InvalidValueError
from capgpu.new_folder import create_folder
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
        c to log_probs (N, V), next_h and next_c. N is free. Further layers have h2, c2, next_h2, next_c2 and so on,
        after those of the layer below. With attention, ``begin`` takes features (N, L, D), and also returns the
        projected cells A (N, L, H); ``step`` takes A, and also returns it, as next_A, and the weights attention (N, L);
        L is free. Both keep the vocabulary in their metadata, a JSON list
        under ``idx_to_word``, and under ``weights`` a checksum that two files of one model have in common (a process
        killed between the two leaves a new one and an old one).

    Raises
    ------
    MissingExtraError
        If the package onnx is not installed.
    TypeError
        For anything but one model, such as an ensemble.
    ValueError
        For another dtype, or a vocabulary with missing or repeated ids.
    OSError
        If a file cannot be written; existing files are unchanged.
    """
    check_single_model(model)
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
    create_folder(target)
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
        #: What is appended to the names of each layer's parameters and states.
        self.layers = ["" if layer == 0 else str(layer + 1) for layer in range(model.n_layers)]
        of_a_layer = ("h", "c") if self.cell.shape.has_state else ("h",)
        self.n_states = len(of_a_layer)
        self.states = [f"{name}{k}" for k in self.layers for name in of_a_layer]
        gates = self.params["Wh"].shape[1]
        for k in self.layers:  # a node takes a whole constant
            self.params[f"b{k}"], self.params[f"b_q{k}"] = np.split(self.params[f"b{k}"], [gates])

    def checksum(self) -> str:
        value = 0
        for name in sorted(self.params):
            value = zlib.crc32(np.ascontiguousarray(self.params[name]).data, value)
        return f"{value:08x}"

    def begin(self) -> Any:
        if self.cell.attends:
            return self._begin_with_attention()
        nodes = [self._node("Gemm", ["features", "W_proj", "b_proj"], ["h"])]
        if self.cell.shape.has_state:
            zero = self.numpy.from_array(np.zeros(1, self.params["b_proj"].dtype))
            nodes.append(self._node("Shape", ["h"], ["extents"]))
            nodes.append(self._node("ConstantOfShape", ["extents"], ["c"], value=zero))
        for k in self.layers[1:]:  # every layer starts alike
            nodes += [self._node("Identity", [name], [f"{name}{k}"]) for name in self.states[: self.n_states]]
        constants = self._constants("W_proj", "b_proj")
        return self.helper.make_graph(
            nodes,
            "captioner_begin",
            [self._value("features", self.D)],
            [self._value(name, self.H) for name in self.states],
            constants,
        )

    def _begin_with_attention(self) -> Any:
        node = self._node
        nodes = [
            node("MatMul", ["features", "W_proj"], ["products"]),
            node("Add", ["products", "b_proj"], ["A"]),
            node("ReduceMean", ["A"], ["h"], axes=[1], keepdims=0),
            node("Identity", ["h"], ["c"]),
        ]
        return self.helper.make_graph(
            nodes,
            "captioner_begin",
            [self._value("features", "L", self.D)],
            [self._value("h", self.H), self._value("c", self.H), self._value("A", "L", self.H)],
            self._constants("W_proj", "b_proj"),
        )

    def step(self) -> Any:
        nodes = [self._node("Gather", ["W_embed", "words"], ["vectors"])]
        constants = self._constants("W_embed", "W_vocab", "b_vocab")
        cells = {"rnn": self._rnn, "lstm": self._lstm, "gru": self._gru, "attention_lstm": self._attention_lstm}
        step = cells[self.cell.name]
        inputs = "vectors"
        for k in self.layers:
            nodes.append(self._node("Gemm", [inputs, f"Wx{k}", f"b{k}"], [f"projected{k}"]))
            nodes.append(self._node("MatMul", [f"h{k}", f"Wh{k}"], [f"recurrent{k}"]))
            nodes += step(k)
            constants += self._constants(f"Wx{k}", f"b{k}", f"Wh{k}")
            if self.params[f"b_q{k}"].size:
                constants += self._constants(f"b_q{k}")
            inputs = f"next_h{k}"
        if self.cell.attends:
            constants += self._attention_constants()
        if self.cell.shape.n_gates > 1:
            constants.append(self.numpy.from_array(np.full(self.cell.shape.n_gates, self.H, np.int64), "gate_sizes"))
        nodes += [
            self._node("Gemm", [inputs, "W_vocab", "b_vocab"], ["scores"]),
            self._node("LogSoftmax", ["scores"], ["log_probs"], axis=1),
        ]
        return self.helper.make_graph(
            nodes,
            "captioner_step",
            [
                self.helper.make_tensor_value_info("words", self.integer, ["N"]),
                *(self._value(name, self.H) for name in self.states),
                *([self._value("A", "L", self.H)] if self.cell.attends else []),
            ],
            [
                self._value("log_probs", self.V),
                *(self._value(f"next_{name}", self.H) for name in self.states),
                *([self._value("next_A", "L", self.H), self._value("attention", "L")] if self.cell.attends else []),
            ],
            constants,
        )

    def _rnn(self, k: str) -> list[Any]:
        node = partial(self._node_of_layer, k)
        return [node("Add", ["projected", "recurrent"], ["sums"]), node("Tanh", ["sums"], ["next_h"])]

    def _lstm(self, k: str, recurrent: str = "recurrent") -> list[Any]:
        node = partial(self._node_of_layer, k)
        return [
            node("Add", ["projected", recurrent], ["sums"]),
            self._split(k, "sums", ["a_i", "a_f", "a_o", "a_g"]),
            *(node("Sigmoid", [f"a_{gate}"], [gate]) for gate in "ifo"),
            node("Tanh", ["a_g"], ["g"]),
            node("Mul", ["f", "c"], ["kept"]),
            node("Mul", ["i", "g"], ["added"]),
            node("Add", ["kept", "added"], ["next_c"]),
            node("Tanh", ["next_c"], ["shown"]),
            node("Mul", ["o", "shown"], ["next_h"]),
        ]

    def _attention_lstm(self, k: str) -> list[Any]:
        node = self._node
        return [
            node("Unsqueeze", ["h", "last"], ["column"]),
            node("MatMul", ["A", "column"], ["similarities"]),
            node("Mul", ["similarities", "scale"], ["scaled"]),
            node("Softmax", ["scaled"], ["weights"], axis=1),
            node("Squeeze", ["weights", "last"], ["attention"]),
            node("Mul", ["weights", "A"], ["weighted"]),
            node("ReduceSum", ["weighted", "cells"], ["context"], keepdims=0),
            node("MatMul", ["context", "Wattn"], ["attended"]),
            node("Add", ["recurrent", "attended"], ["state_sums"]),
            node("Identity", ["A"], ["next_A"]),
            *self._lstm(k, "state_sums"),
        ]

    def _attention_constants(self) -> list[Any]:
        scale = np.array(1 / math.sqrt(self.H), self.params["Wattn"].dtype)
        named = {"last": np.array([2]), "cells": np.array([1]), "scale": scale}
        return [*self._constants("Wattn"), *(self.numpy.from_array(value, name) for name, value in named.items())]

    def _gru(self, k: str) -> list[Any]:
        # n + z (h - n), which needs no constant 1
        node = partial(self._node_of_layer, k)
        return [
            self._split(k, "projected", ["a_r", "a_z", "a_n"]),
            self._split(k, "recurrent", ["u_r", "u_z", "u_n"]),
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

    def _split(self, k: str, sums: str, parts: list[str]) -> Any:
        return self._node("Split", [f"{sums}{k}", "gate_sizes"], [f"{part}{k}" for part in parts], axis=1)

    def _node_of_layer(self, k: str, operator: str, inputs: list[str], outputs: list[str]) -> Any:
        return self._node(operator, [f"{name}{k}" for name in inputs], [f"{name}{k}" for name in outputs])

    def _node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
        return self.helper.make_node(operator, inputs, outputs, name=f"{operator} of {outputs[0]}", **attributes)

    def _value(self, name: str, *extents: int | str) -> Any:
        return self.helper.make_tensor_value_info(name, self.kind, ["N", *extents])

    def _constants(self, *names: str) -> list[Any]:
        return [self.numpy.from_array(np.ascontiguousarray(self.params[name]), name) for name in names]
