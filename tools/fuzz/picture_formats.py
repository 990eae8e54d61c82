"""The formats of pictures, and of networks that read them."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.fuzz.format import Format, comparable
from tools.fuzz.mutators import (
    BYTES,
    PNG,
)

__all__ = ["FORMATS"]


def _write_state_dict(folder: Path) -> None:
    class Storage:
        def __init__(self, key: str, length: int) -> None:
            self.key, self.length = key, length

    def program(value: Any) -> bytes:
        out = io.BytesIO()
        pickle.Pickler(out, 2).dump(value)
        return out.getvalue()

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def tensor(key: str, length: int, shape: Sequence[int]) -> bytes:
        stored = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(length) + b"Nt"
        sizes = b"".join(b"(" + b"".join(map(number, values)) + b"t" for values in (shape, [*shape[1:], 1]))
        hooks = b"ccollections\nOrderedDict\n)R"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + b"Q" + number(0) + sizes + b"\x89" + hooks + b"tR"

    tensors = text("weight") + tensor("1", 6, (2, 3)) + text("bias") + tensor("2", 3, (3,))
    content = program(0x1950A86A20F9469CFC6C) + program(1001) + program({"little_endian": True, "type_sizes": {}})
    content += b"\x80\x02ccollections\nOrderedDict\n)R(" + tensors + b"u."
    content += program(["1", "2"]) + struct.pack("<q6f", 6, *range(6)) + struct.pack("<q3f", 3, *range(3))
    (folder / "weights.pth").write_bytes(content)


def _read_state_dict(folder: Path) -> Any:
    from capgpu.vision.state_dict import read_state_dict

    return comparable(read_state_dict(folder / "weights.pth"))


def _write_onnx(folder: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    kernel, matrix = random.normal(size=(5, 3, 1, 1)), random.normal(size=(5, 2))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pictures", "kernel"], ["maps"]),
            helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["scores"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        [
            numpy_helper.from_array(kernel.astype(np.float32), "kernel"),
            numpy_helper.from_array(matrix.astype(np.float32), "matrix"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "network.onnx").write_bytes(model.SerializeToString())


def _read_onnx(folder: Path) -> Any:
    from capgpu.vision.network import Network, network_sha256

    results: list[Any] = []
    for output in (None, "pooled"):
        network = Network(folder / "network.onnx", output)
        if (network.size or 4) < 100:
            results.append(network(np.ones((3, network.size or 4, network.size or 4), np.float32)))
    return comparable(results), network_sha256(folder / "network.onnx")


def _write_picture(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from PIL import Image

        pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 4)).astype(np.uint8)
        pixels[4:8, 4:8] = 255
        picture = Image.fromarray(pixels)
        if kind not in ("png", "webp", "tif"):
            picture = picture.convert("RGB")
        exif = Image.Exif()
        exif[0x0112] = 6
        extra: dict[str, Any] = {"exif": exif} if kind in ("jpg", "png", "webp", "tif") else {}
        picture.save(folder / f"picture.{kind}", **extra)

    return write


def _read_picture(kind: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from capgpu.data.pictures import thumbnail

        return comparable(thumbnail(folder / f"picture.{kind}", 32))

    return read


FORMATS: dict[str, Format] = {
    "state_dict": Format(_write_state_dict, _read_state_dict, {"weights.pth": BYTES}),
    "onnx": Format(_write_onnx, _read_onnx, {"network.onnx": BYTES}, needs=("onnx", "onnxruntime")),
    **{
        kind: Format(_write_picture(kind), _read_picture(kind), {f"picture.{kind}": PNG if kind == "png" else BYTES})
        for kind in ("jpg", "png", "gif", "tif", "webp", "bmp", "tga", "ppm", "jp2", "ico")
    },
}
