"""The contents of a prepared folder: captions, words, features and splits of the source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capgpu.data import prepare as preparation
from capgpu.data.arrays import validate_data
from capgpu.data.batches import epoch_batches
from capgpu.data.detect_format import read_source
from capgpu.data.feature_files import open_features
from capgpu.data.prepare import PrepareConfig, prepare
from capgpu.data.prepared_dataset import load_prepared, read_manifest
from capgpu.data.source import Source
from capgpu.data.text_files import DataFileError
from capgpu.vocabulary import SPECIAL_WORDS
from oracles.encoders import CountingEncoder, picture_files
from oracles.preparations import ANYTHING, COUNT, captions_of, contents, make, write_source

pytestmark = pytest.mark.usefixtures("small_pieces")


def test_the_prepared_data_are_those_of_the_source(csv_source: Source, tmp_path: Path) -> None:
    result = make(csv_source, tmp_path / "out")
    data = load_prepared(tmp_path / "out")
    validate_data(data, ("train", "val", "test"))
    assert result.broken == [f"{tmp_path / 'source' / '19.png'}: is no picture"]
    all_names: list[str] = []
    for split in ("train", "val", "test"):
        names = data[f"{split}_image_ids"]
        all_names += names
        pairs = list(zip(data[f"{split}_image_idxs"].tolist(), data[f"{split}_texts"], strict=True))
        # all captions of a picture, in order, in the split that the picture is in
        assert pairs == [(row, text) for row, name in enumerate(names) for text in captions_of(int(name[:-4]))]
        for name, file, row in zip(names, data[f"{split}_files"], data[f"{split}_features"], strict=True):
            assert file == str(tmp_path / "source" / name)
            np.testing.assert_array_equal(row, CountingEncoder().features(Path(file)))
        words = [[data["idx_to_word"][i] for i in row if i] for row in data[f"{split}_captions"]]
        assert words[1] == ["<START>", "two", "cats", "<END>"]
        expected_word = f"number{names[0][:-4]}" if split == "train" else "<UNK>"
        assert words[0] == ["<START>", "a", "dog", expected_word, "<END>"]
        report = result.report["splits"][split]
        assert (report["pictures"], report["captions"], report["words"]) == (len(names), len(pairs), 5 * len(names))
        assert report["unknown words"] == (0 if split == "train" else len(names))
    assert sorted(all_names) == sorted(f"{i}.png" for i in range(COUNT - 1))


def test_the_vocabulary_is_that_of_training_captions_of_readable_pictures(tmp_path: Path) -> None:
    source = read_source(write_source(tmp_path / "source", lambda i: "val" if i < 5 else "train"))
    make(source, tmp_path / "out")
    words = load_prepared(tmp_path / "out")["idx_to_word"]
    assert set(words[len(SPECIAL_WORDS) :]) == {"a", "dog", "two", "cats", *(f"number{i}" for i in range(5, COUNT - 1))}


def test_words_are_counted_once_unless_training_pictures_are_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    count = preparation._counted
    monkeypatch.setattr(preparation, "_counted", lambda words: counted.append(len(words)) or count(words))
    for split in ("train", "val"):  # of the last picture, which is unreadable
        source = read_source(write_source(tmp_path / split, lambda i, s=split: s if i >= COUNT // 2 else "train"))
        make(source, tmp_path / f"{split}-out")
        counted.append(0)
    assert counted == [COUNT, COUNT - 1, 0, COUNT // 2, 0]


def test_limits_of_vocabulary_and_caption_length_are_applied(csv_source: Source, tmp_path: Path) -> None:
    report = make(csv_source, tmp_path / "out", PrepareConfig(min_count=2, max_words=6, max_length=2)).report
    data = load_prepared(tmp_path / "out")
    assert len(data["idx_to_word"]) == report["vocabulary"] == 6
    assert data["train_captions"].shape[1] == 4
    pictures = report["splits"]["train"]["pictures"]
    assert report["splits"]["train"]["words cut off"] == pictures


def test_the_same_preparation_gives_the_same_bytes(csv_source: Source, tmp_path: Path) -> None:
    for name in "ab":
        make(csv_source, tmp_path / name)
    make(csv_source, tmp_path / "c", PrepareConfig(min_count=1, seed=1))
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != contents(tmp_path / "c")
    assert "preparing/settings.json" not in contents(tmp_path / "a")


def test_captions_without_words_are_reported_and_dropped(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source")
    path.write_text(path.read_text() + '\n3.png,"..."\n0.png,!\n')
    picture_files(tmp_path / "source", 21)
    path.write_text(path.read_text() + "20.png,?\n")
    result = make(read_source(path), tmp_path / "out", PrepareConfig(min_count=1, val=0, test=0))
    assert sorted(result.wordless) == ["0.png: !", "20.png: ?", "3.png: ..."]
    data = load_prepared(tmp_path / "out")
    assert data["train_image_ids"] == [f"{i}.png" for i in range(20)]
    assert len(data["train_texts"]) == 40
    # the plain tokenizer keeps punctuation, so no caption is empty
    assert make(read_source(path), tmp_path / "plain", PrepareConfig(tokens="plain", min_count=1)).wordless == []


@pytest.mark.parametrize("split", [None, lambda i: ["train", "val", "x"][i % 3]])
def test_rows_of_a_feature_file_are_assigned_to_their_pictures(split: Any, tmp_path: Path) -> None:
    path = write_source(tmp_path / "source", split)
    path.write_text(path.read_text() + f"\nwordless.png,...{',train' if split else ''}\n")
    source = read_source(path)
    order = np.random.default_rng(0).permutation(COUNT)
    np.savez(tmp_path / "f.npz", features=order[:, None] * np.ones(3), image_ids=[f"{i}.png" for i in order])
    np.save(tmp_path / "f.npy", np.arange(COUNT + 1.0)[:, None] * np.ones(3))
    for name in ("f.npz", "f.npy"):
        if split and name == "f.npy":
            with pytest.raises(DataFileError, match=r"f.npy: expected image_ids, since .*captions.csv has splits"):
                prepare(source, tmp_path / "out", ANYTHING, open_features(tmp_path / name), force=True)
            continue
        prepare(source, tmp_path / "out", ANYTHING, open_features(tmp_path / name), force=True)
        data = load_prepared(tmp_path / "out")
        for split_name in ("train", "val", "x" if split else "test"):
            assert data[f"{split_name}_features"][:, 0].tolist() == [
                int(image[:-4]) for image in data[f"{split_name}_image_ids"]
            ]
            assert data[f"{split_name}_features"].dtype == np.float32


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "npz"), ("float32", "h5"), ("float16", "npy")])
def test_grids_of_a_feature_file_are_stored_as_they_are(dtype: str, kind: str, tmp_path: Path) -> None:
    source = read_source(write_source(tmp_path / "source"))
    rows = np.arange(COUNT * 6).reshape(COUNT, 3, 2).astype(dtype)
    ids = [f"{i}.png" for i in range(COUNT)]
    file = tmp_path / f"f.{kind}"
    if kind == "npz":
        np.savez(file, features=rows, image_ids=ids)
    elif kind == "npy":
        np.save(file, rows)
    else:
        with pytest.importorskip("h5py").File(file, "w") as out:
            out["features"], out["image_ids"] = rows, ids
    result = prepare(source, tmp_path / "out", ANYTHING, open_features(file))
    data = load_prepared(tmp_path / "out")
    assert data["val_features"].dtype == dtype
    chosen = [int(image[:-4]) for image in data["val_image_ids"]]
    np.testing.assert_array_equal(data["val_features"], rows[chosen])
    size = 6 * rows.itemsize
    assert result.report["features"] == {"shape": [3, 2], "dtype": dtype, "bytes a picture": size}


def test_grids_of_pictures_are_computed_resumed_and_projected(csv_source: Source, tmp_path: Path) -> None:
    encoder = CountingEncoder(grid=2)

    def stop(done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(csv_source, tmp_path / "out", encoder=encoder, progress=stop)
    make(csv_source, tmp_path / "out", encoder=encoder)
    assert len(encoder.seen) == COUNT  # none twice
    data = load_prepared(tmp_path / "out")
    assert data["train_features"].dtype == np.float16
    for file, grid in zip(data["train_files"], data["train_features"], strict=True):
        np.testing.assert_array_equal(grid, encoder.features(Path(file)))
    captions, features, images = next(epoch_batches(data, 3, seed=0, epoch=0))
    assert features.shape == (len(captions), 4, 4)
    np.testing.assert_array_equal(features, data["train_features"][images])
    make(csv_source, tmp_path / "few", PrepareConfig(min_count=1, pca=2), encoder=encoder)
    assert load_prepared(tmp_path / "few")["train_features"].shape[1:] == (4, 2)


def test_features_from_a_file_remove_the_encoder_of_an_earlier_preparation(csv_source: Source, tmp_path: Path) -> None:
    make(csv_source, tmp_path / "out")
    assert read_manifest(tmp_path / "out").encoder
    np.save(tmp_path / "f.npy", np.ones((COUNT, 2)))
    prepare(csv_source, tmp_path / "out", ANYTHING, open_features(tmp_path / "f.npy"), force=True)
    assert not read_manifest(tmp_path / "out").encoder
    assert not (tmp_path / "out" / "encoder.json").exists()


def test_principal_components_are_fitted_to_training_pictures(csv_source: Source, tmp_path: Path) -> None:
    make(csv_source, tmp_path / "out", PrepareConfig(min_count=1, pca=2))
    data = load_prepared(tmp_path / "out")
    assert {data[f"{split}_features"].shape[1] for split in ("train", "val", "test")} == {2}
    assert abs(data["train_features"].mean(axis=0)).max() < 1e-5
    assert json.loads((tmp_path / "out" / "encoder.json").read_text()) == {"dim": 2}


def test_the_default_minimum_count_depends_on_the_captions_and_unknown_words_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "source" / "captions.csv"
    picture_files(tmp_path / "source", 12)
    for repeats, minimum in ((1, 1), (3, 3), (9, 5)):
        texts = [" ".join([*("a dog",) * (i + 1), *(f"w{i}",) * repeats]) for i in range(12)]
        path.write_text("image,caption\n" + "".join(f"{i}.png,{text}\n" for i, text in enumerate(texts)))
        result = make(read_source(path), tmp_path / str(repeats), PrepareConfig(val=0, test=0))
        assert result.report["minimum count"] == minimum
        assert result.report["splits"]["train"]["unknown words"] == 0
    result = make(read_source(path), tmp_path / "asked", PrepareConfig(min_count=10, val=0, test=0))
    assert result.report["minimum count"] == 10
    assert result.report["splits"]["train"]["unknown words"] == 12 * 9


@pytest.mark.parametrize("tokens", ["coco", "plain"])
@pytest.mark.parametrize("unknown", ["<unk>", "<UNK>", "[UNK]"])
def test_spellings_of_the_unknown_word_in_the_source_become_unk(unknown: str, tokens: str, tmp_path: Path) -> None:
    picture_files(tmp_path / "source", 1)
    (tmp_path / "source" / "captions.csv").write_text(f"image,caption\n0.png,a {unknown} runs\n")
    config = PrepareConfig(tokens=tokens, min_count=1, val=0, test=0)
    result = make(read_source(tmp_path / "source"), tmp_path / "out", config)
    data = load_prepared(tmp_path / "out")
    assert data["idx_to_word"] == [*SPECIAL_WORDS, "a", "runs"]
    assert data["train_captions"].tolist() == [[1, 4, 3, 5, 2]]
    assert result.report["splits"]["train"]["unknown words"] == 1


def test_feature_rows_are_assigned_to_their_pictures_beside_pictures_without_captions(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("image,caption\n" + "".join(f"{i}.jpg,{'a dog' if i != 1 else ''}\n" for i in range(5)))
    np.save(tmp_path / "features.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    config = PrepareConfig(min_count=1, val=0.25, test=0)
    prepare(read_source(path), tmp_path / "out", config, open_features(tmp_path / "features.npy"))
    data = load_prepared(tmp_path / "out")
    rows = {
        image: features.tolist()
        for split in ("train", "val")
        for image, features in zip(data[f"{split}_image_ids"], data[f"{split}_features"], strict=True)
    }
    assert rows == {f"{i}.jpg": [2 * i, 2 * i + 1] for i in (0, 2, 3, 4)}
