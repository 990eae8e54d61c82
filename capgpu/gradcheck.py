"""Numeric gradients: central differences to hold hand-written backward passes against.

Every entry costs two evaluations of the function, one after the other: these are tools for small arrays in
float64. On a GPU each entry is also a transfer; check there what cannot be checked on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from random import randrange
from typing import Any, TypeAlias

import numpy as np

from capgpu.backend import Array, array_namespace, to_numpy
from capgpu.dtypes import is_floating
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.visible_text import short

__all__ = [
    "check_model",
    "eval_numerical_gradient",
    "eval_numerical_gradient_array",
    "eval_numerical_gradient_blobs",
    "eval_numerical_gradient_net",
    "grad_check_sparse",
    "rel_error",
    "relative_error_norm",
]


Index: TypeAlias = tuple[int, ...]


def _check_point(x: Array) -> Any:
    xp = array_namespace(x=x)
    if not is_floating(x.dtype, xp):
        raise InvalidTypeError(f"x: expected a floating-point dtype, best float64, got {x.dtype}.")
    return xp


def _differences(
    f: Callable[[Array], Any], x: Array, h: float, indices: Iterable[Index] | None = None
) -> Iterator[tuple[Index, Any, Any]]:
    """Yield (index, f(x + h), f(x - h)) for entries of x (all of them), perturbed in place and put back."""
    if not (math.isfinite(h) and h > 0):
        raise InvalidValueError(f"h: expected a positive finite step such as 1e-5, got {short(h)}.")
    for index in product(*map(range, x.shape)) if indices is None else indices:
        original = float(x[index])
        try:
            x[index] = original + h
            f_plus = _kept(f(x))
            x[index] = original - h
            f_minus = _kept(f(x))
        finally:
            x[index] = original
        yield index, f_plus, f_minus


def _kept(value: Any) -> Any:
    """Copy a result: f may return x itself, or a view of something its next call overwrites."""
    if getattr(value, "shape", ()):
        return array_namespace(value).asarray(value, copy=True)
    return float(value)


def eval_numerical_gradient(f: Callable[[Array], Any], x: Array, verbose: bool = False, h: float = 1e-5) -> Array:
    """Estimate the gradient of a scalar function by central differences.

    Parameters
    ----------
    f : callable
        Takes `x` and returns one number. It may also read `x` from its surroundings: `x` itself is perturbed.
    x : array, any shape, floating
        The point. Written into while this runs, and as before afterwards, also where `f` raises.
    verbose : bool
        Print each entry of the gradient as it is found.
    h : float
        Step of the difference.

    Returns
    -------
    array, shape and dtype of `x`
        ``(f(x + h) - f(x - h)) / (2 h)`` for each entry.

    Raises
    ------
    TypeError
        If `x` is no floating array.
    ValueError
        For a step that is not positive and finite.
    """
    xp = _check_point(x)
    gradient = np.zeros(tuple(x.shape))
    for index, f_plus, f_minus in _differences(f, x, h):
        gradient[index] = (f_plus - f_minus) / (2.0 * h)
        if verbose:
            print(index, gradient[index])
    return xp.asarray(gradient, dtype=x.dtype, device=x.device)


def eval_numerical_gradient_array(f: Callable[[Array], Array], x: Array, df: Array, h: float = 1e-5) -> Array:
    """Estimate the gradient of ``sum(f(x) * df)`` by central differences: a numeric backward pass.

    Parameters
    ----------
    f : callable
        Takes `x` and returns an array. It may also read `x` from its surroundings: `x` itself is perturbed.
    x : array, any shape, floating
        The point. Written into while this runs, and as before afterwards, also where `f` raises.
    df : array, shape of ``f(x)``
        The gradient that arrives from above.
    h : float
        Step of the difference.

    Returns
    -------
    array, shape and dtype of `x`
        The gradient that goes on below.

    Raises
    ------
    TypeError
        If `x` is no floating array.
    ValueError
        For a step that is not positive and finite.
    """
    xp = _check_point(x)
    gradient = np.zeros(tuple(x.shape))
    for index, f_plus, f_minus in _differences(f, x, h):
        gradient[index] = float(xp.sum(xp.asarray((f_plus - f_minus) * df))) / (2.0 * h)
    return xp.asarray(gradient, dtype=x.dtype, device=x.device)


def eval_numerical_gradient_blobs(
    f: Callable[..., Any], inputs: Sequence[Any], output: Any, h: float = 1e-5
) -> list[Array]:
    """Estimate the gradients with respect to several inputs of a function that writes its result into an object.

    Parameters
    ----------
    f : callable
        Called as ``f(*inputs, output)``; writes ``output.vals``.
    inputs : sequence of objects
        Each with an array ``vals``, which is perturbed in place and restored.
    output : object
        With arrays ``vals`` and ``diffs``, the gradient with respect to the result.
    h : float
        Step of the difference.

    Returns
    -------
    list of array
        For each input the gradient of ``sum(output.vals * output.diffs)``, in the shape and dtype of its ``vals``.
    """

    def result(_: Array) -> Array:
        f(*inputs, output)
        return output.vals

    return [eval_numerical_gradient_array(result, blob.vals, output.diffs, h) for blob in inputs]


def eval_numerical_gradient_net(net: Any, inputs: Sequence[Any], output: Any, h: float = 1e-5) -> list[Array]:
    """Estimate the gradients of a network with respect to its inputs; see `eval_numerical_gradient_blobs`.

    Parameters
    ----------
    net : object
        ``net.forward()`` reads `inputs` and writes `output`.
    inputs, output, h
        As for `eval_numerical_gradient_blobs`.

    Returns
    -------
    list of array
        As from `eval_numerical_gradient_blobs`.
    """
    return eval_numerical_gradient_blobs(lambda *_: net.forward(), inputs, output, h)


def grad_check_sparse(
    f: Callable[[Array], Any], x: Array, analytic_grad: Array, num_checks: int = 10, h: float = 1e-5
) -> None:
    """Compare random entries of a gradient with central differences, and print each comparison.

    Parameters
    ----------
    f : callable
        Takes `x` and returns one number.
    x : array, any shape, floating
        The point; perturbed in place and restored.
    analytic_grad : array, shape of `x`
        The gradient to check.
    num_checks : int
        Number of entries, drawn by Python's `random`, as in the course.
    h : float
        Step of the difference.
    """
    _check_point(x)
    indices = [tuple(randrange(extent) for extent in x.shape) for _ in range(num_checks)]
    for index, f_plus, f_minus in _differences(f, x, h, indices):
        numeric, analytic = (f_plus - f_minus) / (2.0 * h), float(analytic_grad[index])
        scale = abs(numeric) + abs(analytic)
        error = abs(numeric - analytic) / scale if scale else 0.0
        print(f"numerical: {numeric:f} analytic: {analytic:f}, relative error: {error:e}")


def _on_host(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(to_numpy(value) if hasattr(value, "shape") else value, dtype=np.float64)


def rel_error(x: Any, y: Any) -> float:
    """Compare entry by entry: the largest ``|x - y| / max(1e-8, |x| + |y|)``.

    Parameters
    ----------
    x, y : array or float
        On any device.

    Returns
    -------
    float
        The course's relative error. Entries near zero weigh as much as large ones; see `relative_error_norm`.
    """
    a, b = _on_host(x), _on_host(y)
    return float(np.max(np.abs(a - b) / np.maximum(1e-8, np.abs(a) + np.abs(b))))


def relative_error_norm(x: Any, y: Any) -> float:
    """Compare as a whole: ``||x - y|| / max(||x||, ||y||)`` in the Euclidean norm.

    Parameters
    ----------
    x, y : array or float
        Of one shape, on any device.

    Returns
    -------
    float
        0 where both are zero throughout.

    Raises
    ------
    ValueError
        For shapes that differ: broadcasting would hide a wrong one.
    """
    a, b = _on_host(x), _on_host(y)
    if a.shape != b.shape:
        raise InvalidValueError(f"y: expected shape {a.shape}, as x, got {b.shape}.")
    larger = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)))
    return float(np.linalg.norm(a - b)) / larger if larger else 0.0


def check_model(
    model: Any,
    features: Array,
    captions: Array,
    *,
    parameters: Sequence[str] | None = None,
    samples: int = 20,
    h: float = 1e-5,
    seed: int = 0,
    dropout_key: int | None = None,
) -> dict[str, float]:
    """Compare a model's gradients with numeric ones, on a sample of each parameter's entries.

    Parameters
    ----------
    model : CaptioningRNN
        Or any object with ``params`` and ``loss(features, captions) -> (loss, grads)``, in float64. Its
        parameters are written into while this runs, and as before afterwards.
    features : array, shape (N, D)
        Image features.
    captions : array of int, shape (N, T)
        Captions.
    parameters : sequence of str, optional
        The parameters to check; by default all.
    samples : int
        Entries to check of each: half of them those with the largest gradients, half at random (which finds
        gradients that are wrongly zero). Smaller parameters are checked throughout.
    h : float
        Step of the difference.
    seed : int
        Seed of the random half.
    dropout_key : int, optional
        Checks the gradients under this one dropout mask.

    Returns
    -------
    dict of str to float
        For each parameter the `relative_error_norm` of the sampled gradient against the numeric one.

    Raises
    ------
    TypeError
        For parameters that are not float64: in float32 the rounding of the loss drowns the difference.
    ValueError
        For an unknown parameter or `samples` below 1.
    """
    if samples < 1:
        raise InvalidValueError(f"samples: expected at least 1, got {samples}.")
    names = list(model.params) if parameters is None else list(parameters)
    for name in names:
        if name not in model.params:
            raise InvalidValueError(f"parameters: expected names among {', '.join(model.params)}, got {name!r}.")
        dtype = model.params[name].dtype
        if dtype != array_namespace(model.params[name]).float64:
            raise InvalidTypeError(
                f"params[{name!r}]: expected dtype float64 for a numeric gradient, got {dtype}. Make the model with "
                "dtype=numpy.float64."
            )
    extra = {} if dropout_key is None else {"dropout_key": dropout_key}

    def loss(_: Array) -> Any:
        return model.loss(features, captions, **extra)[0]

    _, grads = model.loss(features, captions, **extra)
    errors: dict[str, float] = {}
    for name in names:
        gradient = to_numpy(grads[name])
        entries = _sample_entries(gradient, samples, np.random.default_rng(seed))
        pairs = [
            (gradient[index], (f_plus - f_minus) / (2.0 * h))
            for index, f_plus, f_minus in _differences(loss, model.params[name], h, entries)
        ]
        errors[name] = relative_error_norm(*np.array(pairs).T)
    return errors


def _sample_entries(gradient: np.ndarray[Any, Any], samples: int, rng: np.random.Generator) -> list[Index]:
    size = gradient.size
    if size <= samples:
        flat = np.arange(size)
    else:
        by_size = np.argsort(-np.abs(gradient), axis=None, kind="stable")
        largest = by_size[: (samples + 1) // 2]
        remaining = rng.choice(by_size[len(largest) :], size=samples - len(largest), replace=False)
        flat = np.concatenate([largest, remaining])
    return [tuple(int(i) for i in np.unravel_index(position, gradient.shape)) for position in flat]
