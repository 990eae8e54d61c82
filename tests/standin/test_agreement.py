"""Results are NumPy's, for every function of the list that can be called in one of a few usual ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators import cupy_standin
from simulators.cupy_standin import names

DTYPES = [np.float32, np.float64, np.int32, np.int64, np.bool_]
arrays = npst.arrays(
    dtype=st.sampled_from(DTYPES),
    shape=npst.array_shapes(min_dims=1, max_dims=3, max_side=4),
    elements={"min_value": -8, "max_value": 8},
)
Call = Callable[[Any, Any], Any]


@pytest.fixture(scope="module")
def device() -> Iterator[Any]:
    with cupy_standin.installed() as module:
        yield module


def assert_same(actual: Any, expected: Any, device: Any) -> None:
    if isinstance(expected, tuple | list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other, device)
    elif isinstance(expected, np.ndarray | np.generic | bool):
        assert type(actual) is device.ndarray
        assert actual.shape == np.shape(expected)
        assert actual.dtype == np.asarray(expected).dtype
        np.testing.assert_array_equal(actual.get(), expected)
    else:
        assert actual == expected


def assert_agreement(call: Callable[..., Any], device: Any, *hosts: np.ndarray) -> None:
    """Compare a call on both sides, the refusals of values, dtypes and shapes included."""
    device_arguments = [device.asarray(host_argument) for host_argument in hosts]
    numpy_arguments = [host_argument.copy() for host_argument in hosts]
    refusal: Exception | None = None
    try:
        with np.errstate(all="ignore"):
            numpys = call(np, *numpy_arguments)
    except (TypeError, ValueError) as error:
        refusal = error
    if refusal is not None:
        with pytest.raises((TypeError, ValueError)) as raised:
            call(device, *device_arguments)
        assert isinstance(refusal, type(raised.value))
        return
    assert_same(call(device, *device_arguments), numpys, device)
    for argument, host_argument in zip(device_arguments, numpy_arguments, strict=True):
        np.testing.assert_array_equal(argument.get(), host_argument)


UNARY = [name for name in names.UFUNCS if getattr(getattr(np, name, None), "nin", 0) == 1]
BINARY = [name for name in names.UFUNCS if getattr(getattr(np, name, None), "nin", 0) == 2]


@pytest.mark.parametrize("name", UNARY)
@given(x=arrays)
@settings(max_examples=15, deadline=None)
def test_elementwise_functions_of_one_array_agree(device, name, x):
    assert_agreement(lambda xp, a: getattr(xp, name)(a), device, x)


@pytest.mark.parametrize("name", BINARY)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_elementwise_functions_of_two_arrays_agree(device, name, data):
    shapes = data.draw(npst.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3)).input_shapes
    x, y = (
        data.draw(npst.arrays(data.draw(st.sampled_from(DTYPES)), shape, elements={"min_value": 0, "max_value": 6}))
        for shape in shapes
    )
    assert_agreement(lambda xp, a, b: getattr(xp, name)(a, b), device, x, y)


REDUCTIONS = [
    "all",
    "any",
    "argmax",
    "argmin",
    "count_nonzero",
    "cumprod",
    "cumsum",
    "max",
    "mean",
    "min",
    "prod",
]
REDUCTIONS += [
    "ptp",
    "std",
    "sum",
    "var",
    "median",
    "nansum",
    "nanmax",
    "nanargmax",
    "argsort",
    "sort",
    "amax",
]


@pytest.mark.parametrize("name", REDUCTIONS)
@given(x=arrays, axis=st.integers(-1, 1))
@settings(max_examples=15, deadline=None)
def test_reductions_and_scans_agree(device, name, x, axis):
    kind = {"kind": "stable"} if name.endswith("sort") else {}
    assert_agreement(lambda xp, a: getattr(xp, name)(a, axis=axis, **kind), device, x)
    if name not in ("argsort", "sort"):
        assert_agreement(lambda xp, a: getattr(xp, name)(a), device, x)
    if hasattr(np.ndarray, name) and name != "sort":
        assert_agreement(lambda xp, a: getattr(a, name)(axis=axis, **kind), device, x)


OTHERS: dict[str, Call] = {
    "around": lambda xp, a: xp.around(a, 1),
    "argwhere": lambda xp, a: xp.argwhere(a),
    "array_equal": lambda xp, a: xp.array_equal(a, a),
    "array_split": lambda xp, a: xp.array_split(a, 2),
    "astype": lambda xp, a: a.astype(xp.float32),
    "atleast_3d": lambda xp, a: xp.atleast_3d(a),
    "broadcast_arrays": lambda xp, a: xp.broadcast_arrays(a, a[:1]),
    "broadcast_to": lambda xp, a: xp.broadcast_to(a, (2, *a.shape)),
    "clip": lambda xp, a: xp.clip(a, -1, 2),
    "clip method": lambda xp, a: a.clip(-1, 2),
    "concatenate": lambda xp, a: xp.concatenate([a, a], axis=-1),
    "diag": lambda xp, a: xp.diag(a),
    "diff": lambda xp, a: xp.diff(a),
    "dot": lambda xp, a: xp.dot(a, a.T),
    "einsum": lambda xp, a: xp.einsum("...i,...i->...", a, a),
    "expand_dims": lambda xp, a: xp.expand_dims(a, 0),
    "eye": lambda xp, a: xp.eye(*a.shape[:2]),
    "flatten": lambda xp, a: a.flatten(),
    "flip": lambda xp, a: xp.flip(a, 0),
    "full_like": lambda xp, a: xp.full_like(a, 3),
    "indices": lambda xp, a: xp.indices(a.shape),
    "in place": lambda xp, a: a.__iadd__(1),
    "index": lambda xp, a: a[0],
    "index ellipsis": lambda xp, a: a[..., -1],
    "index newaxis": lambda xp, a: a[None, ::-1],
    "inner": lambda xp, a: xp.inner(a, a),
    "isclose": lambda xp, a: xp.isclose(a, a),
    "isin": lambda xp, a: xp.isin(a, a[:1]),
    "kron": lambda xp, a: xp.kron(a, a),
    "linspace": lambda xp, a: xp.linspace(0, 1, a.size),
    "logical": lambda xp, a: (a > 0) & (a < 2) | ~(a >= 3),
    "mask": lambda xp, a: a[a > 0],
    "matmul": lambda xp, a: a @ a.T,
    "meshgrid": lambda xp, a: xp.meshgrid(a.ravel(), a.ravel()),
    "moveaxis": lambda xp, a: xp.moveaxis(a, 0, -1),
    "nan_to_num": lambda xp, a: xp.nan_to_num(a),
    "nonzero": lambda xp, a: xp.nonzero(a),
    "ones_like": lambda xp, a: xp.ones_like(a),
    "outer": lambda xp, a: xp.outer(a, a),
    "pad": lambda xp, a: xp.pad(a, 1),
    "partition": lambda xp, a: xp.sort(xp.partition(a, 0, axis=-1), axis=-1),
    "ravel": lambda xp, a: xp.ravel(a),
    "repeat": lambda xp, a: xp.repeat(a, 2, axis=0),
    "reshape": lambda xp, a: xp.reshape(a, (-1, 1)),
    "roll": lambda xp, a: xp.roll(a, 1),
    "searchsorted": lambda xp, a: xp.searchsorted(xp.sort(a.ravel()), a),
    "split": lambda xp, a: xp.split(a, a.shape[0]),
    "squeeze": lambda xp, a: xp.squeeze(a[None]),
    "stack": lambda xp, a: xp.stack([a, a], axis=1),
    "swapaxes": lambda xp, a: a.swapaxes(0, -1),
    "take": lambda xp, a: xp.take(a, xp.asarray([0, -1]), axis=0),
    "tensordot": lambda xp, a: xp.tensordot(a, a, axes=a.ndim),
    "tile": lambda xp, a: xp.tile(a, 2),
    "trace": lambda xp, a: xp.trace(a),
    "transpose": lambda xp, a: xp.transpose(a),
    "tril": lambda xp, a: xp.tril(a),
    "unique": lambda xp, a: xp.unique(a, return_inverse=True, return_counts=True),
    "where": lambda xp, a: xp.where(a > 0, a, -a if a.dtype != bool else a),
    "zeros_like": lambda xp, a: xp.zeros_like(a),
    "result_type": lambda xp, a: xp.result_type(a, xp.float32),
    "shape": lambda xp, a: (xp.shape(a), xp.ndim(a), xp.size(a), len(a), a.nbytes, a.strides),
    "norm": lambda xp, a: xp.linalg.norm(a.astype(xp.float64), axis=0),
    "fft": lambda xp, a: xp.fft.fft(a),
}


@pytest.mark.parametrize("call", OTHERS.values(), ids=OTHERS.keys())
@given(x=arrays)
@settings(max_examples=10, deadline=None)
def test_common_calls_agree_with_numpy(device, call, x):
    assert_agreement(call, device, x)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_basic_indices_agree(device, data):
    x = data.draw(arrays)
    key = data.draw(npst.basic_indices(x.shape, allow_newaxis=True))
    assert_same(device.asarray(x)[key], np.asarray(x[key]), device)
    actual, expected = device.asarray(x), x.copy()
    actual[key] = 1
    expected[key] = 1
    np.testing.assert_array_equal(actual.get(), expected)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_integer_array_indices_agree(device, data):
    x = data.draw(arrays)
    key = data.draw(npst.integer_array_indices(x.shape))
    device_key = tuple(device.asarray(entry) for entry in key)
    assert_same(device.asarray(x)[device_key], np.asarray(x[key]), device)
    actual, expected = device.asarray(x), x.copy()
    actual[device_key] = 1
    expected[key] = 1
    np.testing.assert_array_equal(actual.get(), expected)
