"""A preparation: what it makes, and that nothing is lost or computed twice, wherever it stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capgpu.data.feature_journal
import capgpu.data.prepare
import capgpu.data.staging
from capgpu.data.arrays import validate_data
from capgpu.data.detect_format import read_source
from capgpu.data.feature_files import FeatureFile, open_features
from capgpu.data.prepare import PrepareConfig, PrepareResult, prepare
from capgpu.data.prepared_dataset import is_prepared, load_prepared, read_manifest
from capgpu.data.source import Source
from capgpu.data.text_files import DataFileError
from capgpu.folder_lock import folder_lock
from capgpu.vocabulary import SPECIAL_WORDS
from oracles.encoders import CountingEncoder, picture_files

COUNT = 20
ANYTHING = PrepareConfig(min_count=1)


def captions_of(picture: int) -> list[str]:
    return [f"A dog number{picture}.", "Two cats"]


def write_source(folder: Path, split: Callable[[int], str] | None = None, count: int = COUNT) -> Path:
    """Write a CSV file with two captions a picture, and the pictures, of which the last cannot be read."""
    picture_files(folder, count, [count - 1])
    lines = ["image,caption" + (",split" if split else "")]
    lines += [f"{i}.png,{text}" + (f",{split(i)}" if split else "") for i in range(count) for text in captions_of(i)]
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder / "captions.csv"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return read_source(write_source(tmp_path / "source"))


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capgpu.data.feature_journal, "PIECE", 4)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody cuts the power


def make(
    source: Source, folder: Path, config: PrepareConfig = ANYTHING, encoder: Any = None, **more: Any
) -> PrepareResult:
    encoder = encoder or CountingEncoder()
    return prepare(source, folder, config, None, lambda: encoder, **more)


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files but checked.json, which differs with the times of the others."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "checked.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


# --- what is made -----------------------------------------------------------------------------------------


def test_what_is_made_is_what_the_source_holds(source: Source, tmp_path: Path) -> None:
    done = make(source, tmp_path / "out")
    data = load_prepared(tmp_path / "out")
    validate_data(data, ("train", "val", "test"))
    assert done.broken == [f"{tmp_path / 'source' / '19.png'}: is no picture"]
    seen: list[str] = []
    for split in ("train", "val", "test"):
        names = data[f"{split}_image_ids"]
        seen += names
        pairs = list(zip(data[f"{split}_image_idxs"].tolist(), data[f"{split}_texts"], strict=True))
        # all captions of a picture, in order, in the split that the picture is in
        assert pairs == [(row, text) for row, name in enumerate(names) for text in captions_of(int(name[:-4]))]
        for name, file, row in zip(names, data[f"{split}_files"], data[f"{split}_features"], strict=True):
            assert file == str(tmp_path / "source" / name)
            np.testing.assert_array_equal(row, CountingEncoder().features(Path(file)))
        words = [[data["idx_to_word"][i] for i in row if i] for row in data[f"{split}_captions"]]
        assert words[1] == ["<START>", "two", "cats", "<END>"]
        known = f"number{names[0][:-4]}" if split == "train" else "<UNK>"
        assert words[0] == ["<START>", "a", "dog", known, "<END>"]
        report = done.report["splits"][split]
        assert (report["pictures"], report["captions"], report["words"]) == (len(names), len(pairs), 5 * len(names))
        assert report["unknown words"] == (0 if split == "train" else len(names))
    assert sorted(seen) == sorted(f"{i}.png" for i in range(COUNT - 1))


def test_words_are_those_of_training_captions_of_pictures_that_can_be_seen(tmp_path: Path) -> None:
    source = read_source(write_source(tmp_path / "source", lambda i: "val" if i < 5 else "train"))
    make(source, tmp_path / "out")
    words = load_prepared(tmp_path / "out")["idx_to_word"]
    assert set(words[len(SPECIAL_WORDS) :]) == {"a", "dog", "two", "cats", *(f"number{i}" for i in range(5, COUNT - 1))}


def test_limits_of_words_and_lengths_hold(source: Source, tmp_path: Path) -> None:
    report = make(source, tmp_path / "out", PrepareConfig(min_count=2, max_words=6, max_length=2)).report
    data = load_prepared(tmp_path / "out")
    assert len(data["idx_to_word"]) == report["vocabulary"] == 6
    assert data["train_captions"].shape[1] == 4
    pictures = report["splits"]["train"]["pictures"]
    assert report["splits"]["train"]["words cut off"] == pictures


def test_the_same_preparation_gives_the_same_bytes(source: Source, tmp_path: Path) -> None:
    for name in "ab":
        make(source, tmp_path / name)
    make(source, tmp_path / "c", PrepareConfig(min_count=1, seed=1))
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != contents(tmp_path / "c")
    assert "preparing/settings.json" not in contents(tmp_path / "a")


def test_captions_without_words_are_told_and_left_out(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source")
    path.write_text(path.read_text() + '\n3.png,"..."\n0.png,!\n')
    picture_files(tmp_path / "source", 21)
    path.write_text(path.read_text() + "20.png,?\n")
    done = make(read_source(path), tmp_path / "out", PrepareConfig(min_count=1, val=0, test=0))
    assert sorted(done.wordless) == ["0.png: !", "20.png: ?", "3.png: ..."]
    data = load_prepared(tmp_path / "out")
    assert data["train_image_ids"] == [f"{i}.png" for i in range(20)]
    assert len(data["train_texts"]) == 40
    # the tokeniser that keeps marks keeps the captions
    assert make(read_source(path), tmp_path / "plain", PrepareConfig(tokens="plain", min_count=1)).wordless == []


@pytest.mark.parametrize("split", [None, lambda i: ["train", "val", "x"][i % 3]])
def test_rows_of_a_feature_file_stand_with_their_pictures(split: Any, tmp_path: Path) -> None:
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
        for part in ("train", "val", "x" if split else "test"):
            assert data[f"{part}_features"][:, 0].tolist() == [int(image[:-4]) for image in data[f"{part}_image_ids"]]
            assert data[f"{part}_features"].dtype == np.float32


def test_rows_without_ids_are_refused_for_pictures_of_a_list(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source")
    (path.parent / "train.txt").write_text("9.png\n8.png\n")
    np.save(tmp_path / "f.npy", np.array([[9.0], [8.0]]))  # in the order of the list, not of the captions
    with pytest.raises(DataFileError, match=r"expected image_ids, since .* has splits"):
        prepare(read_source(path), tmp_path / "out", ANYTHING, open_features(tmp_path / "f.npy"))


def test_features_of_a_file_have_no_encoder_not_even_an_old_one(source: Source, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    assert read_manifest(tmp_path / "out").encoder
    np.save(tmp_path / "f.npy", np.ones((COUNT, 2)))
    prepare(source, tmp_path / "out", ANYTHING, open_features(tmp_path / "f.npy"), force=True)
    assert not read_manifest(tmp_path / "out").encoder
    assert not (tmp_path / "out" / "encoder.json").exists()


def test_components_are_fitted_to_training_pictures(source: Source, tmp_path: Path) -> None:
    make(source, tmp_path / "out", PrepareConfig(min_count=1, pca=2))
    data = load_prepared(tmp_path / "out")
    assert {data[f"{split}_features"].shape[1] for split in ("train", "val", "test")} == {2}
    assert abs(data["train_features"].mean(axis=0)).max() < 1e-5
    assert json.loads((tmp_path / "out" / "encoder.json").read_text()) == {"dim": 2}


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (PrepareConfig(tokens="french"), "tokens: expected one of plain, coco.*got .*'french'"),
        (PrepareConfig(min_count=0), "min_count: expected at least 1.*got .*0"),
        (PrepareConfig(max_words=4), "max_words: expected at least 5 with the 4 special tokens, got 4"),
        (PrepareConfig(max_length=0), "max_length: expected at least 1, got 0"),
        (PrepareConfig(seed=-1), "seed: expected at least 0, got -1"),
        (PrepareConfig(val=0.5, test=0.5), "expected fractions that leave training pictures"),
        (
            PrepareConfig(min_count=500),
            "min_count: expected a count that a word reaches in the 32 training captions, got 500",
        ),
        (
            PrepareConfig(min_count=1, pca=5),
            "pca: expected at most 4 components of 4 features of 16 training pictures, got 5",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_done(
    config: PrepareConfig, says: str, source: Source, tmp_path: Path
) -> None:
    encoder = CountingEncoder()
    with pytest.raises(ValueError, match=says):
        make(source, tmp_path / "out", config, encoder)
    assert encoder.seen == []
    assert not (tmp_path / "out").exists()


def test_rows_of_features_stand_with_their_pictures_beside_pictures_without_captions(tmp_path: Path) -> None:
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


def test_a_split_without_captions_is_refused(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source", lambda i: "test" if i == 0 else "train")
    path.write_text("image,caption,split\n0.png,,test\n1.png,a dog,train\n2.png,a cat,train\n")
    with pytest.raises(DataFileError, match="expected captions of the split test, got none for 1 pictures"):
        make(read_source(path), tmp_path / "out")


def test_a_source_that_gives_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source", lambda i: "val" if i else "train")
    with pytest.raises(DataFileError, match=r"expected pictures or features, got captions only.*--images.*--features"):
        prepare(read_source(path), tmp_path / "out", ANYTHING)
    path.write_text("image,caption\n0.png,...\n1.png,a dog\n")
    with pytest.raises(DataFileError, match=r"val: expected a caption with words, got none; the first is '...'"):
        make(read_source(path), tmp_path / "out", PrepareConfig(min_count=1, val=0.5, test=0))
    path.write_text("image,caption\n0.png,a dog\n")
    with pytest.raises(ValueError, match="1 and 1 of 1 pictures"):
        make(read_source(path), tmp_path / "out")
    make(read_source(path), tmp_path / "out", PrepareConfig(min_count=1, val=0, test=0))
    assert read_manifest(tmp_path / "out").splits == ["train"]


def test_pictures_none_of_which_can_be_read_leave_nothing_behind(source: Source, tmp_path: Path) -> None:
    picture_files(tmp_path / "elsewhere", COUNT, range(COUNT))
    elsewhere = read_source(source.path, folder=tmp_path / "elsewhere")
    with pytest.raises(
        DataFileError, match=r"captions.csv: expected at least one readable training picture, got none. The first: .*: "
    ):
        make(elsewhere, tmp_path / "out", settings={"images": "elsewhere"})
    make(source, tmp_path / "out", settings={"images": "here"})


def test_the_minimum_count_suits_the_number_of_captions_and_unknown_words_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "source" / "captions.csv"
    picture_files(tmp_path / "source", 12)
    for repeats, minimum in ((1, 1), (3, 3), (9, 5)):
        texts = [" ".join([*("a dog",) * (i + 1), *(f"w{i}",) * repeats]) for i in range(12)]
        path.write_text("image,caption\n" + "".join(f"{i}.png,{text}\n" for i, text in enumerate(texts)))
        done = make(read_source(path), tmp_path / str(repeats), PrepareConfig(val=0, test=0))
        assert done.report["minimum count"] == minimum
        assert done.report["splits"]["train"]["unknown words"] == 0
    done = make(read_source(path), tmp_path / "asked", PrepareConfig(min_count=10, val=0, test=0))
    assert done.report["minimum count"] == 10
    assert done.report["splits"]["train"]["unknown words"] == 12 * 9


@pytest.mark.parametrize("tokens", ["coco", "plain"])
@pytest.mark.parametrize("unknown", ["<unk>", "<UNK>", "[UNK]"])
def test_unknown_words_of_the_source_are_unknown(unknown: str, tokens: str, tmp_path: Path) -> None:
    picture_files(tmp_path / "source", 1)
    (tmp_path / "source" / "captions.csv").write_text(f"image,caption\n0.png,a {unknown} runs\n")
    config = PrepareConfig(tokens=tokens, min_count=1, val=0, test=0)
    done = make(read_source(tmp_path / "source"), tmp_path / "out", config)
    data = load_prepared(tmp_path / "out")
    assert data["idx_to_word"] == [*SPECIAL_WORDS, "a", "runs"]
    assert data["train_captions"].tolist() == [[1, 4, 3, 5, 2]]
    assert done.report["splits"]["train"]["unknown words"] == 1


@pytest.mark.parametrize("there", [True, False])
def test_mostly_missing_or_unreadable_pictures_are_refused_unless_accepted(there: bool, tmp_path: Path) -> None:
    path = write_source(tmp_path / "source")
    for i in range(3, COUNT):
        picture = tmp_path / "source" / f"{i}.png"
        picture.write_text("no picture") if there else picture.unlink()
    says = (
        rf"{'readable' if there else 'existing'} pictures, got none for 17 of 20, the first .*3\.png.*--max-unreadable"
    )
    encoder = CountingEncoder()
    with pytest.raises(DataFileError, match=says):
        make(read_source(path), tmp_path / "out", encoder=encoder)
    assert len(encoder.seen) == (COUNT if there else 0)  # missing ones are counted before the work
    done = make(read_source(path), tmp_path / "out", encoder=CountingEncoder(), max_unreadable=1.0)
    assert len(done.broken) == 17


def test_a_split_of_the_source_must_not_be_missing(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source", lambda i: "val" if i < 4 else "train")
    for i in range(4):
        (tmp_path / "source" / f"{i}.png").unlink()
    with pytest.raises(DataFileError, match=r"got none for 4 of 4 of the split val"):
        make(read_source(path), tmp_path / "out")
    assert len(make(read_source(path), tmp_path / "out", max_unreadable=1.0).broken) == 5


def test_addresses_of_pictures_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,caption\nhttps://example.org/a.jpg,a dog\n")
    with pytest.raises(DataFileError, match=r"got an address, the first of example\.org/a\.jpg\. Download"):
        make(read_source(tmp_path), tmp_path / "out")


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_holds_something_else_is_not_touched(force: bool, source: Source, tmp_path: Path) -> None:
    (tmp_path / "out" / "preparing").mkdir(parents=True)
    (tmp_path / "out" / "preparing" / "thesis.txt").touch()
    (tmp_path / "out" / "notes.txt").touch()
    (tmp_path / "file").touch()
    for folder, says in (
        (tmp_path / "out", r"expected a new, an empty or a prepared folder, got one with notes.txt"),
        (tmp_path / "file", "expected a folder, got a file"),
        (source.path.parent, "expected a new, an empty or a prepared folder"),
    ):
        before = contents(tmp_path)
        with pytest.raises(ValueError, match=says):
            make(source, folder, force=force)
        assert contents(tmp_path) == before


def test_a_finished_folder_stays_as_it_is_unless_it_may_go(source: Source, tmp_path: Path) -> None:
    make(source, tmp_path / "out", PrepareConfig(min_count=1, test=0.3))
    (tmp_path / "out" / "notes.txt").touch()
    before = contents(tmp_path / "out")
    for config in (PrepareConfig(min_count=1, test=0.3), ANYTHING, PrepareConfig(min_count=500)):
        with pytest.raises(ValueError, match=r"expected a folder without a finished data set.*--force"):
            make(source, tmp_path / "out", config)
    with pytest.raises(ValueError, match="expected a count that a word reaches"):
        make(source, tmp_path / "out", PrepareConfig(min_count=500), force=True)
    assert contents(tmp_path / "out") == before
    make(source, tmp_path / "out", PrepareConfig(min_count=1, test=0), force=True)
    make(source, tmp_path / "new", PrepareConfig(min_count=1, test=0))
    assert contents(tmp_path / "out") == {**contents(tmp_path / "new"), "notes.txt": b""}  # and no test_features.npy


# --- where it stops, it goes on ---------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


class Death:
    """Let a process die at the n-th thing that it does to the disk: from there on, it does nothing any more."""

    CALLS = ("replace", "unlink", "rmdir", "mkdir", "open")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.left = at
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return real(*args, **more)

        return call


def unfinished(source: Source, folder: Path) -> None:
    """Leave a preparation there that stopped behind its second piece."""

    def stop(done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(source, folder, progress=stop)


@pytest.mark.parametrize("force", [False, True])
def test_a_preparation_that_another_process_runs_is_left_alone(force: bool, source: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with folder_lock(out), pytest.raises(ValueError, match="expected a folder that no other process"):
        make(source, out, force=force)
    assert not out.exists()
    make(source, out)
    before = contents(out)
    with folder_lock(out), pytest.raises(ValueError, match="expected a folder that no other process"):
        make(source, out, force=True)
    assert contents(out) == before


@pytest.mark.parametrize("before", [None, PrepareConfig(min_count=2, test=0)])
def test_killed_anywhere_it_ends_with_the_same_bytes_and_computes_nothing_twice(
    before: PrepareConfig | None, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, force = tmp_path / "out", before is not None
    make(source, tmp_path / "expected")
    expected = contents(tmp_path / "expected")
    if before is not None:
        make(source, tmp_path / "old", before)
    states = []
    while not states or states[-1] != "finished":
        if force:
            shutil.copytree(tmp_path / "old", out)
        state = "finished"
        with monkeypatch.context() as patched:
            Death(patched, at=3 * len(states))
            try:
                make(source, out, force=force)
            except Killed:
                state = "unfinished"
        found = {name: content for name, content in contents(out).items() if "preparing" not in name}
        if is_prepared(out):
            load_prepared(out)
            assert found == expected or (force and found == contents(tmp_path / "old"))
            state = {"unfinished": "new" if found == expected else "old"}.get(state, state)
        if state in ("unfinished", "old"):
            pieces = list(out.glob("preparing/piece-*.bin"))
            encoder = CountingEncoder()
            make(source, out, encoder=encoder, force=is_prepared(out))
            assert len(encoder.seen) == COUNT - 4 * len(pieces)
            assert contents(out) == expected
        shutil.rmtree(out, ignore_errors=True)
        states.append(state)
    # in this order: nothing that was good is lost before the new is there
    order = [*(["old"] if force else []), "unfinished", "new", "finished"]
    assert list(dict.fromkeys(states)) == order
    assert states == sorted(states, key=order.index)


def test_a_process_that_is_killed_outright_leaves_what_another_takes_up(source: Source, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
import capgpu.data.feature_journal
from capgpu.data.detect_format import read_source
from capgpu.data.prepare import PrepareConfig, prepare
from oracles.encoders import CountingEncoder

capgpu.data.feature_journal.PIECE = 4
source, out = map(Path, sys.argv[1:])
show = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done >= 8 else None
prepare(read_source(source), out, PrepareConfig(min_count=1), None, CountingEncoder, progress=show)
"""
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, str(source.path), str(tmp_path / "out")]
    assert subprocess.run(command, env=paths, timeout=60, check=False).returncode == -signal.SIGKILL
    encoder = CountingEncoder()
    make(source, tmp_path / "out", encoder=encoder)
    assert len(encoder.seen) == COUNT - 8
    make(source, tmp_path / "expected")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_a_process_killed_while_it_starts_over_leaves_a_folder_that_can_be_prepared(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(source, tmp_path / "expected")
    unfinished(source, tmp_path / "out")
    (tmp_path / "out" / "train.json").touch()  # the process was killed when it moved the finished files
    monkeypatch.setattr(capgpu.data.staging, "atomic_write", None)
    with pytest.raises(TypeError):  # an exception there ends as a kill does
        make(source, tmp_path / "out", PrepareConfig(min_count=2), force=True)
    monkeypatch.undo()
    make(source, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_the_last_good_state(
    force: bool, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if force:
        make(source, tmp_path / "out", PrepareConfig(min_count=2))
    before = contents(tmp_path / "out")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np.lib.format, "write_array_header_1_0", full)
        with pytest.raises(OSError, match="No space left"):
            make(source, tmp_path / "out", force=force)
    assert {name: after for name, after in contents(tmp_path / "out").items() if name in before} == before
    assert is_prepared(tmp_path / "out") == force
    encoder = CountingEncoder()
    make(source, tmp_path / "out", encoder=encoder, force=force)
    assert encoder.seen == []


def test_other_settings_are_refused_by_name_and_may_start_over(source: Source, tmp_path: Path) -> None:
    unfinished(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(
        ValueError,
        match=r"expected the settings of the unfinished preparation, got others \(min_count, seed\).*--force",
    ):
        make(source, tmp_path / "out", PrepareConfig(min_count=2, seed=1))
    source.path.write_text(source.path.read_text() + "\n0.png,a cow\n")
    with pytest.raises(ValueError, match=r"got others \(source's sha256\)"):
        make(read_source(source.path), tmp_path / "out")
    assert contents(tmp_path / "out") == before
    encoder = CountingEncoder()
    make(read_source(source.path), tmp_path / "out", encoder=encoder, force=True)
    assert len(encoder.seen) == COUNT


@pytest.mark.parametrize("text", ["", "[]", '{"min_count":', "\xff"])
def test_settings_that_are_damaged_are_other_settings(text: str, source: Source, tmp_path: Path) -> None:
    unfinished(source, tmp_path / "out")
    (tmp_path / "out" / "preparing" / "settings.json").write_text(text, encoding="latin1")
    with pytest.raises(ValueError, match="expected the settings of the unfinished preparation"):
        make(source, tmp_path / "out")
    make(source, tmp_path / "out", force=True)


@pytest.mark.usefixtures("sigint_is_not_ignored")
def test_an_interrupted_overwriting_goes_on_too(source: Source, tmp_path: Path) -> None:
    make(source, tmp_path / "out", PrepareConfig(min_count=2))
    with pytest.raises(KeyboardInterrupt):
        make(
            source,
            tmp_path / "out",
            force=True,
            progress=lambda done, _: done < 8 or signal.raise_signal(signal.SIGINT),
        )
    assert read_manifest(tmp_path / "out").settings["min_count"] == 2
    encoder = CountingEncoder()
    make(source, tmp_path / "out", encoder=encoder, force=True)
    assert len(encoder.seen) == COUNT - 8


def test_progress_counts_all_pictures_those_of_earlier_runs_too(source: Source, tmp_path: Path) -> None:
    unfinished(source, tmp_path / "out")
    told: list[tuple[int, int]] = []
    make(source, tmp_path / "out", progress=lambda *counts: told.append(counts))
    assert told == [(done, COUNT) for done in range(0, COUNT + 1, 4)]


@pytest.mark.usefixtures("sigint_is_not_ignored")
def test_features_that_changed_since_are_refused(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def file(value: float) -> FeatureFile:
        np.save(tmp_path / "f.npy", np.full((COUNT, 2), float(value)))
        return open_features(tmp_path / "f.npy")

    with monkeypatch.context() as patched:
        patched.setattr(capgpu.data.prepare, "save_prepared", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tmp_path / "out", ANYTHING, file(1))
    with pytest.raises(ValueError, match=r"got others \(features' sha256\)"):
        prepare(source, tmp_path / "out", ANYTHING, file(2))
    prepare(source, tmp_path / "out", ANYTHING, file(1))
    assert (load_prepared(tmp_path / "out")["train_features"] == 1).all()
