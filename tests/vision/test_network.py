"""A network from an ONNX file gives any of its values, and says what is wrong with it."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.vision.network import Network
from oracles.networks import save_network, tiny_network

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

PIXELS = np.random.default_rng(1).normal(size=(3, 4, 4)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return tiny_network(tmp_path / "tiny.onnx")


def constants(path):
    return {value.name: onnx.numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}


def test_inner_values_of_a_network_can_be_outputs(path):
    stored = constants(path)
    maps = np.einsum("chw,oc->ohw", PIXELS, stored["kernel"][:, :, 0, 0])
    pooled = maps.mean(axis=(1, 2))
    for output, wanted in (
        (None, pooled @ stored["matrix"]),
        ("scores", pooled @ stored["matrix"]),
        ("pooled", pooled),
        ("maps", pooled),
    ):
        network = Network(path, output)
        assert network.output == (output or "scores")
        assert network.size == 4
        vector = network(PIXELS)
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grid", [4, 3, 1])
def test_grids_are_averaged_over_equal_parts_of_the_picture(path, grid):
    maps = np.einsum("chw,oc->ohw", PIXELS, constants(path)["kernel"][:, :, 0, 0])
    cells = Network(path, "maps", grid)(PIXELS)
    assert cells.shape == (grid * grid, 5)
    # each pixel as grid x grid equal ones: every cell then consists of whole pixels
    fine = maps.repeat(grid, axis=1).repeat(grid, axis=2).reshape(5, grid, 4, grid, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(cells, fine.reshape(5, -1).T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(cells.mean(axis=0), Network(path, "maps")(PIXELS), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("output", "cells"), [("maps", "4x4"), ("pooled", "none")])
def test_a_grid_finer_than_the_output_is_refused(path, output, cells):
    with pytest.raises(ValueError, match=f"grid: expected at most the cells of {output} of tiny.onnx, {cells}, got 5x"):
        Network(path, output, 5)(PIXELS)


def test_nodes_after_the_requested_value_are_not_computed(tmp_path):
    # the node behind it could not run: its matrix has another size
    nodes = [
        onnx.helper.make_node("ReduceMean", ["pictures"], ["pooled"], axes=[2, 3], keepdims=0),
        onnx.helper.make_node("Reshape", ["pooled", "shape"], ["scores"]),
    ]
    path = save_network(tmp_path / "cut.onnx", nodes, {"shape": np.array([7, 7])})
    with pytest.raises(ValueError, match=r"cut\.onnx: the network rejects"):
        Network(path)(PIXELS)
    np.testing.assert_allclose(Network(path, "pooled")(PIXELS), PIXELS.mean(axis=(1, 2)), rtol=1e-5)


def test_values_that_the_body_of_a_branch_reads_are_kept(tmp_path):
    helper = onnx.helper
    kind = onnx.TensorProto.FLOAT
    bodies = [
        helper.make_graph(
            [helper.make_node("Add", ["doubled", "doubled"], [f"out_{name}"])],
            name,
            [],
            [helper.make_tensor_value_info(f"out_{name}", kind, None)],
        )
        for name in ("yes", "no")
    ]
    nodes = [
        helper.make_node("ReduceMean", ["pictures"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("Add", ["pooled", "pooled"], ["doubled"]),
        helper.make_node("If", ["chosen"], ["inside"], then_branch=bodies[0], else_branch=bodies[1]),
        helper.make_node("Neg", ["inside"], ["scores"]),
    ]
    path = save_network(tmp_path / "branch.onnx", nodes, {"chosen": np.array(True)})
    np.testing.assert_allclose(Network(path, "inside")(PIXELS), 4 * PIXELS.mean(axis=(1, 2)), rtol=1e-5)


def test_networks_in_half_precision_get_float16_input(tmp_path):
    path = tiny_network(tmp_path / "tiny.onnx", dtype=np.float16)
    single = tiny_network(tmp_path / "single.onnx")
    vector = Network(path)(PIXELS)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, Network(single)(PIXELS), rtol=2e-2, atol=1e-2)


def test_channels_may_come_last(tmp_path):
    nodes = [onnx.helper.make_node("ReduceMean", ["pictures"], ["scores"], axes=[1, 2], keepdims=0)]
    path = save_network(tmp_path / "last.onnx", nodes, {}, shape=("N", 4, 4, 3))
    np.testing.assert_allclose(Network(path)(PIXELS), PIXELS.mean(axis=(1, 2)), rtol=1e-5)


def test_a_symbolic_size_accepts_any_size(tmp_path):
    network = Network(tiny_network(tmp_path / "open.onnx", shape=("N", 3, "H", "W")))
    assert network.size is None
    assert network(np.zeros((3, 9, 9), np.float32)).shape == (2,)


def test_files_that_are_not_networks_are_refused(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=r"missing\.onnx: expected .* got no such file"):
        Network(tmp_path / "missing.onnx")
    for content in (b"", b"no network", path.read_bytes()[:100]):
        (tmp_path / "broken.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.onnx cannot be run"):
            Network(tmp_path / "broken.onnx")


def test_an_unknown_value_is_refused_with_the_known_ones(path):
    with pytest.raises(ValueError, match=r"output: expected .* such as maps, pooled, scores, got 'fc7'"):
        Network(path, "fc7")


@pytest.mark.parametrize("shape", [("N", 4, 4, 4), ("N", 3, 4, 5), ("N", 3, 4), ("N", 48)])
def test_inputs_other_than_square_pictures_are_refused(tmp_path, shape):
    nodes = [onnx.helper.make_node("Identity", ["pictures"], ["scores"])]
    path = save_network(tmp_path / "other.onnx", nodes, {}, shape=shape)
    with pytest.raises(ValueError, match=r"expected one input .* got pictures"):
        Network(path)


def test_outputs_other_than_a_vector_are_refused(tmp_path):
    nodes = [
        onnx.helper.make_node("Reshape", ["pictures", "shape"], ["tokens"]),
        onnx.helper.make_node("Shape", ["pictures"], ["sizes"]),
    ]
    path = save_network(tmp_path / "tokens.onnx", nodes, {"shape": np.array([0, 3, 16])}, outputs=["tokens"])
    for output, found in (("tokens", r"shape \(1, 3, 16\)"), ("sizes", "dtype int64")):
        with pytest.raises(ValueError, match=rf"{output}: expected .* got .*{found}.*Name another output"):
            Network(path, output)(PIXELS)


def test_a_picture_of_another_size_is_refused(path):
    with pytest.raises(ValueError, match=r"rejects a picture of shape \(1, 3, 8, 8\)"):
        Network(path)(np.zeros((3, 8, 8), np.float32))
