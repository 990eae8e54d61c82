"""The projection is a scaled PCA, the same for all ways to come by the features."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.vision import Projection, fit_projection
from capgpu.vision import projection as module


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(60, 8)) @ rng.normal(size=(8, 12)) + 3).astype(np.float32)


def test_components_are_principal_axes_over_the_root_of_their_deviation(features):
    mean, components = fit_projection(features, 5)
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, singular_values, axes = np.linalg.svd(centred, full_matrices=False)
    deviation = singular_values[:5] / np.sqrt(60)
    expected = axes[:5].T / np.sqrt(deviation) / np.sqrt(deviation.mean())
    expected *= np.sign((expected * components).sum(axis=0))
    np.testing.assert_allclose(components, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-6)
    # the largest entry of an axis is positive
    assert (components[np.abs(components).argmax(axis=0), np.arange(5)] > 0).all()
    projected = Projection(mean, components).apply(features)
    assert projected.dtype == np.float32
    np.testing.assert_allclose((projected**2).mean(), 1, rtol=1e-4)


def test_the_fit_does_not_depend_on_the_chunks(features, monkeypatch):
    whole = fit_projection(features, 4)
    monkeypatch.setattr(module, "_CHUNK", 7)
    parts = fit_projection(features, 4)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(parts.components, whole.components, rtol=1e-4, atol=1e-6)


def test_features_mapped_from_a_file_are_accepted(features, tmp_path):
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    projection = fit_projection(mapped, 3)
    np.testing.assert_array_equal(projection.components, fit_projection(features, 3).components)
    np.testing.assert_array_equal(projection.apply(mapped), projection.apply(features))


def test_the_projection_of_a_row_does_not_depend_on_the_other_rows(features):
    projection = fit_projection(features, 8)
    together = projection.apply(features)
    for i in range(0, 60, 7):
        np.testing.assert_array_equal(projection.apply(features[i : i + 1])[0], together[i])


def test_more_components_than_directions_are_refused(features):
    assert fit_projection(features, 8).components.shape == (12, 8)
    with pytest.raises(ValueError, match=r"dim: expected at most 8, .* got 9"):
        fit_projection(features, 9)
    with pytest.raises(ValueError, match=r"dim: expected at most 0, .* got 1"):
        fit_projection(np.ones((5, 3), np.float32), 1)


@pytest.mark.parametrize("scale", [1e-3, 0.5, 1.0, 2.0, 1e3])
def test_a_single_dominant_direction_can_be_kept_and_no_second_one(scale):
    rng = np.random.default_rng(4)
    direction = np.array([0.0, 0.6, 0.0, 0.8])
    # the other directions vary by rounding errors only
    features = scale * (rng.normal(size=(50, 1)) * direction + 1e-9 * rng.normal(size=(50, 4)))
    mean, components = fit_projection(features, 1)
    assert components.shape == (4, 1)
    np.testing.assert_allclose(components[:, 0] / np.linalg.norm(components), direction, atol=1e-5)
    np.testing.assert_allclose((Projection(mean, components).apply(features) ** 2).mean(), 1, rtol=1e-3)
    with pytest.raises(ValueError, match=r"dim: expected at most 1, .* got 2"):
        fit_projection(features, 2)


@pytest.mark.parametrize("features", [[[1.0, 0.0], [-1.0, 0.0]], [[1.0], [-1.0]]])
def test_features_that_vary_in_exactly_one_direction_have_one_component(features):
    assert fit_projection(np.array(features), 1).components.shape == (len(features[0]), 1)
    with pytest.raises(ValueError, match=r"dim: expected at most 1, .* got 2"):
        fit_projection(np.array(features), 2)


@pytest.mark.parametrize(("ratio", "n_directions"), [(1.01e-5, 2), (0.99e-5, 1)])
def test_directions_above_a_hundred_thousandth_of_the_largest_count(ratio, n_directions):
    # orthogonal directions of deviations 1 and `ratio`
    features = np.array([[1, ratio], [1, -ratio], [-1, ratio], [-1, -ratio]])
    assert fit_projection(features, n_directions).components.shape == (2, n_directions)
    with pytest.raises(ValueError, match=f"dim: expected at most {n_directions}"):
        fit_projection(features, n_directions + 1)


@pytest.mark.parametrize(
    ("shape", "dim", "message"),
    [((1, 3), 1, "at least 2 rows"), ((3,), 1, "at least 2 rows"), ((3, 3), 0, "dim: expected at least 1, got 0")],
)
def test_features_that_cannot_be_fitted_are_refused(shape, dim, message):
    with pytest.raises(ValueError, match=message):
        fit_projection(np.zeros(shape), dim)


def test_features_that_are_not_finite_or_of_another_length_are_refused(features):
    with pytest.raises(ValueError, match=r"\(N, 12\)"):
        fit_projection(features, 2).apply(features[:, :5])
    features[3, 4] = np.nan
    with pytest.raises(ValueError, match="expected finite values, got NaN"):
        fit_projection(features, 2)
