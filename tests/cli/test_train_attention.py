"""capgpu train --cell attention on prepared feature grids, and the model's captions with their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import capgpu
from capgpu.data.detect_format import read_source
from capgpu.data.feature_files import open_features
from capgpu.data.prepare import prepare
from capgpu.data.prepared_dataset import load_prepared
from capgpu.decode import GenerationConfig
from oracles.commands import refused, run
from oracles.preparations import ANYTHING, COUNT, write_source

SETTINGS = ("--hidden", "8", "--wordvec", "4", "--epochs", "1", "--batch-size", "8", "--seed", "3")


def data_of(folder: Path, shape: tuple[int, ...]) -> Path:
    """Prepare pictures with features of the given shape, in float16 where they are grids."""
    source = read_source(write_source(folder / "source"))
    rows = np.random.default_rng(0).standard_normal((COUNT, *shape)).astype("float16" if len(shape) > 1 else "float32")
    np.savez(folder / "f.npz", features=rows, image_ids=[f"{i}.png" for i in range(COUNT)])
    prepare(source, folder / "data", ANYTHING, open_features(folder / "f.npz"))
    return folder / "data"


def test_a_model_is_trained_on_grids_and_tells_where_it_looks(tmp_path: Path) -> None:
    data = data_of(tmp_path, (4, 3))
    result = run("train", "--data", data, "--out", tmp_path / "run", "--cell", "attention", *SETTINGS)
    assert result.exit_code == 0, result.output
    captioner = capgpu.load(tmp_path / "run")
    grids = np.asarray(load_prepared(data)["val_features"][:2])
    for (caption,) in captioner.caption_features(grids, GenerationConfig(attention=True, max_length=5)):
        weights = np.array(caption.attention)
        assert weights.shape == (len(caption.tokens), 4)
        assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert captioner.caption_features(grids)[0][0].attention == ()
    scored = run("eval", "--run", tmp_path / "run", "--split", "val")
    assert scored.exit_code == 0, scored.output


@pytest.mark.parametrize(
    ("shape", "cell", "message"),
    [
        ((3,), "attention", "got attention. The cell 'attention' reads a grid of vectors for each picture: prepare"),
        ((4, 3), "lstm", "got lstm. These are grids, which only the cell 'attention' reads: choose that"),
    ],
)
def test_a_cell_that_cannot_read_the_features_is_refused(
    tmp_path: Path, shape: tuple[int, ...], cell: str, message: str
) -> None:
    data = data_of(tmp_path, shape)
    refused(run("train", "--data", data, "--out", tmp_path / "run", "--cell", cell, *SETTINGS), message)
