"""The parameters of a captioner: their shapes, their initial values, and the checks of those that users replace."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from capgpu.backend import Array, array_namespace, to_numpy
from capgpu.dtypes import dtype_name, is_floating
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.layers.recurrence import Cell
from capgpu.random import Generator
from capgpu.validation import check_finite
from capgpu.visible_text import hint, short

__all__ = [
    "MAX_LAYERS",
    "all_finite",
    "axes_remedy",
    "check_finite_parameters",
    "check_parameters",
    "checked_features",
    "checked_weights",
    "initial_parameters",
    "layer_names",
    "layer_parameters",
    "parameter_shapes",
    "vocabulary_weights",
]

Shapes = dict[str, tuple[int, ...]]
#: Largest number of layers; a file that names more is damaged.
MAX_LAYERS = 64
#: Largest length of a vector. The bytes of a matrix of two of them, for four gates, are still counted in 64 bits.
_LARGEST_SIZE = 2**28
#: Largest weight of a caption. A loss of a million nats times this is still finite in float32.
_LARGEST_WEIGHT = 1e30


def layer_names(layer: int) -> tuple[str, str, str]:
    """Return the names of a recurrent layer's parameters: Wx, Wh, b of the first (0), Wx2, Wh2, b2 of the next.

    Parameters
    ----------
    layer : int
        From 0, which reads the words.
    """
    suffix = str(layer + 1) if layer else ""
    return f"Wx{suffix}", f"Wh{suffix}", f"b{suffix}"


def layer_parameters(params: Mapping[str, Array]) -> list[tuple[Array, Array, Array]]:
    """Return Wx, Wh and b of each recurrent layer, the first one first."""
    names = itertools.takewhile(lambda layer: layer[0] in params, map(layer_names, itertools.count()))
    return [(params[Wx], params[Wh], params[b]) for Wx, Wh, b in names]


def vocabulary_weights(params: Mapping[str, Array]) -> Array:
    """Return W_vocab (H, V), a transposed view of W_embed where weights are tied."""
    if "W_vocab" in params:
        return params["W_vocab"]
    return params["W_embed"].T


def parameter_shapes(
    cell: Cell,
    vocabulary_size: int,
    input_dim: int,
    wordvec_dim: int,
    hidden_dim: int,
    tie_weights: bool,
    n_layers: int = 1,
) -> Shapes:
    """Return the shape of each parameter, in the order in which parameters are listed everywhere.

    Parameters
    ----------
    cell : Cell
        The recurrent cell.
    vocabulary_size, input_dim, wordvec_dim, hidden_dim : int
        V, D, W, H.
    tie_weights : bool
        Whether words are scored by their own vectors: no W_vocab then.
    n_layers : int
        Recurrent layers.

    Returns
    -------
    dict of str to tuple of int
        Shapes by name.

    Raises
    ------
    ValueError
        For lengths that are not integers in 1 to 2**28, a number of layers beyond 1 to 64 (1 with attention), or tied
        weights with W != H.
    """
    if not _is_integer(n_layers) or not 1 <= n_layers <= MAX_LAYERS:
        raise InvalidValueError(f"n_layers: expected an integer in 1..{MAX_LAYERS}, got {n_layers!r}.")
    if cell.attends and n_layers > 1:
        raise InvalidValueError(f"n_layers: expected 1 for a cell that attends to a grid, got {n_layers}.")
    for name, size in (("input_dim", input_dim), ("wordvec_dim", wordvec_dim), ("hidden_dim", hidden_dim)):
        if not _is_integer(size) or size < 1:
            raise InvalidValueError(f"{name}: expected an integer of at least 1, got {size!r}.")
        if size > _LARGEST_SIZE:
            raise InvalidValueError(f"{name}: expected at most {_LARGEST_SIZE:,}, got {short(size)}.")
    # shapes are written as JSON, which knows no integers but Python's
    input_dim, wordvec_dim, hidden_dim = int(input_dim), int(wordvec_dim), int(hidden_dim)
    if tie_weights and wordvec_dim != hidden_dim:
        raise InvalidValueError(
            f"wordvec_dim: expected {hidden_dim}, as hidden_dim, with tie_weights=True, which scores words by their "
            f"vectors, got {wordvec_dim}."
        )
    gates = cell.shape.n_gates * hidden_dim
    shapes: Shapes = {
        "W_embed": (vocabulary_size, wordvec_dim),
        "W_proj": (input_dim, hidden_dim),
        "b_proj": (hidden_dim,),
    }
    for layer in range(n_layers):
        Wx, Wh, b = layer_names(layer)
        shapes[Wx] = (hidden_dim if layer else wordvec_dim, gates)
        shapes[Wh] = (hidden_dim, gates)
        if cell.attends:
            shapes["Wattn"] = (hidden_dim, gates)
        shapes[b] = (cell.shape.n_biases * hidden_dim,)
    if not tie_weights:
        shapes["W_vocab"] = (hidden_dim, vocabulary_size)
    shapes["b_vocab"] = (vocabulary_size,)
    return shapes


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def initial_parameters(shapes: Shapes, dtype: Any, seed: int | None) -> dict[str, Array]:
    """Draw initial parameters, the same on every backend, as the cs231n exercise scales them.

    Parameters
    ----------
    shapes : dict
        From `parameter_shapes`.
    dtype : dtype
        Their dtype.
    seed : int or None
        Seed of the draw.

    Returns
    -------
    dict of str to array
        Normal values: of standard deviation 0.01 for W_embed, ``1 / sqrt(rows)`` for the other matrices; biases are 0.
    """
    random = Generator(seed)
    params: dict[str, Array] = {}
    for name, shape in shapes.items():
        scale = 0.01 if name == "W_embed" else 1 / math.sqrt(shape[0])
        params[name] = random.normal(shape, 0.0 if len(shape) == 1 else scale, dtype)
    return params


def check_parameters(params: Mapping[str, Array], shapes: Shapes, dtype: np.dtype[Any]) -> None:
    """Check that parameters, which users may replace, have one library, device and dtype, and the right shapes.

    Parameters
    ----------
    params : mapping of str to array
        The parameters.
    shapes : dict
        From `parameter_shapes`.
    dtype : numpy.dtype
        The model's dtype.

    Raises
    ------
    ValueError
        For a missing or an unknown entry, a wrong shape, or arrays on different devices.
    TypeError
        For another dtype, or arrays of different libraries.
    """
    if len(params) != len(shapes):
        _check_names(params, shapes)
    kind: type[Any] = type(params.get("Wh"))
    numpy_dtypes = kind.__module__ in ("numpy", "cupy")
    for name, shape in shapes.items():
        array: Any = params.get(name)
        if not numpy_dtypes or type(array) is not kind or array.shape != shape or array.dtype != dtype:
            break
        if array.device != params["Wh"].device:
            raise InvalidValueError(_other_device(f"params[{name!r}]", array, params["Wh"]))
    else:
        return
    _check_names(params, shapes)
    array_namespace(**{f"params[{name!r}]": params[name] for name in shapes})
    first = next(iter(shapes))
    for name, shape in shapes.items():
        array = params[name]
        if tuple(array.shape) != shape:
            raise InvalidValueError(f"params[{name!r}]: expected shape {shape}, got {tuple(array.shape)}.")
        if array.dtype != params[first].dtype or dtype_name(array.dtype) != dtype.name:
            raise InvalidTypeError(
                f"params[{name!r}]: expected dtype {dtype}, the model's, got {array.dtype}. Convert it: "
                f"params[{name!r}] = array.astype({dtype})."
            )


def _check_names(params: Mapping[str, Array], shapes: Shapes) -> None:
    for name, shape in shapes.items():
        if name not in params:
            raise InvalidValueError(f"params[{name!r}]: expected an array of shape {shape}, got no such entry.")
    for name in params:
        if name not in shapes:
            raise InvalidValueError(
                f"params[{name!r}]: expected the entries {', '.join(shapes)}, got another one.{hint(name, shapes)} "
                f"Remove it: del model.params[{name!r}]."
            )


def check_finite_parameters(params: Mapping[str, Array]) -> None:
    """Check that all parameters are finite; on a device this synchronizes.

    Parameters
    ----------
    params : mapping of str to array
        The parameters.

    Raises
    ------
    ValueError
        Naming the first that is not.
    """
    for name, array in params.items():
        if not all_finite(array):
            raise InvalidValueError(
                f"params[{name!r}]: expected finite values, got NaN or infinity: losses and words would be arbitrary. "
                "Load another file, or train a new model."
            )


def all_finite(array: Array) -> bool:
    """Return whether all elements are finite; on a device this synchronizes.

    Parameters
    ----------
    array : array
        A floating array.

    Returns
    -------
    bool
        Their sum is not finite unless they are: one pass and no temporary array.
    """
    xp = array_namespace(array)
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(xp.sum(array))
    return math.isfinite(total) or bool(xp.all(xp.isfinite(array)))


def checked_features(features: Array, params: Mapping[str, Array], attends: bool) -> Array:
    """Check the library, device, shape and dtype of image features, and convert them to the parameters' dtype.

    Parameters
    ----------
    features : array, shape (N, D), or (N, L, D)
        Image features.
    params : mapping of str to array
        Parameters that `check_parameters` accepts.
    attends : bool
        Whether a grid (N, L, D) is expected.

    Returns
    -------
    array, shape (N, D), or (N, L, D)
        The features; not copied where the dtype is right.

    Raises
    ------
    ValueError
        For another shape, or features on another device.
    TypeError
        For numbers that are not real, or arrays of different libraries.
    """
    W_proj = params["W_proj"]
    xp = array_namespace(features=features, params=params["W_embed"])
    if features.ndim != 2 + attends or features.shape[-1] != W_proj.shape[0] or 0 in features.shape:
        expected = f"(N, L, {W_proj.shape[0]}) with N, L >= 1" if attends else f"(N, {W_proj.shape[0]}) with N >= 1"
        raise InvalidValueError(
            f"features: expected shape {expected}, got {tuple(features.shape)}.{axes_remedy(features.ndim, attends)}"
        )
    if features.device != params["Wh"].device:
        raise InvalidValueError(_other_device("features", features, params["Wh"]))
    if features.dtype == W_proj.dtype:
        return features
    if not is_floating(features.dtype, xp) and not xp.isdtype(features.dtype, "integral"):
        raise InvalidTypeError(f"features: expected real numbers, got dtype {features.dtype}.")
    return xp.astype(features, W_proj.dtype)


def axes_remedy(ndim: int, attends: bool) -> str:
    """Return what to do about features of the wrong number of axes; nothing where that is right.

    Parameters
    ----------
    ndim : int
        Axes of the features.
    attends : bool
        Whether the model's cell attends to grids.

    Returns
    -------
    str
        A sentence with a space before it, or nothing.
    """
    if attends and ndim == 2:
        return (
            " The cell 'attention' reads a grid of vectors for each picture: prepare the pictures with "
            "`capgpu prepare --grid 7` (the embedded emoji have grids as the data set emoji-grid), or choose another "
            "cell."
        )
    if not attends and ndim == 3:
        return (
            " These are grids, which only the cell 'attention' reads: choose that, prepare the pictures without "
            "--grid, or pass the mean of their cells, features.mean(axis=1)."
        )
    return ""


def _other_device(name: str, array: Array, like: Array) -> str:
    return (
        f"{name}: expected an array on {like.device}, where params['Wh'] is, got one on {array.device}. Copy it there: "
        f"{name} = capgpu.asarray({name})."
    )


def checked_weights(weights: Array, count: int) -> Any:
    """Check the weights of captions, and return them on the host.

    Parameters
    ----------
    weights : array
        Should be numbers of shape (N,) and at most 1e30 in absolute value, wherever they are.
    count : int
        N.

    Returns
    -------
    numpy.ndarray of float64, shape (N,)
        The weights.

    Raises
    ------
    TypeError
        For what is not an array of real numbers.
    ValueError
        For another shape, a number that is not finite, or a larger one.
    """
    if not hasattr(weights, "dtype") or type(weights).__module__.split(".")[0] == "torch":
        raise InvalidTypeError(
            f"weights: expected an array of numbers, got a {type(weights).__name__}. numpy.asarray makes one."
        )
    host = to_numpy(weights)
    if host.dtype.kind not in "fiu":
        raise InvalidTypeError(f"weights: expected real numbers, got dtype {host.dtype}.")
    if host.shape != (count,):
        raise InvalidValueError(f"weights: expected shape ({count},), one for each caption, got {host.shape}.")
    check_finite("weights", host)
    host = host.astype("float64")
    largest = float(abs(host).max())
    if largest > _LARGEST_WEIGHT:
        raise InvalidValueError(
            f"weights: expected values of at most {_LARGEST_WEIGHT:g} in absolute value, got {largest:g}: the loss "
            "would be infinite. Divide all weights by the largest."
        )
    return host
