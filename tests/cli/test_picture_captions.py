"""capgpu caption PICTURE...: captions of files, with the run's own encoder; broken files are skipped."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import capgpu
from capgpu.checkpoint import save_model
from capgpu.cli import main
from capgpu.data import emoji
from capgpu.data.datasets import Dataset
from capgpu.errors import InvalidValueError
from capgpu.model import CaptioningRNN
from capgpu.training.run_folder import RunFolder
from capgpu.vision import Projection, open_encoder
from oracles.networks import tiny_network

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "red", "green", "square", "circle"]


def caption(*args: object) -> Result:
    return CliRunner().invoke(main, ["caption", *(str(arg) for arg in args)])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run whose data have gone, as of a folder of pictures that was prepared."""
    folder = RunFolder(tmp_path / "run")
    folder.start({"data": str(tmp_path / "gone")})
    words = {word: i for i, word in enumerate(WORDS)}
    model = CaptioningRNN(words, input_dim=5, wordvec_dim=4, hidden_dim=6, cell_type="lstm", seed=2)
    model.params["b_vocab"][:] = [-9, -9, 2, -9, 0, 0, 0, 0]
    model.params["W_vocab"] *= 3
    save_model(folder.path, model)
    open_encoder(tiny_network(tmp_path / "tiny.onnx"), output="pooled").save(folder.path)
    return folder.path


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in ("red", "green", "blue")]
    for path in paths:
        Image.new("RGB", (9, 7), path.stem).save(path)
    return paths


@pytest.fixture
def attentive(tmp_path: Path) -> Path:
    """Make such a run of a model with attention over 2 x 2 cells."""
    folder = RunFolder(tmp_path / "attentive")
    folder.start({"data": str(tmp_path / "gone")})
    words = {word: i for i, word in enumerate(WORDS)}
    model = CaptioningRNN(words, input_dim=5, wordvec_dim=4, hidden_dim=6, cell_type="attention", seed=2)
    save_model(folder.path, model)
    open_encoder(tiny_network(tmp_path / "tiny.onnx"), output="maps", grid=2).save(folder.path)
    return folder.path


def test_a_run_with_attention_captions_grids_and_draws_where_it_looked(
    attentive: Path, pictures: list[Path], tmp_path: Path
) -> None:
    result = caption(attentive, *pictures, "--attention-sheet", tmp_path / "sheet.png", "--json", "-")
    assert result.exit_code == 0, result.output
    assert result.stderr.endswith(f"Wrote {tmp_path / 'sheet.png'}\n")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 3 * 176 * 7 / 9  # three pictures of nine by seven pixels
    captioner = capgpu.load(attentive)
    grids = captioner.encoder.encode(pictures).features
    assert grids.shape == (3, 4, 5)
    expected = [item.text for item in captioner.caption(grids)]
    assert [entry["caption"] for entry in json.loads(result.stdout)] == expected
    assert captioner.caption(grids[0]).text == captioner.caption(pictures[0]).text == expected[0]
    several = captioner.caption(list(grids), beam=2, captions=2, attention=True)
    assert all(len(item.attention) == len(item.tokens) for captions in several for item in captions)
    first = captioner.caption(pictures[0], attention=True)
    np.testing.assert_allclose(np.sum(first.attention, axis=1), 1, atol=1e-5)


def test_an_attention_sheet_needs_a_model_with_attention_and_pictures(
    run: Path, attentive: Path, pictures: list[Path], tmp_path: Path
) -> None:
    for arguments, words in (
        ((run, pictures[0], "--attention-sheet", tmp_path / "s.png"), "attention"),
        ((attentive, "--attention-sheet", tmp_path / "s.png"), "--attention-sheet is for captions of PICTUREs"),
        ((attentive, pictures[0], "--attention-sheet", tmp_path / "s.gif"), "expected a name that ends with"),
        ((attentive, pictures[0], "--attention-sheet", pictures[0]), "red.png"),
    ):
        result = caption(*arguments)
        assert result.exit_code == 2, result.output
        assert words in result.stderr


def test_each_picture_gets_a_caption_and_its_probability(run: Path, pictures: list[Path]) -> None:
    result = caption("--run", run, *pictures, "--json", "-")
    assert result.exit_code == 0, result.output
    entries = json.loads(result.stdout)
    assert [entry["picture"] for entry in entries] == [str(path) for path in pictures]
    model, features = RunFolder(run).load_model(), RunFolder(run).load_encoder().encode(pictures).features
    for entry, row in zip(entries, features, strict=True):
        ids = [1, *(WORDS.index(word) for word in entry["caption"].split()), 2]
        nll, _ = model.nll(row[None], np.array([ids]))
        assert entry["probability"] == pytest.approx(float(np.exp(-nll)), rel=1e-4)
    assert len({entry["probability"] for entry in entries}) > 1


def test_the_table_shows_every_picture_also_one_given_twice(
    run: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [path.name for path in (*pictures, pictures[0])]
    result = caption("--run", run, *names, "--json", "captions.json")
    assert result.exit_code == 0
    written = json.loads((tmp_path / "captions.json").read_text())
    rows = [line.rstrip() for line in result.stdout.splitlines()][1:]
    assert [row.split()[-1] for row in rows] == names == [entry["picture"] for entry in written]
    for row, entry in zip(rows, written, strict=True):
        assert " ".join(row.split()[:-2]) == entry["caption"]
        assert f"{entry['probability']:.1%}" in row


def test_broken_pictures_are_reported_and_the_others_captioned(run: Path, pictures: list[Path], tmp_path: Path):
    text = tmp_path / "text.png"
    text.write_text("no picture")
    whole = json.loads(caption("--run", run, pictures[0], pictures[1], "--json", "-").stdout)
    result = caption("--run", run, pictures[0], text, tmp_path / "missing.png", pictures[1], "--json", "-")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"capgpu: skipped {text}: not a picture in a supported format",
        f"capgpu: skipped {tmp_path / 'missing.png'}: No such file or directory",
    ]
    entries = json.loads(result.stdout)
    assert [entries[0], entries[3]] == whole
    assert [set(entry) for entry in entries[1:3]] == [{"picture", "error"}] * 2


def test_nothing_but_broken_pictures_is_an_error(run: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    result = caption("--run", run, text, tmp_path / "missing.png")
    assert result.exit_code == 2
    assert (
        result.stderr.splitlines()[-1] == "capgpu: error: expected at least one readable picture, got none in 2 files."
    )
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["PICTURE", "--split", "val"], "--split chooses pictures of a data set"),
        (["PICTURE", "--indices", "1"], "--indices chooses pictures of a data set"),
        (["PICTURE", "--count", "20"], "--count chooses pictures of a data set"),
        (["PICTURE", "--json", "gone/x.json"], "gone/x.json: expected a file in an existing folder"),
        (["--json", "x.json"], "--json is for captions of PICTUREs"),
    ],
)
def test_options_that_belong_elsewhere_are_refused(run: Path, pictures: list[Path], args: list[str], says: str) -> None:
    result = caption("--run", run, *(pictures[0] if arg == "PICTURE" else arg for arg in args))
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_run_without_an_encoder_says_so(run: Path, pictures: list[Path]) -> None:
    (run / "encoder.json").unlink()
    result = caption("--run", run, *pictures)
    assert result.exit_code == 2
    assert "computed elsewhere" in result.stderr


def test_an_encoder_of_another_length_is_refused(run: Path, pictures: list[Path], tmp_path: Path) -> None:
    projection = Projection(np.zeros(5, np.float32), np.eye(5, 3, dtype=np.float32))
    open_encoder(tmp_path / "tiny.onnx", output="pooled", projection=projection).save(run)
    result = caption("--run", run, *pictures)
    assert result.exit_code == 2
    assert "expected features of length 5, as the model's, got 3" in result.stderr


def test_the_demos_model_takes_pictures_of_any_size(tmp_path: Path) -> None:
    data = emoji.load()
    folder = RunFolder(tmp_path / "run")
    folder.start({"data": "emoji"})
    save_model(folder.path, CaptioningRNN(data["word_to_idx"], input_dim=256, wordvec_dim=8, hidden_dim=8, seed=0))
    wide = Image.new("RGBA", (300, 100), (0, 0, 0, 0))
    wide.paste(Image.fromarray(emoji.thumbnail("test", 0)).resize((100, 100)), (100, 0))
    wide.save(tmp_path / "wide.png")
    result = caption("--run", folder.path, tmp_path / "wide.png", "--json", "-")
    assert result.exit_code == 0, result.output
    assert 0 <= json.loads(result.stdout)[0]["probability"] <= 1


def test_names_of_any_bytes_come_through(run: Path, pictures: list[Path], tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    odd.write_bytes(pictures[0].read_bytes())
    result = caption("--run", run, odd, "--json", tmp_path / "captions.json")
    assert result.exit_code == 0, result.output
    (entry,) = json.loads((tmp_path / "captions.json").read_text(encoding="utf-8"))
    assert entry["picture"] == str(odd)
    assert r"caf\udce9.png" in "".join(result.stdout.split())  # the cell is folded


def test_an_output_that_lacks_letters_gets_marks_or_escapes(run: Path, pictures: list[Path], tmp_path: Path) -> None:
    odd = tmp_path / "bär.png"
    odd.write_bytes(pictures[0].read_bytes())
    in_ascii = CliRunner(charset="ascii")
    result = in_ascii.invoke(main, ["caption", "--run", str(run), str(odd)])
    assert result.exit_code == 0, result.output
    assert "b?r.png" in result.stdout
    result = in_ascii.invoke(main, ["caption", "--run", str(run), str(odd), "--json", "-"])
    assert json.loads(result.stdout)[0]["picture"] == str(odd)


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    run: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFolder, "load_model", lambda self: pytest.fail("work was done"))
    result = caption("--run", run, *pictures, "--json", tmp_path)
    assert (result.exit_code, result.stderr) == (
        2,
        f"capgpu: error: {tmp_path}: expected the name of a file, got a folder.\n",
    )
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    result = caption("--run", run, *pictures, "--json", tmp_path / "captions.json")
    assert result.exit_code == 2
    assert f"expected permission to write to {tmp_path}" in result.stderr


def test_no_file_that_is_read_is_overwritten(run: Path, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(pictures[1])
    other = shutil.copytree(run, tmp_path / "other")
    before = {path: path.read_bytes() for path in (*pictures, *run.iterdir(), *other.iterdir())}
    for target in (pictures[0], tmp_path / "link.json", run / "model.safetensors", other / "model.safetensors"):
        result = caption("--run", run, *pictures, "--json", target, "--ensemble", other)
        assert result.exit_code == 2
        assert "is an input: it would be overwritten" in result.stderr
    sheet = tmp_path / "sheet.png"
    assert "sheet.png is given twice" in caption(run, *pictures, "--json", sheet, "--attention-sheet", sheet).stderr
    result = CliRunner().invoke(
        main, ["export", "--run", str(run), "--to", "torch", "-o", str(run / "model.safetensors")]
    )
    assert result.exit_code == 2
    twice = ["--results", str(tmp_path / "out.json"), "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(main, ["eval", "--run", str(run), *twice])
    assert result.exit_code == 2
    assert "out.json is given twice" in result.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_may_have_the_name_of_a_models_file(run: Path, pictures: list[Path], tmp_path: Path) -> None:
    expected = caption(run, pictures[0], "--json", "-").stdout
    named = run.rename(tmp_path / "run.safetensors")
    assert caption(named, pictures[0], "--json", "-").stdout == expected


def test_models_of_other_features_make_no_ensemble(run: Path, pictures: list[Path], tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    components = np.eye(5, dtype=np.float32)
    for folder, mean in ((run, 0), (other, 1)):  # the same network, and other components
        projection = Projection(np.full(5, mean, np.float32), components)
        open_encoder(tmp_path / "tiny.onnx", output="pooled", projection=projection).save(folder)
    assert f"{other}: expected the encoder of {run}" in caption(run, pictures[0], "--ensemble", other).stderr
    words = {word: i for i, word in enumerate(WORDS)}
    arrays = {"captions": [[1, 2]], "image_idxs": [0], "features": np.zeros((1, 5), np.float32)}
    data = {f"train_{part}": np.asarray(array) for part, array in arrays.items()}
    dataset = Dataset("data", {"word_to_idx": words, **data})
    with pytest.raises(InvalidValueError, match=f"{other}: expected the encoder of {run}"):
        RunFolder(run).load_ensemble(dataset, [other])
    for name in ("encoder.json", "encoder.safetensors"):
        shutil.copy(run / name, other)
    moved = json.loads((run / "encoder.json").read_text()) | {"network": "elsewhere.onnx"}
    del moved["crc32"]  # as an earlier version has written it
    (other / "encoder.json").write_text(json.dumps(moved))
    assert len(RunFolder(run).load_ensemble(dataset, [other]).models) == 2


def test_too_little_memory_is_reported_in_a_line(run: Path, pictures: list[Path]) -> None:
    result = caption("--run", run, pictures[0], "--max-length", 10**15)
    assert result.exit_code == 2
    assert result.stderr.startswith("capgpu: error: Unable to allocate")
