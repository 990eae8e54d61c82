"""The cs231n course's COCO set: what its files hold comes out as in the course; what is damaged is named."""

from __future__ import annotations

import http.server
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import capgpu
import capgpu.data.feature_files
import capgpu.vocabulary
from capgpu.data.arrays import validate_data
from capgpu.data.cs231n_coco import (
    coco_identity,
    decode_captions,
    has_pca_features,
    image_from_url,
    is_cs231n_coco,
    load_coco_data,
    sample_coco_minibatch,
)
from capgpu.data.text_files import DataFileError
from oracles.course_files import WORDS, Arrays, course_arrays, write_course_files, write_h5
from oracles.shared_data import shared_data

ARRAYS = ("captions", "image_idxs", "features", "urls")
STORAGE: list[dict[str, Any]] = [{}, {"chunks": (2, 3)}, {"chunks": (3, 5), "compression": "gzip", "shuffle": True}]


@pytest.fixture
def arrays() -> Arrays:
    return course_arrays()


@pytest.fixture
def folder(tmp_path: Path, arrays: Arrays) -> Path:
    return write_course_files(tmp_path / "coco_captioning", arrays)


# --- as in the course --------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGE, ids=["contiguous", "chunked", "compressed"])
@pytest.mark.parametrize("pca", [True, False])
def test_files_come_out_as_the_dictionary_of_the_course(
    storage: dict[str, Any], pca: bool, tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capgpu.data.feature_files, "_BYTES_AT_ONCE", 60)  # a few rows at a time
    data = load_coco_data(write_course_files(tmp_path, arrays, **storage), pca_features=pca)
    assert set(data) == {f"{split}_{part}" for split in ("train", "val") for part in ARRAYS} | {
        "idx_to_word",
        "word_to_idx",
    }
    for split in ("train", "val"):
        arrays[f"{split}_features"] = arrays[f"{split}_features{'' if pca else '_4096'}"]
        for part in ARRAYS:
            np.testing.assert_array_equal(data[f"{split}_{part}"], arrays[f"{split}_{part}"])
        assert data[f"{split}_captions"].dtype == data[f"{split}_image_idxs"].dtype == np.int32
        assert type(data[f"{split}_captions"]) is type(data[f"{split}_urls"]) is np.ndarray
        assert data[f"{split}_captions"].flags.writeable  # an exercise may change them
        assert data[f"{split}_urls"].dtype.kind == "U"
    assert data["idx_to_word"] == WORDS
    assert data["word_to_idx"] == {word: i for i, word in enumerate(WORDS)}
    validate_data(data, ("train", "val"))


@pytest.mark.parametrize("storage", STORAGE, ids=["contiguous", "chunked", "compressed"])
def test_features_are_mapped_and_not_held(storage: dict[str, Any], tmp_path: Path, arrays: Arrays) -> None:
    data = load_coco_data(write_course_files(tmp_path, arrays, **storage))
    for split in ("train", "val"):
        assert type(data[f"{split}_features"]) is np.memmap
        assert not data[f"{split}_features"].flags.writeable


def global_state() -> list[int]:
    return np.random.get_state()[1].tolist()  # noqa: NPY002 -- whose state it is


def test_draws_are_those_of_the_course_from_numpys_global_generator(folder: Path, arrays: Arrays) -> None:
    np.random.seed(231)  # noqa: NPY002 -- as the course's notebooks do
    data = load_coco_data(folder, max_train=50)
    captions, features, urls = sample_coco_minibatch(data, batch_size=33, split="val")
    course = np.random.RandomState(231)
    mask = course.randint(21, size=50)
    chosen = course.choice(9, 33)
    np.testing.assert_array_equal(data["train_captions"], arrays["train_captions"][mask])
    np.testing.assert_array_equal(data["train_image_idxs"], arrays["train_image_idxs"][mask])
    np.testing.assert_array_equal(data["train_features"], arrays["train_features"])
    np.testing.assert_array_equal(captions, arrays["val_captions"][chosen])
    images = arrays["val_image_idxs"][chosen]
    np.testing.assert_array_equal(features, arrays["val_features"][images])
    np.testing.assert_array_equal(urls, np.array(arrays["val_urls"])[images])


def test_draws_with_a_seed_leave_the_global_generator_alone(folder: Path) -> None:
    before = global_state()
    first, second = (load_coco_data(folder, 3, rng=7) for _ in range(2))
    np.testing.assert_array_equal(first["train_captions"], second["train_captions"])
    batches = [sample_coco_minibatch(first, 5, rng=np.random.default_rng(4)) for _ in range(2)]
    for one, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(one, other)
    other = sample_coco_minibatch(first, 5, rng=5)[0]
    assert not np.array_equal(batches[0][0], other)
    assert global_state() == before


def test_a_minibatch_is_plain_arrays_of_the_course_shapes(folder: Path) -> None:
    captions, features, urls = sample_coco_minibatch(load_coco_data(folder), batch_size=5)
    assert (captions.shape, features.shape, urls.shape) == ((5, 17), (5, 6), (5,))
    assert (captions.dtype, features.dtype, urls.dtype.kind) == (np.int32, np.float32, "U")
    assert type(features) is np.ndarray


def test_captions_are_decoded_by_the_function_of_the_vocabulary(folder: Path) -> None:
    data = load_coco_data(folder)
    assert decode_captions is capgpu.vocabulary.decode_captions
    text = decode_captions(data["val_captions"][0], data["idx_to_word"])
    assert text.startswith("<START> ")
    assert text.endswith(" <END>")


def test_the_solver_trains_on_it(folder: Path) -> None:
    data = load_coco_data(folder, max_train=9, rng=0)
    with capgpu.use_backend("numpy"):
        model = capgpu.CaptioningRNN(
            data["word_to_idx"], input_dim=6, wordvec_dim=5, hidden_dim=7, cell_type="lstm", seed=1
        )
        solver = capgpu.CaptioningSolver(model, data, "adam", batch_size=4, num_epochs=3, seed=1, verbose=False)
        solver.train()
    assert len(solver.val_loss_history) == 3
    assert solver.val_loss_history[-1] < solver.val_loss_history[0]


def test_the_vocabulary_of_the_course_is_accepted(tmp_path: Path, arrays: Arrays) -> None:
    write_course_files(tmp_path, arrays)
    (tmp_path / "coco2014_vocab.json").write_bytes(shared_data("coco2014_vocab.json").read_bytes())
    data = load_coco_data(tmp_path)
    assert len(data["idx_to_word"]) == len(data["word_to_idx"]) == 1004
    assert data["idx_to_word"][:5] == ["<NULL>", "<START>", "<END>", "<UNK>", "a"]


# --- which folder, which contents --------------------------------------------------------------------------


def test_a_folder_is_known_by_any_of_its_own_files(folder: Path, tmp_path: Path) -> None:
    assert is_cs231n_coco(folder)
    assert not is_cs231n_coco(tmp_path)
    (folder / "coco2014_captions.h5").unlink()
    assert is_cs231n_coco(folder)


def test_short_features_are_taken_where_they_are_there(folder: Path) -> None:
    assert has_pca_features(folder)
    (folder / "val2014_vgg16_fc7_pca.h5").unlink()
    assert has_pca_features(folder)  # and loading says what is missing
    (folder / "train2014_vgg16_fc7_pca.h5").unlink()
    assert not has_pca_features(folder)
    assert load_coco_data(folder, pca_features=False)["val_features"].shape == (3, 12)


def test_equal_contents_have_one_identity_however_they_are_stored(tmp_path: Path, arrays: Arrays) -> None:
    stored = [write_course_files(tmp_path / str(i), arrays, **storage) for i, storage in enumerate(STORAGE)]
    assert len({coco_identity(load_coco_data(folder)) for folder in stored}) == 1


@pytest.mark.parametrize("name", ["train_captions", "train_image_idxs", "val_captions", "val_features"])
def test_other_contents_of_the_same_size_have_another_identity(name: str, tmp_path: Path, arrays: Arrays) -> None:
    before = coco_identity(load_coco_data(write_course_files(tmp_path, arrays)))
    arrays[name][-1] = arrays[name][0] if arrays[name].ndim > 1 else (arrays[name][-1] + 1) % 7
    assert coco_identity(load_coco_data(write_course_files(tmp_path, arrays))) != before


def test_another_word_makes_another_identity(tmp_path: Path, arrays: Arrays) -> None:
    before = coco_identity(load_coco_data(write_course_files(tmp_path, arrays)))
    words = [*WORDS[:-1], "cat"]
    arrays |= {"idx_to_word": words, "word_to_idx": {word: i for i, word in enumerate(words)}}
    assert coco_identity(load_coco_data(write_course_files(tmp_path, arrays))) != before


def test_other_features_of_many_pictures_are_noticed(tmp_path: Path) -> None:
    arrays = course_arrays(train=1000, captions=1)
    data = load_coco_data(write_course_files(tmp_path, arrays))
    before = coco_identity(data)
    data["train_features"] = data["train_features"] * np.float32(1.001)
    assert coco_identity(data) != before


# --- what is damaged ---------------------------------------------------------------------------------------

FILES = [
    "coco2014_captions.h5",
    "coco2014_vocab.json",
    "train2014_urls.txt",
    "train2014_vgg16_fc7_pca.h5",
    "val2014_urls.txt",
    "val2014_vgg16_fc7_pca.h5",
]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_the_script_that_brings_it(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="get_datasets") as error:
        load_coco_data(folder)
    assert f"{folder}: expected all files" in str(error.value)
    assert "cs231n/datasets/coco_captioning" in str(error.value)


def test_the_files_of_the_other_features_need_not_be_there(folder: Path) -> None:
    (folder / "train2014_vgg16_fc7.h5").unlink()
    (folder / "val2014_vgg16_fc7.h5").unlink()
    load_coco_data(folder)
    with pytest.raises(FileNotFoundError, match=r"train2014_vgg16_fc7\.h5, val2014_vgg16_fc7\.h5"):
        load_coco_data(folder, pca_features=False)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_named(name: str, folder: Path) -> None:
    os.truncate(folder / name, (folder / name).stat().st_size * 2 // 3)
    with pytest.raises(DataFileError, match=name):
        load_coco_data(folder)


def captions(**changed: Any) -> Callable[[Path, Arrays], None]:
    """Write the captions' file with datasets of other values; None leaves one out."""

    def harm(folder: Path, arrays: Arrays) -> None:
        names = [f"{split}_{part}" for split in ("train", "val") for part in ("captions", "image_idxs")]
        values = {name: arrays[name] for name in names}
        for name, change in changed.items():
            values[name] = None if change is None else change(values[name].copy())
        kept = {name: value for name, value in values.items() if value is not None}
        write_h5(folder / "coco2014_captions.h5", kept)

    return harm


def put(place: Any, value: Any) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[place] = value
        return array

    return change


def features(change: Callable[[Any], Any], name: str = "features") -> Callable[[Path, Arrays], None]:
    def harm(folder: Path, arrays: Arrays) -> None:
        write_h5(folder / "val2014_vgg16_fc7_pca.h5", {name: change(arrays["val_features"].copy())})

    return harm


def vocabulary(words: Any, ids: Any) -> Callable[[Path, Arrays], None]:
    def harm(folder: Path, _: Arrays) -> None:
        (folder / "coco2014_vocab.json").write_text(json.dumps({"idx_to_word": words, "word_to_idx": ids}))

    return harm


def urls(content: bytes) -> Callable[[Path, Arrays], None]:
    def harm(folder: Path, _: Arrays) -> None:
        (folder / "val2014_urls.txt").write_bytes(content)

    return harm


IDS = {word: i for i, word in enumerate(WORDS)}

HARMS: dict[str, tuple[Callable[[Path, Arrays], None], str]] = {
    "no such captions": (captions(val_captions=None), "captions.h5: expected a numeric dataset 'val_captions', got "),
    "an id beyond the words": (
        captions(train_captions=put((4, 2), 12)),
        r"captions.h5: train_captions\[4, 2\]: expected 0 to 11 for 12 words in .*coco2014_vocab.json, got 12",
    ),
    "a negative id": (captions(val_captions=put((0, 1), -1)), r"val_captions\[0, 1\]: expected 0 to 11 .* got -1"),
    "a picture beyond the features": (
        captions(val_image_idxs=put(5, 3)),
        r"captions.h5: val_image_idxs\[5\]: expected 0 to 2 for 3 rows in .*val2014_vgg16_fc7_pca.h5, got 3",
    ),
    "a negative picture": (captions(train_image_idxs=put(1, -2)), r"train_image_idxs\[1\]: expected .* got -2"),
    "an empty caption": (captions(train_captions=put(6, 0)), r"train_captions\[6\]: expected at least one word"),
    "no captions": (
        captions(val_captions=lambda a: a[:0]),
        r"val_captions: expected integer token ids .* got shape \(0, 17\)",
    ),
    "captions of one step": (
        captions(val_captions=lambda a: a[:, :1]),
        r"val_captions: expected integer token ids .* got shape \(9, 1\)",
    ),
    "captions in floats": (
        captions(val_captions=lambda a: a.astype(float)),
        "expected integer token ids .* dtype float64",
    ),
    "captions in a row": (
        captions(val_captions=lambda a: a[0]),
        r"val_captions: expected integer token ids .* got shape \(17,\)",
    ),
    "captions in words": (captions(val_captions=lambda a: [b"a", b"b"]), "expected a numeric dataset 'val_captions'"),
    "fewer pictures than captions": (
        captions(val_image_idxs=lambda a: a[:-1]),
        r"val_image_idxs: expected one integer for each caption, shape \(9,\), got shape \(8,\) and dtype int32",
    ),
    "pictures in floats": (
        captions(val_image_idxs=lambda a: a.astype("f4")),
        "val_image_idxs: expected one integer .* float32",
    ),
    "features of fewer pictures": (
        features(lambda a: a[:-1]),
        r"val_image_idxs\[\d+\]: expected 0 to 1 for 2 rows .* got 2",
    ),
    "features by another name": (
        features(lambda a: a, "fc7"),
        "pca.h5: expected a numeric dataset 'features', got fc7",
    ),
    "features in whole numbers": (
        features(lambda a: a.astype(int)),
        "val2014_vgg16_fc7_pca.h5: features: expected floats .* int64",
    ),
    "features in a row": (features(lambda a: a[0]), r"val2014_vgg16_fc7_pca.h5: .* shape \(6,\)"),
    "features that are not finite": (
        features(put((2, 1), np.nan)),
        "val2014_vgg16_fc7_pca.h5: features: expected .* got others in row 2",
    ),
    "features of another length": (
        features(lambda a: a[:, :5]),
        "val2014_vgg16_fc7_pca.h5: expected vectors of length 6, as in train2014_vgg16_fc7_pca.h5, got 5",
    ),
    "words in a text": (vocabulary("words", IDS), "vocab.json: expected idx_to_word"),
    "no ids": (vocabulary(WORDS, None), "vocab.json: expected idx_to_word"),
    "other special words": (vocabulary(WORDS[::-1], IDS), "vocab.json: idx_to_word: .*special words"),
    "a word that is none": (vocabulary([*WORDS, 5], IDS), r"vocab.json: idx_to_word\[12\]: expected a text.*got .*5"),
    "a word twice": (vocabulary([*WORDS, "dog"], IDS), "vocab.json: idx_to_word: .*'dog'"),
    "an id of another word": (
        vocabulary(WORDS, {**IDS, "man": 6, "on": 5}),
        r"vocab.json: word_to_idx: expected the id 5 of 'man', as in idx_to_word, got 6",
    ),
    "a word without an id": (
        vocabulary([*WORDS, "cat"], IDS),
        r"word_to_idx: expected the id 12 of 'cat', as in idx_to_word, got None",
    ),
    "an id without a word": (
        vocabulary(WORDS, {**IDS, "cat": 12}),
        "word_to_idx: expected the words of idx_to_word, got 'cat'",
    ),
    "fewer addresses than pictures": (
        urls(b"a\nb\n"),
        "val2014_urls.txt: expected one line for each of 3 pictures with features, got 2",
    ),
    "addresses in another encoding": (urls(b"a\nb\xe4\nc\n"), "val2014_urls.txt, line 2: .* is not UTF-8"),
}


@pytest.mark.parametrize("what", HARMS)
def test_what_does_not_fit_is_named_by_file_and_place(what: str, folder: Path, arrays: Arrays) -> None:
    harm, says = HARMS[what]
    harm(folder, arrays)
    with pytest.raises(DataFileError, match=says) as error:
        load_coco_data(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("chunks", [None, (2, 3)])
def test_features_that_were_never_written_are_no_zeros(chunks: Any, folder: Path, arrays: Arrays) -> None:
    import h5py

    with h5py.File(folder / "val2014_vgg16_fc7_pca.h5", "w") as file:
        rows = file.create_dataset("features", (3, 6), "f4", chunks=chunks)
        if chunks:
            rows[:2] = arrays["val_features"][:2]
    with pytest.raises(DataFileError, match=r"pca.h5: /features: expected a complete dataset of shape \(3, 6\)"):
        load_coco_data(folder)


def odd_floats(file: Any) -> None:
    import h5py

    floats = h5py.h5t.IEEE_F32LE.copy()
    floats.set_ebias(10**6)  # exponents beyond any type of NumPy
    h5py.h5d.create(file.id, b"features", floats, h5py.h5s.create_simple((3, 6)))


def times(file: Any) -> None:
    import h5py

    h5py.h5d.create(file.id, b"features", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((3, 6)))


def odd_name(file: Any) -> None:
    file[b"feature\xff"] = np.zeros((3, 6), np.float32)


def type_alone(file: Any) -> None:
    file["features"] = np.dtype("f4")


@pytest.mark.parametrize("write", [odd_floats, times, odd_name, type_alone])
def test_hdf5_that_numpy_cannot_hold_is_refused(write: Callable[[Any], None], folder: Path) -> None:
    import h5py

    with h5py.File(folder / "val2014_vgg16_fc7_pca.h5", "w") as file:
        write(file)
    with pytest.raises(DataFileError, match=r"val2014_vgg16_fc7_pca\.h5.* 'features'"):
        load_coco_data(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\r\nb\r\nc", ["a", "b", "c"]),
        (b"a\nb \rc\n", ["a", "b", "c"]),
        (b"\xef\xbb\xbfa\nb\x0cd\n\n", ["a", "b\x0cd", ""]),
    ],
)
def test_addresses_are_parted_by_line_ends_alone(
    content: bytes, expected: list[str], folder: Path, arrays: Arrays
) -> None:
    urls(content)(folder, arrays)
    assert load_coco_data(folder)["val_urls"].tolist() == expected


@pytest.mark.parametrize("bad", [{"max_train": 0}, {"max_train": -3}])
def test_no_captions_cannot_be_asked_for(bad: dict[str, int], folder: Path) -> None:
    with pytest.raises(ValueError, match="max_train"):
        load_coco_data(folder, **bad)


def test_a_minibatch_needs_addresses_and_a_split(folder: Path) -> None:
    data = load_coco_data(folder)
    with pytest.raises(ValueError, match="batch_size"):
        sample_coco_minibatch(data, 0)
    with pytest.raises(ValueError, match="split 'test'"):
        sample_coco_minibatch(data, 2, "test")
    del data["val_urls"]
    with pytest.raises(ValueError, match="expected the entry val_urls"):
        sample_coco_minibatch(data, 2, "val")


@settings(max_examples=150)
@given(
    st.sampled_from(FILES),
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.none(), st.integers(0, 255)),
)
def test_a_damaged_file_gives_valid_data_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, compressed: bool, place: float, byte: int | None
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"damaged-{compressed}"
    if not folder.exists():
        write_course_files(folder, course_arrays(), **STORAGE[2 if compressed else 0])
    whole = (folder / name).read_bytes()
    cut = int(place * len(whole))
    (folder / name).write_bytes(whole[:cut] + (b"" if byte is None else bytes([byte]) + whole[cut + 1 :]))
    try:
        data = load_coco_data(folder)
    except (DataFileError, OSError) as error:
        said = str(error)
    else:
        said = ""
        validate_data(data, ("train", "val"), vocab_size=len(data["idx_to_word"]))
        assert decode_captions(data["val_captions"], data["idx_to_word"])
    finally:
        (folder / name).write_bytes(whole)
    assert not said or str(folder) in said


# --- pictures by address -----------------------------------------------------------------------------------


@pytest.fixture
def address() -> Iterator[str]:
    """Serve a picture, a text, and nothing else."""
    picture = io.BytesIO()
    Image.new("LA", (3, 2), (200, 255)).save(picture, "PNG")
    postscript = io.BytesIO()
    Image.new("RGB", (3, 2)).save(postscript, "EPS")
    # behind the header a byte of pixels and a chunk without a name
    damaged = picture.getvalue()[:33] + b"\0\0\0\1IDAT\x78" + bytes(8) + b"\1\2\3\4" + bytes(4)
    contents = {
        "/picture.png": picture.getvalue(),
        "/text": b"no picture",
        "/damaged.png": damaged,
        "/program.eps": postscript.getvalue(),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = contents.get(self.path)
            self.send_response(200 if content else 404)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_picture_is_downloaded_and_a_dead_address_is_none(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (image_from_url(f"{address}/picture.png") == np.full((2, 3, 3), 200, np.uint8)).all()
    assert image_from_url(f"{address}/gone.jpg") is None
    assert "gone.jpg: HTTP Error 404" in capsys.readouterr().out
    for name, cause in (("text", "cannot identify"), ("program.eps", "cannot identify"), ("damaged.png", "broken PNG")):
        assert image_from_url(f"{address}/{name}") is None
        assert f"{name}: {cause}" in capsys.readouterr().out
    assert image_from_url("http://127.0.0.1:9/closed") is None
    with pytest.raises(ValueError, match=r"url: expected an http or https address, got 'file:///etc/passwd'"):
        image_from_url("file:///etc/passwd")
