"""capgpu prepare: every form of a source, what is printed, what is refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

import capgpu.backend
import capgpu.data.feature_journal
from capgpu.data.prepared_dataset import load_prepared, read_manifest
from oracles.commands import refused, run
from oracles.folders import coco_annotations, write_json
from oracles.networks import tiny_network
from oracles.shared_data import shared_data
from oracles.sources import karpathy_annotations

COUNT = 12


def prepare(*args: object) -> Result:
    result = run("prepare", "--min-count", 1, *args)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def network(tmp_path: Path) -> tuple[str, ...]:
    return ("--network", str(tiny_network(tmp_path / "tiny.onnx")), "--output", "pooled")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of pictures in folders, the last of them broken, with Flickr8k's file of captions."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for i in range(COUNT):
        path = folder / "images" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (6, 5, 3), np.uint8)).save(path)
    path.write_text("no picture")
    lines = [f"{i % 2}/{i}.png#{k}\t{text}\n" for i in range(COUNT) for k, text in enumerate(("A dog .", "Two cats ."))]
    (folder / "Flickr8k.token.txt").write_text("".join(lines))
    return folder


def sources(form: str, folder: Path, pictures: Path) -> list[Any]:
    """Write the same captions in another form; returns arguments of the command."""
    names = [f"{i % 2}/{i}.png" for i in range(COUNT)]
    if form == "token":
        return [pictures / "Flickr8k.token.txt"]
    if form == "csv":
        lines = [f'{name},"{text}"\n' for name in names for text in ("A dog.", "Two cats.")]
        (pictures / "Flickr8k.token.txt").unlink()
        (pictures / "mine.csv").write_text("image,caption\n" + "".join(lines))
        return [pictures]
    if form == "coco":
        content = coco_annotations({name: ["A dog.", "Two cats."] for name in names}, "{}")
    else:
        content = karpathy_annotations({i: ["train", "val", "test", "restval"][i // 3] for i in range(COUNT)})
        for image in content["images"]:
            image |= {"filepath": f"{image['imgid'] % 2}", "filename": f"{image['imgid']}.png"}
    return [write_json(folder / "source.json", content), "--images", pictures / "images"]


@pytest.mark.parametrize("form", ["token", "csv", "coco", "karpathy"])
def test_every_form_of_a_source_becomes_a_folder_to_train_on(
    form: str, pictures: Path, network: tuple[str, ...], tmp_path: Path
) -> None:
    result = prepare(*sources(form, tmp_path, pictures), *network, "-o", tmp_path / "out")
    assert f"{COUNT} pictures, kind {'folder' if form in ('token', 'csv') else form}" in result.stdout
    assert f"Train on it with: capgpu train --data {tmp_path / 'out'}" in result.stdout
    assert "Missing or unreadable pictures, omitted: 1\n" in result.stderr
    assert "11.png: not a picture in a supported format" in result.stderr
    data = load_prepared(tmp_path / "out")
    files = [Path(file) for split in ("train", "val", "test") for file in data[f"{split}_files"]]
    assert sorted(int(file.stem) for file in files) == list(range(COUNT - 1))
    assert all(file.is_file() for file in files)
    trained = run(
        *("train", "--data", tmp_path / "out", "--epochs", 1, "--hidden", 8, "--wordvec", 8, "--batch-size", 5),
        *("--out", tmp_path / "run"),
    )
    assert trained.exit_code == 0, trained.output


def test_what_is_printed_is_what_was_made(pictures: Path, network: tuple[str, ...], tmp_path: Path) -> None:
    (pictures / "more.csv").write_text('image,caption\n0/0.png,"A dog, a very good dog."\n1/1.png,...\n0/2.png,Cats\n')
    result = prepare(
        pictures / "more.csv",
        *network,
        "--val",
        0.4,
        "--test",
        0,
        "--max-words",
        6,
        "--max-length",
        4,
        "-o",
        tmp_path / "o",
    )
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line[:5] in ("train", "val  ")}
    manifest = read_manifest(tmp_path / "o")
    for split, counts in manifest.report["splits"].items():
        assert rows[split][:3] == [str(counts[key]) for key in ("pictures", "captions", "words")]
        assert rows[split][3] == f"{counts['unknown words'] / counts['words']:.2%}"
    assert manifest.splits == ["train", "val"]
    assert "Captions without words, omitted: 1\n  1/1.png: ...\n" in result.stderr


def test_real_annotations_are_counted_as_they_are(tmp_path: Path) -> None:
    path = shared_data("captions_val2017.json")
    ids = [image["id"] for image in json.loads(path.read_text())["images"]]
    np.savez(tmp_path / "f.npz", features=np.ones((len(ids), 2), np.float16), image_ids=ids)
    result = prepare(path, "--features", tmp_path / "f.npz", "-o", tmp_path / "out")
    splits = read_manifest(tmp_path / "out").report["splits"]
    assert [splits[split]["pictures"] for split in ("train", "val", "test")] == [4000, 500, 500]
    # the words that COCO's own tokeniser finds in its 25,014 captions
    assert sum(split["captions"] for split in splits.values()) == 25_014
    assert sum(split["words"] for split in splits.values()) == 261_470
    assert "5,000 pictures, kind coco" in result.stdout


@pytest.mark.usefixtures("sigint_is_not_ignored")
def test_an_interrupted_preparation_is_resumed(
    pictures: Path, network: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capgpu.data.feature_journal, "PIECE", 5)
    arguments = (pictures, *network, "--min-count", 1, "-o", tmp_path / "out")
    with monkeypatch.context() as patched:
        write = capgpu.data.feature_journal._write

        def interrupt(path: Path, *what: Any) -> None:
            write(path, *what)
            signal.raise_signal(signal.SIGINT)

        patched.setattr(capgpu.data.feature_journal, "_write", interrupt)
        result = run("prepare", *arguments)
    assert result.exit_code == 130
    assert "capgpu: interrupted" in result.stderr
    refused(
        run("prepare", *arguments, "--fit", "pad"),
        "expected the settings of the unfinished preparation, got others (fit)",
    )
    prepare(*arguments)


def test_a_folder_without_a_split_to_validate_on_says_that_it_cannot_be_trained_on(
    pictures: Path, network: tuple[str, ...], tmp_path: Path
) -> None:
    result = prepare(pictures, *network, "--val", 0, "-o", tmp_path / "out")
    assert "no split val" in result.stderr
    assert "Train on it" not in result.stdout
    refused(run("train", "--data", tmp_path / "out", "--out", tmp_path / "run"), "expected a split val")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_is_refused_in_one_line(pictures: Path, network: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    coco = write_json(tmp_path / "coco.json", coco_annotations({1: ["A dog."], 2: ["A cat."], 3: ["A cow."]}))
    np.save(tmp_path / "two.npy", np.ones((2, 3), np.float32))
    (tmp_path / "many").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "many" / name).touch()
    (tmp_path / "file").touch()
    for arguments, says in (
        ((tmp_path / "nowhere",), "does not exist"),
        ((tmp_path / "many",), "got a.csv, b.csv"),
        ((coco,), "--images"),
        (
            (coco, "--features", tmp_path / "two.npy", "--min-count", 1),
            "expected one row for each of 3 images",
        ),
        ((coco, "--features", coco), "expected a file of features"),
        ((pictures, "--min-count", 50), "expected a count that a word reaches"),
        ((pictures, "--val", "nan"), "--val': expected a finite number, got nan"),
        ((pictures, "--val", 1), "--val"),
        ((pictures, "--pca", 9), "pca: expected at most"),
        ((pictures, "--network", "no.onnx"), "no.onnx: expected"),
        (
            (pictures, "-o", pictures),
            "expected a new, an empty or a prepared folder, got one with Flickr8k.token.txt, images",
        ),
        ((pictures, "-o", pictures, "--force"), "expected a new, an empty or a prepared folder"),
        ((pictures, "-o", tmp_path / "file"), "is a file"),
        ((pictures, "-o", tmp_path / "file" / "out"), "Not a directory"),
    ):
        before = {*tmp_path.rglob("*"), out}
        wanted = () if "-o" in arguments else ("-o", out)
        refused(run("prepare", *network, *wanted, *arguments), says)
        assert {*tmp_path.rglob("*"), out} == before


def test_pictures_none_of_which_can_be_read_are_refused_behind_the_progress_bar(
    network: tuple[str, ...], tmp_path: Path
) -> None:
    coco = write_json(tmp_path / "coco.json", coco_annotations({1: ["A dog."], 2: ["A cat."], 3: ["A cow."]}))
    for i in (1, 2, 3):
        (tmp_path / f"{i}.png").write_text("no picture")
    result = run("prepare", *network, "-o", tmp_path / "out", coco, "--images", tmp_path, "--min-count", 1)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(
        f"capgpu: error: {coco}: expected at least one readable training picture"
    )
    assert "Traceback" not in result.output
    assert not list((tmp_path / "out").glob("*"))


def test_the_folder_may_lie_in_that_of_the_source(pictures: Path, network: tuple[str, ...]) -> None:
    prepare(pictures, *network, "-o", pictures / "prepared")
    refused(
        run("prepare", pictures, *network, "-o", pictures / "prepared"), "expected a folder without a finished data set"
    )
    assert "Prepared:" in prepare(pictures, *network, "-o", pictures / "prepared", "--force").stdout


def test_whose_features_a_row_is_taken_for_is_printed(tmp_path: Path) -> None:
    source = write_json(tmp_path / "c.json", coco_annotations({9: ["a dog"], 4: ["a cat"], 6: ["a cow"]}))
    rows = np.array([[4], [6], [9]], np.float32)
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "named.npz", features=rows, image_id=np.array([4, 6, 9]))
    options = ("--min-count", 1, "--val", 0, "--test", 0)
    result = prepare(source, "--features", tmp_path / "rows.npy", *options, "-o", tmp_path / "by-order")
    assert "no ids: rows are in the order of the captions' file" in result.stdout
    assert load_prepared(tmp_path / "by-order")["train_features"].tolist() == rows.tolist()
    result = prepare(source, "--features", tmp_path / "named.npz", *options, "-o", tmp_path / "by-id")
    assert "ids from its entry image_id" in result.stdout
    assert load_prepared(tmp_path / "by-id")["train_features"].tolist() == [[9], [4], [6]]
