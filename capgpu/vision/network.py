"""A convolutional network in an ONNX file, run by onnxruntime on the CPU, one picture at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidValueError
from capgpu.optional_deps import require
from capgpu.visible_text import short

__all__ = ["Network", "network_sha256"]

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_QUIET = 3  # errors only: they come as exceptions, too


class Network:
    """A network that maps a picture to a vector, or to a grid of them.

    It runs on one thread with one picture per batch: the output for a picture depends neither on other pictures nor on
    the number of threads. It may be called by several threads concurrently.

    Parameters
    ----------
    path : path
        The ONNX file: one input of shape (N, 3, H, W) or (N, H, W, 3).
    output : str, optional
        Name of the output, or of any value inside the network; later values are then not computed. By default the
        first output.
    grid : int, optional
        Side of a grid to which an output of shape (1, D, height, width) is averaged. By default it is averaged to one
        vector.

    Attributes
    ----------
    size : int or None
        Width and height of the input; None if the network does not define them.

    Raises
    ------
    MissingExtraError
        If onnxruntime is not installed, or onnx for a value inside the network.
    OSError
        If the file cannot be read.
    ValueError
        If the file is not an ONNX network, has no input of pictures, or no value of that name.
    """

    def __init__(self, path: str | os.PathLike[str], output: str | None = None, grid: int | None = None) -> None:
        runtime = require("onnxruntime", "vision", "Computing features of pictures")
        self.path, self.grid = Path(path), grid
        if not self.path.is_file():
            raise FileNotFoundError(
                f"{self.path}: expected efficientnet-lite0, or the path of an .onnx file, got no such file."
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET

        def open_session(source: str | bytes) -> Any:
            try:
                # the fallback is another provider; of the error that leads to it, onnxruntime prints lines
                return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)
            except Exception as error:  # onnxruntime's exceptions have no narrower common base
                raise InvalidValueError(f"{self.path} cannot be run as an ONNX network: {str(error)[:500]}") from error

        self._session = open_session(str(self.path))
        names = self._described(lambda: [value.name for value in self._session.get_outputs()])
        if output is not None and output not in names:
            self._session, names = open_session(_cut(self.path, output)), [output]
        self.output = output or names[0]
        self._input, self._channels_last, self.size, self._dtype = self._read_input()

    def _described(self, read: Callable[[], list[Any]]) -> list[Any]:
        """Return what onnxruntime says about the network's values, at least one."""
        try:
            values = read()
        except UnicodeDecodeError as error:
            raise InvalidValueError(f"{self.path}: expected names of values in UTF-8, got {error}.") from error
        if not values:
            raise InvalidValueError(f"{self.path}: expected a network with an input and an output, got none.")
        return values

    def _read_input(self) -> tuple[str, bool, int | None, Any]:
        inputs = self._described(
            lambda: [(value.name, value.type, value.shape) for value in self._session.get_inputs()]
        )
        described_inputs = ", ".join(f"{name} {kind} {shape}" for name, kind, shape in inputs)[:200]
        name, kind, shape = inputs[0]
        channels_last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3
        sides = [side for side in (shape[1:3] if channels_last else shape[2:]) if isinstance(side, int)]
        if (
            len(inputs) != 1
            or len(shape) != 4
            or shape[3 if channels_last else 1] != 3
            or len(set(sides)) > 1
            or kind not in _DTYPES
        ):
            raise InvalidValueError(
                f"{self.path}: expected one input of float32 or float16 and shape (N, 3, H, W) or (N, H, W, 3) with "
                f"H = W, got {described_inputs}."
            )
        return name, channels_last, sides[0] if sides else None, _DTYPES[kind]

    def __call__(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Compute the vector or grid of one picture.

        Parameters
        ----------
        pixels : numpy.ndarray of float32, shape (3, H, W)
            The scaled picture.

        Returns
        -------
        numpy.ndarray of float32, shape (D,) or (grid * grid, D)
            The output. One of shape (1, D, height, width) is averaged over height and width, or over the parts of the
            picture that are the cells of a grid, row by row. The mean of these cells is the vector.

        Raises
        ------
        ValueError
            If the network rejects the picture, or its output has another shape, or fewer cells than the grid.
        """
        given = pixels.transpose(1, 2, 0) if self._channels_last else pixels
        batch = np.ascontiguousarray(given[None].astype(self._dtype))
        try:
            (out,) = self._session.run([self.output], {self._input: batch})
        except Exception as error:  # onnxruntime's exceptions have no narrower common base
            raise InvalidValueError(
                f"{self.path}: the network rejects a picture of shape {batch.shape}: {str(error)[:500]}"
            ) from error
        if not isinstance(out, np.ndarray) or out.dtype.kind != "f" or out.ndim not in (2, 4) or len(out) != 1:
            kind = f"shape {out.shape} and dtype {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
            raise InvalidValueError(
                f"{self.path}: {self.output}: expected floating-point numbers of shape (1, D) or (1, D, height, width) "
                f"for one picture, got {kind}. Name another output."
            )
        if self.grid is not None:
            return self._cells(out)
        vector: npt.NDArray[np.float32] = out.astype(np.float32).reshape(out.shape[1], -1).mean(axis=1)
        return vector

    def _cells(self, out: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Average an output of shape (1, D, height, width) over the cells of the grid."""
        side = self.grid
        assert side is not None
        if out.ndim != 4 or min(out.shape[2:]) < side:
            cells = "x".join(map(str, out.shape[2:])) or "none"
            raise InvalidValueError(
                f"grid: expected at most the cells of {self.output} of {self.path.name}, {cells}, got {side}x{side}. "
                "Name a value of shape (1, D, height, width) inside of the network as the output, or lower grid."
            )
        rows, columns = (_averaging(extent, side) for extent in out.shape[2:])
        values: npt.NDArray[np.float32] = out[0].astype(np.float32)
        if values.shape[1:] != (side, side):
            values = np.einsum("rh,dhw,cw->drc", rows, values, columns)
        return np.ascontiguousarray(values.reshape(len(values), -1).T)


def _averaging(extent: int, cells: int) -> npt.NDArray[np.float32]:
    """Return the weights, shape (cells, extent), with which equal parts of a line are averaged."""
    edges = np.linspace(0, extent, cells + 1)
    pixels = np.arange(extent)
    shares = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: npt.NDArray[np.float32] = (np.maximum(shares, 0) * cells / extent).astype(np.float32)
    return weights


def network_sha256(path: Path) -> str:
    """Compute the SHA-256 of a network: of its file, and of the files beside it that hold its weights.

    Parameters
    ----------
    path : pathlib.Path
        The ONNX file.

    Returns
    -------
    str
        The SHA-256 of the concatenated files, in hexadecimal.

    Raises
    ------
    MissingExtraError
        If onnx is not installed.
    ValueError
        If the file is not an ONNX network, or its weights are in no file of its folder.
    OSError
        If a file cannot be read.
    """
    onnx = require("onnx", "vision", "Reading a network")
    graph = _load(path, load_external_data=False).graph
    external = {
        entry.value
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in external:
        # a network from elsewhere shall not choose what is read
        if "\0" in name or os.path.isabs(name) or ".." in Path(name).parts or not (path.parent / name).is_file():
            raise InvalidValueError(
                f"{path}: expected weights in files beside it, got {short(name)}. Copy that file into its folder."
            )
    digest = hashlib.sha256()
    for file in (path, *(path.parent / name for name in sorted(external))):
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _load(path: Path, **options: Any) -> Any:
    onnx = require("onnx", "vision", "Reading a network")
    try:
        return onnx.load(path, **options)
    except Exception as error:  # onnx's and protobuf's exceptions have no narrower common base
        if isinstance(error, OSError):
            raise
        raise InvalidValueError(f"{path}: expected an ONNX network, got: {str(error)[:200]}.") from error


def _cut(path: Path, output: str) -> bytes:
    """Select a value inside a network as its only output, and remove the nodes that it does not depend on."""
    onnx = require("onnx", "vision", "Taking a value inside of a network as its output")
    model = _load(path)
    graph = model.graph
    if not any(output in node.output for node in graph.node):
        outputs = [name for node in list(graph.node)[-12:] for name in node.output if name]
        raise InvalidValueError(f"output: expected a value of {path} such as {', '.join(outputs)}, got {output!r}.")
    needed, nodes_kept = {output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes_kept.append(node)
            needed.update(_input_names(node))
    del graph.node[:]
    graph.node.extend(reversed(nodes_kept))
    del graph.output[:]
    graph.output.append(onnx.ValueInfoProto(name=output))
    content: bytes = model.SerializeToString()
    return content


def _input_names(node: Any) -> Iterable[str]:
    """Yield the names of a node's inputs, including those in the bodies of branches and loops."""
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from _input_names(inner)
