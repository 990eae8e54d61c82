"""A small run that captions coloured squares, served on the plain backend."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import capgpu.backend
from oracles.commands import done
from oracles.http import Client, serving
from oracles.networks import tiny_network
from oracles.squares import COLOURS, picture_file


@pytest.fixture(autouse=True)
def _numpy() -> Iterator[None]:
    with capgpu.backend.use_backend("numpy"):
        yield


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose data set has picture files, not to be written into."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "pictures").mkdir()
    lines = []
    for i in range(40):
        colour = list(COLOURS)[i % 4]
        name = f"{i}.png"
        (folder / "pictures" / name).write_bytes(picture_file(colour, size=(12 + i, 12)))
        split = "train" if i < 24 else "val" if i < 32 else "test"
        text = f"a {colour} square" if i != 38 else "no such thing as this <b>picture</b>"
        lines.append({"image": name, "caption": text, "split": split})
    (folder / "pictures" / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    network = ("--network", tiny_network(folder / "tiny.onnx"), "--output", "pooled", "--mean", "127", "--std", "128")
    tiny = ("--hidden", 16, "--wordvec", 8, "--epochs", 40, "--batch-size", 8, "--dropout", 0, "--learning-rate", 0.02)
    with capgpu.backend.use_backend("numpy"):
        done("prepare", folder / "pictures", "-o", folder / "data", "--min-count", 1, *network)
        done("train", "--data", folder / "data", "--out", folder / "run", *tiny)
    return folder / "run"


@pytest.fixture(scope="session")
def self_critical(squares: Path) -> Path:
    """A run that trains the squares' model on by self-critical training, not to be written into."""
    critical = ("--self-critical", "--from", squares, "--epochs", 2, "--batch-size", 8, "--samples", 2)
    with capgpu.backend.use_backend("numpy"):
        done("train", squares.parent / "better", *critical)
    return squares.parent / "better"


@pytest.fixture(scope="session")
def attentive(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with attention over grids of 2 x 2 cells of the same pictures, not to be written into."""
    folder = tmp_path_factory.mktemp("attentive")
    source = squares.parent
    network = ("--network", source / "tiny.onnx", "--output", "maps", "--grid", 2, "--mean", "127", "--std", "128")
    tiny = ("--hidden", 16, "--wordvec", 8, "--epochs", 15, "--batch-size", 8, "--dropout", 0, "--learning-rate", 0.02)
    with capgpu.backend.use_backend("numpy"):
        done("prepare", source / "pictures", "-o", folder / "data", "--min-count", 1, "--fit", "crop", *network)
        done("train", "--data", folder / "data", "--cell", "attention", "--out", folder / "run", *tiny)
    return folder / "run"


@pytest.fixture(scope="session")
def attentive_client(attentive: Path) -> Iterator[Client]:
    """A client of a server of the run with attention."""
    from capgpu.serve.app import create_app
    from capgpu.serve.service import Service
    from capgpu.training.run_folder import RunFolder

    with capgpu.backend.use_backend("numpy"), serving(create_app(Service(RunFolder(attentive)))) as made:
        yield made


@pytest.fixture(scope="session")
def client(squares: Path) -> Iterator[Client]:
    """A client of a server of the run."""
    from capgpu.serve.app import create_app
    from capgpu.serve.pictures import Limits
    from capgpu.serve.service import Service
    from capgpu.training.run_folder import RunFolder

    with capgpu.backend.use_backend("numpy"):
        service = Service(RunFolder(squares), Limits(max_bytes=200_000, max_pixels=1_000_000))
        with serving(create_app(service, allowed_hosts=["Box.example"])) as made:
            yield made


@pytest.fixture
def training(squares: Path, tmp_path: Path) -> Path:
    """A run that is being trained: it has settings and a part of its record, and no model."""
    folder = tmp_path / "run"
    folder.mkdir()
    for file in squares.iterdir():
        if file.is_file() and file.name not in ("model.safetensors", "history.jsonl", "summary.json"):
            shutil.copy(file, folder)
    return folder
