"""What the stand-in refuses, and what it lets through."""

from __future__ import annotations

import operator

import numpy as np
import pytest

HOST = np.arange(6.0).reshape(2, 3)
BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    operator.matmul,
    divmod,
]
COMPARISONS = [operator.lt, operator.le, operator.eq, operator.ne, operator.gt, operator.ge]
IN_PLACE = [operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.ipow]


@pytest.fixture
def x(cupy):
    return cupy.asarray(HOST)


def test_implicit_conversion_to_numpy_is_refused(x):
    for convert in (np.asarray, np.array, np.asanyarray, np.ascontiguousarray):
        with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
            convert(x)


def test_writing_a_device_array_into_a_host_array_is_refused(x):
    host = np.zeros((2, 3))
    with pytest.raises(TypeError, match="Implicit conversion"):
        host[...] = x
    assert not host.any()


def test_the_buffer_protocol_shows_no_device_memory(x):
    with pytest.raises(TypeError):
        memoryview(x)


def test_dlpack_gives_numpy_no_device_memory(x):
    assert x.__dlpack_device__() == (2, 0)
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(x)


@pytest.mark.parametrize("operation", BINARY + COMPARISONS)
def test_operators_refuse_host_arrays_on_either_side(x, operation):
    for host in (HOST, HOST[0], np.array(2.0)):
        with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy.ndarray'>"):
            operation(x, host)
        if host.ndim == 0 and operation in COMPARISONS:
            continue  # NumPy hands a scalar on the left of a comparison over in just this form
        with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy.ndarray'>"):
            operation(host, x)


@pytest.mark.parametrize("operation", IN_PLACE)
def test_in_place_operators_refuse_host_arrays_on_either_side(x, operation):
    with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy.ndarray'>"):
        operation(x, HOST)
    with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy.ndarray'>"):
        operation(HOST.copy(), x)


def test_operators_refuse_lists(x):
    with pytest.raises(TypeError, match=r"Unsupported type <class 'list'>"):
        operator.add(x, [1.0, 2.0, 3.0])


@pytest.mark.parametrize("call", [np.tanh, np.sum, np.exp, np.matmul, np.where, np.concatenate, np.add.reduce])
def test_numpy_functions_on_device_arrays_are_refused(x, call):
    arguments = {np.matmul: (x, x.T), np.where: (x, x, x), np.concatenate: ([x, x],)}.get(call, (x,))
    with pytest.raises(TypeError, match=r"numpy\.\w+ was called on a device array"):
        call(*arguments)


def test_functions_refuse_host_arrays(cupy, x):
    for call in (
        lambda: cupy.sum(HOST),
        lambda: cupy.tanh(HOST),
        lambda: cupy.maximum(x, HOST),
        lambda: cupy.where(x > 0, x, HOST),
        lambda: cupy.concatenate([x, HOST]),
        lambda: cupy.matmul(x, HOST.T),
        lambda: cupy.take(x, np.array([0]), axis=0),
        lambda: cupy.add(x, x, out=HOST.copy()),
        lambda: cupy.sum(x, axis=0, out=np.zeros(3)),
        lambda: cupy.copyto(x, HOST),
        lambda: cupy.linalg.norm(HOST),
        lambda: x.dot(HOST.T),
        lambda: x.take(np.array([0])),
    ):
        with pytest.raises(TypeError, match=r"numpy\.ndarray|return arrays"):
            call()
    assert (x == cupy.asarray(HOST)).all()


def test_functions_refuse_lists_of_numbers_for_arrays(cupy, x):
    for call in (
        lambda: cupy.sum([1.0, 2.0]),
        lambda: cupy.tanh([1.0]),
        lambda: cupy.take(x, [0, 1], axis=0),
        lambda: x.take([0, 1]),
        lambda: cupy.where(x > 0, x, [1.0, 2.0, 3.0]),
    ):
        with pytest.raises(TypeError):
            call()


def test_keywords_that_only_numpy_has_are_refused(cupy, x):
    for call in (
        lambda: x.sum(where=x > 0),
        lambda: cupy.max(x, initial=0),
        lambda: cupy.add(x, x, where=x > 0),
        lambda: cupy.clip(x, min=0.0),
    ):
        with pytest.raises(TypeError, match=r"keyword|Wrong arguments"):
            call()


def test_names_that_cupy_lacks_are_absent(cupy, x):
    for name in ("block", "vecdot", "unstack", "float128", "object_", "str_", "char", "asmatrix"):
        assert not hasattr(cupy, name), name
    for name in ("to_device", "__array_namespace__", "__index__", "itemset", "setflags"):
        assert not hasattr(x, name), name


def test_indices_and_values_from_the_host_are_refused(x):
    for key in ([0, 1], np.array([0, 1]), (slice(None), [0]), np.array([True, False])):
        with pytest.raises(TypeError, match="as an index"):
            x[key]
        with pytest.raises(TypeError, match="as an index"):
            x[key] = 0.0
    for value in (HOST, [1.0, 2.0, 3.0], np.array(1.0)):
        with pytest.raises(TypeError, match="Unsupported type"):
            x[...] = value


def test_dtypes_without_a_device_form_are_refused(cupy):
    for make in (
        lambda: cupy.zeros(2, dtype=object),
        lambda: cupy.asarray(["a", "b"]),
        lambda: cupy.asarray(np.zeros(2, dtype=np.longdouble)),
        lambda: cupy.zeros(2).astype("S3"),
    ):
        with pytest.raises(ValueError, match="Unsupported dtype"):
            make()


def test_new_arrays_are_row_major_whatever_the_operands(cupy, x):
    for fresh in (x.T + 1, -x.T, cupy.tanh(x.T), cupy.concatenate([x.T, x.T]), cupy.where(x.T > 1, x.T, 0.0)):
        assert fresh.flags.c_contiguous
    for kept in (x.T, cupy.zeros_like(x.T), x.T.copy("K"), x.T.astype(int), cupy.asfortranarray(x)):
        assert kept.flags.fnc


def test_device_arrays_are_not_hashable_and_device_scalars_are_no_indices(cupy, x):
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)
    with pytest.raises(TypeError):
        range(cupy.asarray(3))


@pytest.mark.parametrize("scalar", [2, 2.0, True, np.float32(2), np.float64(2), np.int64(2), np.bool_(True)], ids=repr)
@pytest.mark.parametrize("operation", [operator.add, operator.mul, operator.truediv, operator.lt, operator.pow])
def test_scalars_promote_as_in_numpy_on_either_side(cupy, scalar, operation):
    # the operator ** of NumPy 2.0 squares without promoting
    of_numpy = np.power if operation is operator.pow else operation
    for dtype in (np.float32, np.float64, np.int32, np.float16):
        host = np.arange(1, 5).astype(dtype)
        device = cupy.asarray(host)
        for actual, expected in (
            (operation(device, scalar), of_numpy(host, scalar)),
            (operation(scalar, device), of_numpy(scalar, host)),
        ):
            assert type(actual) is cupy.ndarray
            assert actual.dtype == expected.dtype
            np.testing.assert_array_equal(actual.get(), expected)


def test_zero_dimensional_arrays_promote_like_arrays(cupy):
    assert (cupy.zeros(2, dtype=np.float32) * cupy.asarray(2.0)).dtype == np.float64


def test_reductions_and_single_elements_stay_on_the_device(cupy, x):
    for result in (
        x.sum(),
        x.max(),
        x.argmax(),
        x.mean(),
        x.any(),
        cupy.sum(x),
        cupy.dot(x[0], x[0]),
        cupy.linalg.norm(x),
        cupy.count_nonzero(x),
        cupy.allclose(x, x),
        cupy.array_equal(x, x),
        x[0, 0],
        x[0, 0] + x[1, 1],
        next(iter(x[0])),
    ):
        assert type(result) is cupy.ndarray
        assert result.shape == ()


def test_a_single_element_is_a_view(x):
    first = x[0, 0]
    first += 5.0
    assert x.tolist()[0] == [5.0, 1.0, 2.0]


def test_slices_and_reshapes_are_views_and_advanced_indexing_copies(cupy, x):
    x[1:, ::2] *= 10.0
    x.reshape(6)[0] = -1.0
    x.T[1, 0] = 7.0
    chosen = x[cupy.asarray([0])]
    chosen[...] = 99.0
    assert x.tolist() == [[-1.0, 7.0, 2.0], [30.0, 4.0, 50.0]]
    x.diagonal()[...] = 0.0
    assert x.tolist() == [[0.0, 7.0, 2.0], [30.0, 0.0, 50.0]]


def test_masks_read_and_write(cupy, x):
    assert x[x > 3].tolist() == [4.0, 5.0]
    x[x > 3] = 0.0
    assert x.sum().item() == 6.0
    x[x < 1] = cupy.asarray([1.0, 2.0, 3.0])
    assert x.tolist() == [[1.0, 1.0, 2.0], [3.0, 2.0, 3.0]]


def test_host_arrays_are_copied_both_ways(cupy):
    host = np.zeros(3)
    device = cupy.asarray(host)
    host += 1
    assert device.tolist() == [0.0, 0.0, 0.0]
    back = device.get()
    back += 1
    assert device.tolist() == [0.0, 0.0, 0.0]
    device.set(back)
    assert cupy.asnumpy(device).tolist() == [1.0, 1.0, 1.0]
    assert cupy.asarray(device) is device
    assert cupy.array(device) is not device
    assert cupy.array([device, device]).shape == (2, 3)


def test_set_requires_the_same_shape_and_dtype(cupy):
    device = cupy.zeros(3)
    with pytest.raises(TypeError, match="float32 array cannot be set to float64 array"):
        device.set(np.zeros(3, dtype=np.float32))
    with pytest.raises(ValueError, match="Shape mismatch"):
        device.set(np.zeros(4))
    with pytest.raises(TypeError, match=r"Only numpy.ndarray can be set"):
        device.set([1.0, 2.0, 3.0])


def test_no_floating_point_warning_reaches_the_host(cupy):
    x = cupy.asarray([0.0, -1.0, 1e300])
    for result in (cupy.log(x), 1.0 / x, x * x, cupy.sqrt(x), cupy.mean(x / x), x.astype(np.float32)):
        assert type(result) is cupy.ndarray
    x /= 0.0
    assert np.isnan(x.get()[0])


def test_out_is_filled_and_returned(cupy, x):
    out = cupy.empty((2, 3))
    assert cupy.add(x, 1.0, out=out) is out
    assert cupy.add(x, 1.0, out) is out
    assert out.tolist() == (HOST + 1).tolist()
    total = cupy.empty(3)
    assert x.sum(axis=0, out=total) is total
    assert cupy.sum(x, 0, None, total) is total
    assert total.tolist() == HOST.sum(axis=0).tolist()
