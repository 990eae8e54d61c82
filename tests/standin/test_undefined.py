"""What a device computes wrongly without an error is an error on the stand-in."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from simulators.cupy_standin import UndefinedOnDeviceError

HOST = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def x(cupy):
    return cupy.asarray(HOST)


def test_an_index_out_of_range_raises_an_error_that_except_exception_does_not_catch(cupy, x):
    far = cupy.asarray([0, 7])
    for call in (
        lambda: x[far],
        lambda: x[:, far],
        lambda: cupy.take(x, far, axis=0),
        lambda: x.take(far, axis=1),
        lambda: cupy.take_along_axis(x, cupy.asarray([[0], [9]]), axis=1),
        lambda: operator.setitem(x, far, 0.0),
    ):
        with pytest.raises(UndefinedOnDeviceError, match="out of bounds"):
            call()


def test_an_integer_out_of_range_is_an_index_error(x):
    with pytest.raises(IndexError):
        x[5]
    with pytest.raises(ValueError, match="axis"):
        x.sum(axis=5)


def test_assignments_with_duplicate_indices_raise_an_error_that_except_exception_does_not_catch(cupy, x):
    twice = cupy.asarray([1, 0, 1])
    with pytest.raises(UndefinedOnDeviceError, match="duplicate"):
        cupy.zeros(3)[twice] = cupy.arange(3.0)
    with pytest.raises(UndefinedOnDeviceError, match="duplicate"):
        x[:, cupy.asarray([0, -3])] += 1.0
    with pytest.raises(UndefinedOnDeviceError, match="duplicate"):
        x[cupy.asarray([0, 0]), cupy.asarray([2, -1])] = cupy.asarray([1.0, 2.0])
    x[cupy.asarray([0, 0]), cupy.asarray([2, 1])] = cupy.asarray([8.0, 9.0])
    assert x[0].tolist() == [0.0, 9.0, 8.0]
    x[cupy.asarray([1, 1])] = 5.0
    assert x[1].tolist() == [5.0, 5.0, 5.0]


def test_assignments_between_overlapping_memory_raise_an_error_that_except_exception_does_not_catch(cupy):
    x = cupy.arange(6.0)
    with pytest.raises(UndefinedOnDeviceError, match="overlapping"):
        x[1:] = x[:-1]
    x[1:] = x[:-1].copy()
    x[::2] = x[1::2]  # strided: CuPy copies such a source first
    x[...] = x
    assert x.tolist() == [0.0, 0.0, 2.0, 2.0, 4.0, 4.0]


def test_uninitialized_memory_is_poisoned(cupy, x):
    assert np.isnan(cupy.empty((2, 2), dtype=cupy.float32).get()).all()
    assert np.isnan(cupy.empty_like(x).get()).all()
    assert cupy.empty(2, dtype=cupy.int16).tolist() == [32767, 32767]
    assert cupy.ndarray((2,), dtype=bool).tolist() == [True, True]
