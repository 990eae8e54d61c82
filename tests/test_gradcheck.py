"""Numeric gradients: correct for known derivatives, an error for wrong ones, and arguments left unchanged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import BackendCase

from capgpu.gradcheck import (
    check_model,
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    eval_numerical_gradient_blobs,
    eval_numerical_gradient_net,
    grad_check_sparse,
    rel_error,
    relative_error_norm,
)
from capgpu.model import CaptioningRNN
from oracles.snapshots import frozen

WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, "cat": 3, "dog": 4}
CAPTIONS = np.array([[1, 3, 4, 2, 0], [1, 4, 2, 0, 0], [1, 3, 0, 3, 2]])


def test_the_gradient_of_a_scalar_function(backend: BackendCase, random: np.random.Generator) -> None:
    x = random.standard_normal((3, 2))
    moved = backend.asarray(x)
    actual = eval_numerical_gradient(lambda point: (point**3).sum() if hasattr(point, "sum") else total(point), moved)
    assert type(actual) is type(moved)
    assert relative_error_norm(actual, 3 * x**2) < 1e-8
    assert frozen(moved) == frozen(x)


def total(point: Any) -> Any:
    import array_api_strict

    return array_api_strict.sum(point**3)


def test_the_gradient_through_an_array_function(backend: BackendCase, random: np.random.Generator) -> None:
    x, matrix, df = (
        random.standard_normal((3, 2)),
        random.standard_normal((2, 4)),
        random.standard_normal((3, 4)),
    )
    moved, moved_matrix = backend.asarray(x), backend.asarray(matrix)
    actual = eval_numerical_gradient_array(lambda point: point @ moved_matrix, moved, backend.asarray(df))
    assert relative_error_norm(actual, df @ matrix.T) < 1e-9
    assert frozen(moved) == frozen(x)


def test_gradients_of_objects_with_values_and_differences(random: np.random.Generator) -> None:
    a, b, out = (SimpleNamespace(vals=random.standard_normal((2, 3)), diffs=np.zeros((2, 3))) for _ in range(3))
    out.diffs = random.standard_normal((2, 3))
    before = frozen([a.vals, b.vals])

    def multiply(first: Any, second: Any, result: Any) -> None:
        result.vals = first.vals * second.vals**2

    net = SimpleNamespace(forward=lambda: multiply(a, b, out))
    for actual in (
        eval_numerical_gradient_blobs(multiply, (a, b), out),
        eval_numerical_gradient_net(net, (a, b), out),
    ):
        assert relative_error_norm(actual[0], out.diffs * b.vals**2) < 1e-8
        assert relative_error_norm(actual[1], out.diffs * a.vals * 2 * b.vals) < 1e-8
    assert frozen([a.vals, b.vals]) == before


def test_random_entries_are_compared_and_printed(
    capsys: pytest.CaptureFixture[str], random: np.random.Generator
) -> None:
    x = random.standard_normal((3, 4))
    grad_check_sparse(lambda point: (point**2).sum(), x, 2 * x, num_checks=5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(float(line.rsplit(" ", 1)[1]) < 1e-6 for line in lines)
    grad_check_sparse(lambda point: (point**2).sum(), x, 3 * x, num_checks=1)
    assert float(capsys.readouterr().out.rsplit(" ", 1)[1]) == pytest.approx(0.2)


def test_a_function_may_read_the_point_from_its_surroundings_and_return_it() -> None:
    x = np.array([1.0, 2.0])
    np.testing.assert_allclose(eval_numerical_gradient(lambda _: float(x[0] * x[1]), x), [2, 1], rtol=1e-9)
    np.testing.assert_allclose(eval_numerical_gradient_array(lambda _: x, x, np.array([3.0, 5.0])), [3, 5], rtol=1e-9)


def test_the_point_is_restored_after_a_failure() -> None:
    x = np.array([1.0, 2.0])
    calls: list[float] = []

    def fails_late(point: Any) -> float:
        calls.append(1.0)
        if len(calls) == 4:
            raise RuntimeError("broken")
        return float(point.sum())

    with pytest.raises(RuntimeError, match="broken"):
        eval_numerical_gradient(fails_late, x)
    np.testing.assert_array_equal(x, [1.0, 2.0])


def test_each_entry_is_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    eval_numerical_gradient(lambda x: float(2 * x.sum()), np.zeros((1, 2)), verbose=True)
    assert [line.split(")")[0] for line in capsys.readouterr().out.splitlines()] == ["(0, 0", "(0, 1"]


def test_an_integer_point_and_a_step_of_zero_are_refused() -> None:
    with pytest.raises(TypeError, match="int64"):
        eval_numerical_gradient(lambda x: 0.0, np.ones(2, dtype=np.int64))
    with pytest.raises(ValueError, match=r"h: expected a positive finite step .* got 0"):
        eval_numerical_gradient(lambda x: 0.0, np.ones(2), h=0.0)


def test_relative_errors_by_entry_and_by_norm() -> None:
    x, y = np.array([1.0, 1e-3]), np.array([1.0, 2e-3])
    assert rel_error(x, y) == pytest.approx(1 / 3)
    assert relative_error_norm(x, y) == pytest.approx(1e-3, rel=1e-5)
    assert rel_error(np.zeros(3), np.zeros(3)) == relative_error_norm(np.zeros(3), np.zeros(3)) == 0
    with pytest.raises(ValueError, match=r"y: expected shape \(3,\), as x, got \(1,\)"):
        relative_error_norm(np.zeros(3), np.zeros(1))


def model() -> CaptioningRNN:
    return CaptioningRNN(WORDS, 6, 5, 4, dtype=np.float64, seed=3)


@pytest.mark.nightly(unless=lambda p: p.backend != "cuda" or (p.cell_type, p.dropout) == ("rnn", 0.4))
@pytest.mark.parametrize("cell_type", ["rnn", "lstm"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_models_gradients_agree_with_differences(
    backend: BackendCase, cell_type: str, dropout: float, random: np.random.Generator
) -> None:
    captioner = backend.model(
        WORDS, 6, 5, 4, cell_type, np.float64, seed=3, feature_dropout=dropout, output_dropout=dropout
    )
    before = frozen(captioner.params)
    features = backend.asarray(random.standard_normal((3, 6)))
    errors = check_model(captioner, features, CAPTIONS, dropout_key=7 if dropout else None)
    assert errors.keys() == captioner.params.keys()
    assert max(errors.values()) < 1e-6
    assert frozen(captioner.params) == before


class Wrong:
    """A model with one gradient spoiled."""

    def __init__(self, spoil: Any) -> None:
        self._model, self._spoil = model(), spoil
        self.params = self._model.params

    def loss(self, features: Any, captions: Any) -> Any:
        loss, grads = self._model.loss(features, captions)
        grads["Wx"] = self._spoil(grads["Wx"])
        return loss, grads


@pytest.mark.parametrize(
    "spoil", [lambda g: 1.001 * g, lambda g: g[:, ::-1], np.zeros_like, lambda g: g + (g == g.max())]
)
def test_a_wrong_gradient_is_found_and_named(spoil: Any, random: np.random.Generator) -> None:
    errors = check_model(Wrong(spoil), random.standard_normal((3, 6)), CAPTIONS)
    assert errors.pop("Wx") > 1e-4
    assert max(errors.values()) < 1e-6


def test_single_precision_unknown_parameters_and_no_samples_are_refused(random: np.random.Generator) -> None:
    features = random.standard_normal((3, 6))
    with pytest.raises(TypeError, match=r"expected dtype float64 for a numeric gradient, got float32"):
        check_model(CaptioningRNN(WORDS, 6, 5, 4), features, CAPTIONS)
    with pytest.raises(ValueError, match=r"parameters: expected names among W_embed, .*, got 'Wz'"):
        check_model(model(), features, CAPTIONS, parameters=["Wz"])
    with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
        check_model(model(), features, CAPTIONS, samples=0)


def test_only_the_parameters_asked_for_are_checked(random: np.random.Generator) -> None:
    errors = check_model(model(), random.standard_normal((3, 6)), CAPTIONS, parameters=["b"], samples=3)
    assert list(errors) == ["b"]
