"""bfloat16 arrays on the stand-in: the dtypes and the sums that CuPy 14.2 gives, and what it has nothing for."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.cupy_standin import bfloat16, names

ml_dtypes = pytest.importorskip("ml_dtypes")
HOST = np.array([[1.5, -2.0, 0.25], [3.0, 0.0, 7.0]], ml_dtypes.bfloat16)


@pytest.fixture
def x(cupy):
    return cupy.asarray(HOST)


def test_bfloat16_arrays_are_transferred_and_uninitialized_ones_hold_nan(cupy, x):
    assert x.dtype == HOST.dtype
    assert (x.get() == HOST).all()
    assert np.isnan(cupy.empty(3, HOST.dtype).get().astype(np.float32)).all()
    assert (x.astype(np.float64).get() == HOST.astype(np.float64)).all()


def test_whole_numbers_keep_the_dtype_and_floats_do_not(x):
    assert {(x + 1).dtype, (2 * x).dtype, (x / 2).dtype, (x * x).dtype} == {HOST.dtype}
    assert {(x * 2.0).dtype, (0.5 - x).dtype, (x / np.float32(3)).dtype} == {np.dtype("float32")}


def test_functions_without_a_loop_for_bfloat16_return_float32(cupy, x):
    for result in (cupy.where(x > 0, x, x), cupy.clip(x, 0, 1), cupy.around(x)):
        assert result.dtype == np.float32
    for result in (cupy.tanh(x), cupy.maximum(x, x), x.max(axis=0), cupy.zeros_like(x), cupy.stack([x, x])):
        assert result.dtype == HOST.dtype


def test_sums_and_products_add_up_in_float32_and_round_once(cupy):
    ones = cupy.ones((1000, 1), HOST.dtype)  # added up in bfloat16 they would stay at 256
    for result in (ones.sum(), cupy.dot(ones.T, ones)[0, 0], (ones.T @ ones)[0, 0]):
        assert result.dtype == HOST.dtype
        assert float(result) == 1000
    assert float(ones.mean()) == 1
    out = cupy.empty((1, 1), HOST.dtype)
    assert cupy.dot(ones.T, ones, out) is out
    assert float(out[0, 0]) == 1000
    assert cupy.dot(ones.T, ones.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("name", ["argsort", "sort", "cumsum", "unique", "var"])
def test_functions_without_bfloat16_support_raise(cupy, x, name):
    with pytest.raises(TypeError, match=rf"cupy.{name}\(\) does not support bfloat16"):
        getattr(cupy, name)(x)


def test_the_dtypes_of_elementwise_functions_are_those_of_cupy(cupy):
    real = pytest.importorskip("cupy", reason="CuPy is not installed")
    bf, whole, floating = HOST.dtype, (np.dtype("int64"), int), (np.dtype("float64"), float)
    array = cupy.asarray(HOST[0])
    for name in set(names.UFUNCS) - {"degrees", "divmod", "radians"}:
        cupy_function, standin_function = getattr(real, name, None), getattr(cupy, name, None)
        if not hasattr(cupy_function, "_ops") or cupy_function.nout != 1:
            continue
        pairs = [((bf, bf), None, array), ((bf, whole[0]), (False, int), 2), ((bf, floating[0]), (False, float), 2.5)]
        for types, weak, other in pairs if cupy_function.nin == 2 else [((bf,), None, None)]:
            loop = cupy_function._ops._guess_routine_from_in_types(types, weak)
            args = (array,) if other is None else (array, other)
            if loop is None:
                with pytest.raises(TypeError):
                    standin_function(*args)
            else:
                assert standin_function(*args).dtype == np.dtype(loop.out_types[0]), name


def test_the_character_is_that_of_ml_dtypes():
    assert HOST.dtype.char == bfloat16.CHAR
