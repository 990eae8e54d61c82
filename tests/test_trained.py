"""capgpu.load(...).caption(...): every kind of picture and of answer, and what is refused."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import capgpu
from capgpu.captions import Caption
from capgpu.decode import GenerationConfig
from capgpu.decode.generation_config import GenerationSettings
from capgpu.model import CaptioningRNN
from capgpu.training.run_folder import RunFolder
from capgpu.vision import open_encoder
from oracles.networks import tiny_network

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "red", "green", "square", "circle"]


@pytest.fixture(autouse=True)
def on_the_host():
    with capgpu.use_backend("numpy"):
        yield


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a finished run whose data have gone, as of a folder of pictures that was prepared."""
    folder = RunFolder(tmp_path / "run")
    folder.start({"data": str(tmp_path / "gone")})
    model = CaptioningRNN({word: i for i, word in enumerate(WORDS)}, 5, 4, 6, "lstm", seed=2)
    model.params["b_vocab"][:] = [-9, -9, 2, -9, 0, 0, 0, 0]
    model.params["W_vocab"] *= 3
    model.save(folder.path)
    open_encoder(tiny_network(tmp_path / "tiny.onnx"), output="pooled").save(folder.path)
    return folder.path


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    (tmp_path / "pictures").mkdir()
    paths = [tmp_path / "pictures" / f"{name}.png" for name in ("blue", "green", "red")]
    for path in paths:
        Image.new("RGB", (9, 7), path.stem).save(path)
    return paths


def test_a_file_gives_a_caption_with_its_words_and_their_probabilities(run: Path, pictures: list[Path]) -> None:
    captioner = capgpu.load(run)
    caption = captioner.caption(pictures[0])
    assert isinstance(caption, Caption)
    assert str(caption) == caption.text
    assert caption.source == str(pictures[0])
    assert caption.tokens[-1] == "<END>"
    ids = [[1, *(WORDS.index(token) for token in caption.tokens)]]
    total, count = captioner.model.nll(captioner.encoder.encode([pictures[0]]).features, np.array(ids))
    assert count == len(caption.tokens) == len(caption.probabilities)
    assert caption.log_probability == pytest.approx(-float(total), rel=1e-5)
    assert caption.probability == pytest.approx(math.prod(caption.probabilities))
    assert json.loads(json.dumps(caption.as_json()))["caption"] == caption.text


def test_every_kind_of_picture_gives_the_same_caption(run: Path, pictures: list[Path]) -> None:
    captioner = capgpu.load(str(run))
    expected = captioner.caption([str(path) for path in pictures])
    assert [caption.source for caption in expected] == [str(path) for path in pictures]
    images = [Image.open(path) for path in pictures]
    pixels = np.stack([np.asarray(image) for image in images])
    features = captioner.encoder.encode(pictures).features
    for picture_argument in (
        pictures,
        pictures[0].parent,
        images,
        pixels,
        list(pixels),
        features,
        list(features),
        iter(images),
    ):
        actual = captioner.caption(picture_argument)
        assert [caption.tokens for caption in actual] == [caption.tokens for caption in expected]
    assert [c.source for c in captioner.caption(pixels)] == [c.source for c in captioner.caption(features)] == [0, 1, 2]
    for one in (images[0], pixels[0], features[0], io.BytesIO(pictures[0].read_bytes())):
        assert captioner.caption(one).tokens == expected[0].tokens
    upright, rotated = Image.new("L", (8, 5), 10), Image.new("L", (5, 8), 10)
    upright.putpixel((0, 0), 250)
    rotated.putpixel((4, 0), 250)
    exif = Image.Exif()
    exif[0x0112] = 8  # turned by a quarter
    rotated.info["exif"] = exif.tobytes()
    rows = captioner.encoder.encode([upright, rotated]).features
    np.testing.assert_array_equal(rows[0], rows[1])
    assert captioner.caption([]) == []


def test_several_captions_are_distinct_beams_or_draws_sorted_by_score(run: Path, pictures) -> None:
    captioner = capgpu.load(run)
    beams = captioner.caption(pictures[0], beam=4, captions=3)
    assert len({caption.tokens for caption in beams}) == 3
    draws = captioner.caption(pictures, temperature=2.0, seed=3, captions=5)
    assert [len(captions) for captions in draws] == [5, 5, 5]
    assert len({caption.tokens for caption in draws[0]}) > 1
    for captions in (beams, *draws):
        assert sorted((c.score for c in captions), reverse=True) == [c.score for c in captions]
    again = captioner.caption(pictures, temperature=2.0, seed=3, captions=5)
    assert again == draws
    assert captioner.caption(pictures[0], temperature=2.0, seed=3) in draws[0]
    with pytest.raises(
        ValueError, match=r"captions: expected at most 1 with greedy decoding.*beam=2, or a temperature"
    ):
        captioner.caption(pictures[0], captions=2)


def test_a_model_without_an_encoder_captions_features_and_accepts_an_encoder(
    run: Path, pictures: list[Path], tmp_path: Path
):
    capgpu.load(run).model.save(tmp_path / "model.safetensors")
    captioner = capgpu.load(tmp_path / "model.safetensors")
    assert isinstance(captioner.caption(np.ones(5, np.float32)), Caption)
    with pytest.raises(ValueError, match=r"encoder: expected one, .* capgpu.load\(path, encoder="):
        captioner.caption(pictures[0])
    encoder = capgpu.load(run).encoder
    assert capgpu.load(tmp_path / "model.safetensors", encoder=encoder).caption(pictures[0]).text
    (run / "config.json").unlink()  # a folder with a model and an encoder, but of no run
    assert capgpu.load(run).caption(pictures[0]).text


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ("missing.png", FileNotFoundError, "missing.png"),
        ("https://example.org/cat.jpg", ValueError, "got an address. Download it first"),
        ("", ValueError, "expected a path, got an empty text"),
        (b"cat.jpg", TypeError, "got a bytes"),
        (np.array(["missing.png", "cat.png"]), FileNotFoundError, "missing.png"),
        (np.array(["missing.png", "cat.png"], object), FileNotFoundError, "missing.png"),
        ([3], TypeError, "got a int"),
        (np.zeros((3, 4, 5, 6, 7), np.uint8), ValueError, r"expected shape \(height, width\)"),
        (np.zeros((4, 4, 3), np.float32), ValueError, "expected pixels of dtype uint8"),
        (np.zeros((2, 4), np.float32), ValueError, r"features: expected shape \(N, 5\)"),
        ([np.zeros(5, np.float32), Image.new("L", (2, 2))], TypeError, "Caption them apart"),
    ],
    ids=[
        "missing file",
        "address",
        "empty text",
        "bytes",
        "names",
        "objects",
        "number",
        "5-D",
        "floating pixels",
        "short features",
        "mixed",
    ],
)
def test_an_argument_that_is_not_a_picture_is_refused(
    run: Path, argument: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        capgpu.load(run).caption(argument)  # type: ignore[arg-type] # as a mistaken user passes it


def test_a_damaged_picture_among_others_is_named_or_skipped(run: Path, pictures: list[Path], caplog) -> None:
    captioner = capgpu.load(run)
    pictures[1].write_text("no picture")
    with pytest.raises(ValueError, match=r"green\.png: not a picture"):
        captioner.caption(pictures[0].parent)
    for given in (pictures[0].parent, [*pictures, "missing.png"]):
        caplog.clear()
        kept = captioner.caption(given, on_error="skip")
        assert [caption.source for caption in kept] == [str(pictures[0]), str(pictures[2])]
        assert f"skipped {pictures[1]}: not a picture in a supported format" in caplog.text
    assert "skipped missing.png: No such file or directory" in caplog.text
    with pytest.raises(ValueError, match="expected a folder with picture files, got none"):
        captioner.caption(run)


def test_tensors_of_torch_are_refused_with_the_conversion(run: Path) -> None:
    torch = pytest.importorskip("torch")
    for tensors in (torch.zeros(3, 4), [torch.zeros(3, 4)]):
        with pytest.raises(TypeError, match=r"pictures: expected a NumPy array, got a torch.Tensor. Pass pictures.det"):
            capgpu.load(run).caption(tensors)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"foo": 1}, "settings: expected some of beam, .*, got foo"),
        ({"suppress_unk": "no"}, "suppress_unk: expected True or False, got 'no'"),
        ({"length_penalty": -1}, "length_penalty: expected a finite number of at least 0, got -1"),
    ],
)
def test_settings_of_no_meaning_are_refused(settings: dict[str, Any], says: str, run: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=says) as error:
        capgpu.load(run).caption(np.ones(5, np.float32), **settings)
    assert isinstance(error.value, capgpu.CapgpuError)


@pytest.mark.parametrize("path", [None, 3, b"run", "", [["run"], "run"]])
def test_what_is_no_path_of_a_run_is_refused(path: Any) -> None:
    with pytest.raises(capgpu.CapgpuError, match="path: expected the path of a run folder"):
        capgpu.load(path)


def test_captioning_settings_equal_the_decoders_settings() -> None:
    assert list(GenerationSettings.__annotations__) == list(GenerationConfig.__annotations__)


def test_a_notebook_shows_the_model_and_the_loss_curve(run: Path) -> None:
    captioner = capgpu.load(run)
    assert "CaptioningRNN(lstm, 8 words, input_dim=5" in repr(captioner)
    history = ['{"kind": "step", "step": 1, "epoch": 1, "train_loss": 2.0}', '{"kind": "epoch", "step": 1, "epoch": 1}']
    (run / "history.jsonl").write_text("\n".join(history) + "\n")
    assert [line["kind"] for line in captioner.history()] == ["step", "epoch"]
    page = captioner._repr_html_()
    assert "unfinished" in page
    assert page.count('src="data:image/png;base64,') == 1  # the loss curve; the pictures have gone
    folder = RunFolder(run)
    assert folder._repr_html_() == page
    (run / "model.safetensors").unlink()  # as while it is trained
    assert folder._repr_html_().count('src="data:image/png;base64,') == 1
