"""The list of promises, and the user who checks them: a folder with pictures, a trained run, and the command."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["PROMISES", "Promise", "SkippedError", "User", "promise", "refused"]

COLOURS = {"red": (220, 30, 30), "green": (20, 160, 40), "blue": (30, 60, 220), "black": (10, 10, 10)}
ROOT = Path(__file__).resolve().parents[2]


class SkippedError(Exception):
    """A promise cannot be tried on this machine."""


@dataclass(frozen=True)
class Promise:
    """A sentence, and how to try it.

    Attributes
    ----------
    section : str
        What it is about.
    sentence : str
        What is promised.
    check : callable
        Tries it, and returns what was seen; raises AssertionError where it does not hold.
    """

    section: str
    sentence: str
    check: Callable[[User], str]


PROMISES: list[Promise] = []


def promise(section: str, sentence: str) -> Callable[[Callable[[User], str]], Callable[[User], str]]:
    """Enter a function in the list of promises, below those that were entered before."""

    def enter(check: Callable[[User], str]) -> Callable[[User], str]:
        PROMISES.append(Promise(section, sentence, check))
        return check

    return enter


def refused(action: Callable[[], Any], says: str) -> str:
    """Return the message of an action that must be refused with these words."""
    from capgpu import CapgpuError

    message = None
    try:
        action()
    except (CapgpuError, OSError) as error:
        message = str(error)
    assert message is not None, "expected a refusal, got none"
    assert says in message, f"expected {says!r} in the message, got {message}"
    return message


class User:
    """A user with a folder of captioned pictures and a run that was trained on them.

    Parameters
    ----------
    folder : path
        An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
            "CAPGPU_BACKEND": "numpy",
            "COLUMNS": "100",
        }

    def python(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program in a process of its own."""
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def capgpu(self, *arguments: object, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command in the folder; it must end with this status."""
        done = subprocess.run(
            [sys.executable, "-m", "capgpu", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        line = " ".join(map(str, arguments))
        assert done.returncode == status, (
            f"capgpu {line}: status {done.returncode}: {(done.stdout + done.stderr)[-400:]}"
        )
        assert "Traceback" not in done.stderr, done.stderr[-400:]
        return done

    def error(self, *arguments: object, **environment: str) -> str:
        """Return the only line of a command's error message."""
        text = self.capgpu(*arguments, status=2, **environment).stderr
        assert text.startswith("capgpu: error: "), text
        assert text.count("\n") == 1, text
        return text.strip()

    @functools.cached_property
    def pictures(self) -> Path:
        """A folder of squares in four colours, with captions and splits."""
        folder = self.folder / "pictures"
        folder.mkdir()
        lines = []
        for i in range(64):
            colour = list(COLOURS)[i % 4]
            Image.new("RGB", (24 + i % 7, 24), COLOURS[colour]).save(folder / f"{i:02}.png")
            split = "train" if i < 32 else "val" if i < 44 else "test"
            lines.append({"image": f"{i:02}.png", "caption": f"a {colour} square", "split": split})
        (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    @functools.cached_property
    def network(self) -> Path:
        """A network whose output ``pooled`` is five numbers of a picture of 4 x 4 pixels."""
        from onnx import TensorProto, helper, numpy_helper

        kernel = np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype(np.float32)
        nodes = [
            helper.make_node("Conv", ["pictures", "kernel"], ["maps"]),
            helper.make_node("ReduceMean", ["maps"], ["pooled"], axes=[2, 3], keepdims=0),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["N", 3, 4, 4])],
            [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["N", 5])],
            [numpy_helper.from_array(kernel, "kernel")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (self.folder / "tiny.onnx").write_bytes(model.SerializeToString())
        return self.folder / "tiny.onnx"

    @functools.cached_property
    def data(self) -> Path:
        """The prepared folder of the pictures."""
        own = ("--network", self.network, "--output", "pooled", "--mean", "127", "--std", "128")
        self.capgpu("prepare", self.pictures, "--out", "data", "--min-count", 1, *own)
        return self.folder / "data"

    @functools.cached_property
    def run(self) -> Path:
        """A finished run."""
        tiny = ("--hidden", 16, "--wordvec", 8, "--epochs", 40, "--batch-size", 8, "--dropout", 0)
        self.capgpu("train", "runs/squares", "--data", self.data, "--learning-rate", 0.02, *tiny)
        return self.folder / "runs" / "squares"

    def picture(self, colour: str) -> bytes:
        """Return the contents of a PNG file."""
        content = io.BytesIO()
        Image.new("RGB", (30, 24), COLOURS[colour]).save(content, "PNG")
        return content.getvalue()

    def training_data(self) -> tuple[Any, dict[str, Any]]:
        """Return a small model and data for its solver."""
        import capgpu

        words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "<UNK>": 3, "cat": 4, "dog": 5}
        data: dict[str, Any] = {"word_to_idx": words, "idx_to_word": list(words)}
        for split in ("train", "val"):
            data[f"{split}_captions"] = np.array([[1, 4, 2], [1, 5, 2]] * 4)
            data[f"{split}_features"] = np.eye(2, dtype=np.float32)
            data[f"{split}_image_idxs"] = np.array([0, 1] * 4)
        return capgpu.CaptioningRNN(words, 2, 4, 8, "lstm", seed=0), data
