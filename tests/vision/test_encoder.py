"""An encoder turns files into features, reports what it skips, and comes back from its folder."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from capgpu.checkpoint import CheckpointError
from capgpu.vision import PictureEncoder, Projection, fit_projection, open_encoder
from oracles.networks import save_network, tiny_network

onnx = pytest.importorskip("onnx", reason="onnx is not installed")


@pytest.fixture
def network(tmp_path):
    return tiny_network(tmp_path / "tiny.onnx")


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(9)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (6, 5, 3), np.uint8)).save(path)
    return paths


def test_features_do_not_depend_on_batch_order_or_threads(network, pictures):
    encoder = open_encoder(network, output="pooled")
    together = encoder.encode(pictures, threads=1)
    assert together.features.shape == (9, encoder.dim) == (9, 5)
    assert together.features.dtype == np.float32
    assert together.kept == list(range(9))
    assert together.broken == []
    np.testing.assert_array_equal(encoder.encode(pictures[::-1], threads=4).features[::-1], together.features)
    for path, row in zip(pictures, together.features, strict=True):
        np.testing.assert_array_equal(encoder.encode([str(path)]).features, row[None])


def test_grids_come_back_from_the_folder_and_are_projected_cell_by_cell(network, pictures, tmp_path):
    encoder = open_encoder(network, output="maps", grid=2)
    encoded = encoder.encode(pictures)
    assert encoded.features.shape == (9, *encoder.shape) == (9, 4, 5)
    assert encoded.features.dtype == encoder.dtype == np.float16
    np.testing.assert_allclose(
        encoded.features.mean(axis=1), open_encoder(network, output="maps").encode(pictures).features, atol=2e-3
    )
    encoder = encoder.with_projection(fit_projection(encoded.features.reshape(-1, 5), 3))
    encoder.save(tmp_path / "saved")
    loaded = PictureEncoder.load(tmp_path / "saved")
    assert (loaded.grid, loaded.shape) == (2, (4, 3))
    projected = loaded.encode(pictures).features
    np.testing.assert_array_equal(projected, encoder.encode(pictures).features)
    np.testing.assert_allclose(projected[3, 1], encoder.projection.apply(encoded.features[3])[1], rtol=2e-2, atol=1e-2)


def test_grid_features_that_float16_cannot_hold_are_reported(tmp_path, pictures):
    nodes = [onnx.helper.make_node("Mul", ["pictures", "huge"], ["maps"])]
    path = save_network(
        tmp_path / "huge.onnx", nodes, {"huge": np.full((1, 1, 1, 1), 1e5, np.float32)}, outputs=["maps"]
    )
    encoded = open_encoder(path, grid=4).encode(pictures[:1])
    assert encoded.features.shape == (0, 16, 3)
    assert "the network's output is not finite in float16" in encoded.broken[0][1]


def test_the_network_gets_scaled_pixels(tmp_path):
    nodes = [onnx.helper.make_node("ReduceMean", ["pictures"], ["scores"], axes=[2, 3], keepdims=0)]
    path = save_network(tmp_path / "mean.onnx", nodes, {})
    Image.new("RGB", (7, 7), (10, 20, 30)).save(tmp_path / "plain.png")

    def features(**settings):
        return open_encoder(path, **settings).encode([tmp_path / "plain.png"]).features[0]

    imagenet = (np.array([10, 20, 30]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(features(), imagenet, rtol=1e-5)
    np.testing.assert_allclose(features(mean=0, std=10), [1, 2, 3], rtol=1e-6)
    np.testing.assert_allclose(features(mean=[1, 2, 3], std=[1, 2, 3], channels="BGR"), [29, 9, 7 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "mean 123.675,116.28,103.53 and std 58.395,57.12,57.375"),
        (0.5, 0.5, "mean 127.5,127.5,127.5 and std 127.5"),
        (0, 1 / 255, "std 1,1,1"),
        ((0.485, 0.456, 0.406), None, "by 255: mean 123.675,116.28,103.53."),
        (None, (0.229, 0.224, 0.225), "by 255: std 58.395,57.12,57.375."),
    ],
)
def test_values_for_pixels_from_0_to_1_are_refused_with_a_remedy(network, mean, std, says):
    with pytest.raises(ValueError, match=r"expected values for pixels from 0 to 255, got .*0 to 1.*by 255") as error:
        open_encoder(network, mean=mean, std=std)
    assert says in str(error.value)


def test_pixels_can_be_passed_unscaled(network):
    for mean, std in ((0, 1), ((103.939, 116.779, 123.68), 1), (127.5, 127.5), (0, 255)):
        assert open_encoder(network, mean=mean, std=std).preprocessing.std == (std,) * 3


def test_broken_files_are_reported_and_skipped(network, pictures, tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(pictures[0].read_bytes()[:-30])
    Image.new("1", (200, 200)).save(tmp_path / "bomb.png")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    names = ["text.png", "cut.png", "bomb.png", "folder.png", "missing.png", "nul\0.png"]
    paths = [pictures[0], *(tmp_path / name for name in names), pictures[1]]
    encoded = open_encoder(network).encode(paths)
    assert encoded.kept == [0, 7]
    np.testing.assert_array_equal(encoded.features, open_encoder(network).encode(pictures[:2]).features)
    assert [i for i, _ in encoded.broken] == [1, 2, 3, 4, 5, 6]
    causes = dict(encoded.broken)
    for i, cause in enumerate(("not a picture", "", "exceed", "is a folder", "No such file", "null"), start=1):
        assert causes[i].startswith(f"{paths[i]}: ")
        assert cause in causes[i]
        assert "\n" not in causes[i]


def test_unreadable_files_are_reported(network, pictures, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)  # the tests may run as root, who may read all
    assert open_encoder(network).encode(pictures[:1]).broken == [(0, f"{pictures[0]}: Permission denied")]


def test_no_files_and_only_broken_files_give_no_rows(network, tmp_path):
    encoder = open_encoder(network, output="pooled", projection=Projection(np.zeros(5), np.eye(5, 3)))
    for paths in ([], [tmp_path / "missing.png"]):
        encoded = encoder.encode(paths)
        assert encoded.features.shape == (0, 3)
        assert encoded.kept == []
        assert len(encoded.broken) == len(paths)


def test_a_picture_with_non_finite_features_counts_as_broken(tmp_path, pictures):
    nodes = [
        onnx.helper.make_node("ReduceMean", ["pictures"], ["mean"], axes=[2, 3], keepdims=0),
        onnx.helper.make_node("Log", ["mean"], ["scores"]),
    ]
    path = save_network(tmp_path / "log.onnx", nodes, {})
    Image.new("RGB", (4, 4), "black").save(tmp_path / "black.png")
    encoded = open_encoder(path, mean=1, std=1).encode([tmp_path / "black.png", pictures[0]])
    assert encoded.kept == [1]
    assert "not finite" in encoded.broken[0][1]


def test_a_projection_changes_the_features_and_their_length(network, pictures):
    plain = open_encoder(network, output="pooled")
    features = plain.encode(pictures).features
    projection = fit_projection(features, 2)
    encoder = plain.with_projection(projection)
    assert (plain.dim, encoder.dim) == (5, 2)
    np.testing.assert_array_equal(encoder.encode(pictures).features, projection.apply(features))
    with pytest.raises(ValueError, match=r"projection: expected .* of length 2, as scores of .* got one of length 5"):
        open_encoder(network, projection=projection)


@pytest.mark.parametrize("projected", [False, True])
def test_a_saved_encoder_gives_the_same_features(network, pictures, tmp_path, projected):
    settings = {"mean": [1, 2, 3], "std": 4, "channels": "BGR", "fit": "pad", "background": "#123456"}
    encoder = open_encoder(network, output="pooled", **settings)
    wanted = encoder.encode(pictures).features
    if projected:
        encoder = encoder.with_projection(fit_projection(wanted, 3))
        wanted = encoder.encode(pictures).features
    encoder.save(tmp_path / "kept" / "here")
    loaded = PictureEncoder.load(tmp_path / "kept" / "here")
    np.testing.assert_array_equal(loaded.encode(pictures).features, wanted)
    assert loaded.preprocessing == encoder.preprocessing
    stored = json.loads((tmp_path / "kept" / "here" / "encoder.json").read_text())
    assert stored["network"] == str(network)
    assert stored["sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()


def test_a_network_that_moved_is_found_beside_the_encoder(network, pictures, tmp_path):
    encoder = open_encoder(network)
    encoder.save(tmp_path / "kept")
    wanted = encoder.encode(pictures).features
    network.rename(tmp_path / "kept" / "tiny.onnx")
    np.testing.assert_array_equal(PictureEncoder.load(tmp_path / "kept").encode(pictures).features, wanted)
    (tmp_path / "kept" / "tiny.onnx").unlink()
    with pytest.raises(
        CheckpointError, match=r"tiny\.onnx: expected the network .* got no such file\. Restore it, or copy it to"
    ):
        PictureEncoder.load(tmp_path / "kept")


def test_another_network_in_the_same_place_is_refused(network, tmp_path):
    open_encoder(network).save(tmp_path / "kept")
    model = onnx.load(network)
    model.graph.name = "another"
    onnx.save(model, network)
    with pytest.raises(CheckpointError, match=r"expected SHA-256 .* Restore that file"):
        PictureEncoder.load(tmp_path / "kept")


def test_weights_beside_the_network_count_as_part_of_it(network, tmp_path):
    onnx.save(onnx.load(network), network, save_as_external_data=True, location="weights.bin", size_threshold=0)
    encoder = open_encoder(network, output="pooled")
    encoder.save(tmp_path / "kept")
    assert PictureEncoder.load(tmp_path / "kept").sha256 == encoder.sha256
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    with pytest.raises(CheckpointError, match=r"expected SHA-256 .* Restore that file"):
        PictureEncoder.load(tmp_path / "kept")


def test_a_damaged_description_is_refused(network, tmp_path):
    with pytest.raises(CheckpointError, match=r"encoder\.json: expected .* got no such file"):
        PictureEncoder.load(tmp_path)
    open_encoder(network, output="pooled", projection=Projection(np.zeros(5), np.eye(5))).save(tmp_path)
    file = tmp_path / "encoder.json"
    checked = json.loads(file.read_text())
    whole = {key: value for key, value in checked.items() if key != "crc32"}  # as an earlier version has written it
    broken = [{**checked, "framing": {**whole["framing"], "mean": [1, 2, 3]}}]  # valid, but not what was written
    broken += [
        {key: value for key, value in whole.items() if key != left_out} for left_out in whole if left_out != "format"
    ]
    broken += [
        {**whole, "format": "capgpu-encoder-9"},
        {**whole, "framing": {**whole["framing"], "size": "big"}},
        {**whole, "framing": {**whole["framing"], "colour": 1}},
        {**whole, "framing": None},
        [],
    ]
    for content in ["", "{", *map(json.dumps, broken)]:
        file.write_text(content)
        with pytest.raises(CheckpointError, match=r"encoder\.json is damaged"):
            PictureEncoder.load(tmp_path)
    file.write_text(json.dumps(whole))
    (tmp_path / "encoder.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors"):
        PictureEncoder.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": "much"}, "mean: expected one number or three, got 'much'"),
        ({"std": [1, 2]}, r"std: expected one number or three, got \[1, 2\]"),
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"size": 9}, "rejects a picture"),
        ({"fit": "squeeze"}, "fit: expected one of stretch"),
    ],
)
def test_invalid_settings_are_refused(network, settings, message):
    with pytest.raises(ValueError, match=message):
        open_encoder(network, **settings)


def test_a_network_of_variable_input_size_requires_a_size(tmp_path):
    path = tiny_network(tmp_path / "open.onnx", shape=("N", 3, "H", "W"))
    with pytest.raises(ValueError, match=r"size: expected a number of pixels, which .* does not define"):
        open_encoder(path)
    assert open_encoder(path, size=6).preprocessing.size == 6


def test_the_number_of_threads_is_checked(network, monkeypatch):
    encoder = open_encoder(network)
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        encoder.encode([], threads=0)
    monkeypatch.setenv("CAPGPU_THREADS", "many")
    with pytest.raises(ValueError, match=r"CAPGPU_THREADS: expected .* got 'many'"):
        encoder.encode([])
