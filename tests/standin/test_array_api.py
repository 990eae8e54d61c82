"""array-api-compat serves the stand-in's arrays as it serves CuPy's."""

from __future__ import annotations

import array_api_compat
import numpy as np
import pytest

HOST = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def x(cupy):
    return cupy.asarray(HOST)


def test_array_api_compat_takes_the_arrays_for_cupys(cupy, x):
    assert array_api_compat.is_cupy_array(x)
    assert not array_api_compat.is_numpy_array(x)
    xp = array_api_compat.array_namespace(x)
    assert xp.__name__ == "array_api_compat.cupy"
    with pytest.raises(TypeError, match="Multiple namespaces"):
        array_api_compat.array_namespace(x, HOST)
    assert array_api_compat.device(x) == cupy.cuda.Device(0)
    assert type(array_api_compat.to_device(x, "cpu")) is np.ndarray


def test_the_array_api_namespace_computes(cupy, x):
    xp = array_api_compat.array_namespace(x)
    ids = xp.asarray([2, 0, 2, 1])
    results = {
        "matmul": (xp.matmul(x, x.T), HOST @ HOST.T),
        "take": (xp.take(x, ids, axis=1), np.take(HOST, [2, 0, 2, 1], axis=1)),
        "where": (xp.where(x > 2, x, 0.0), np.where(HOST > 2, HOST, 0.0)),
        "cumulative_sum": (xp.cumulative_sum(x, axis=1, include_initial=True), [[0, 0, 1, 3], [0, 3, 7, 12]]),
        "unique_inverse": (xp.unique_inverse(ids).inverse_indices, [2, 0, 2, 1]),
        "argsort": (xp.argsort(ids, descending=True), [0, 2, 3, 1]),
        "sort": (xp.sort(ids), [0, 1, 2, 2]),
        "expand_dims": (xp.expand_dims(x, axis=1), HOST[:, None]),
        "astype": (xp.astype(x, xp.int32), HOST.astype(np.int32)),
        "zeros": (xp.zeros((2, 1), dtype=xp.float32), np.zeros((2, 1), dtype=np.float32)),
        "clip": (xp.clip(x, 1.0, 4.0), np.clip(HOST, 1.0, 4.0)),
        "concat": (xp.concat([x, x], axis=0), np.concatenate([HOST, HOST])),
        "stack": (xp.stack([x, x]), np.stack([HOST, HOST])),
        "permute_dims": (xp.permute_dims(x, (1, 0)), HOST.T),
        "reshape": (xp.reshape(x, (-1,)), HOST.ravel()),
        "vecdot": (xp.vecdot(x, x), (HOST * HOST).sum(axis=1)),
        "sign": (xp.sign(x - 2), np.sign(HOST - 2)),
        "std": (xp.std(x, correction=1), np.std(HOST, ddof=1)),
        "linalg": (xp.linalg.vector_norm(x), np.linalg.norm(HOST)),
        "fft": (xp.fft.rfft(x), np.fft.rfft(HOST)),
        "searchsorted": (xp.searchsorted(xp.asarray([0, 2, 4]), ids), [1, 0, 1, 1]),
        "isin": (xp.isin(ids, 2), [True, False, True, False]),
        "unstack": (xp.unstack(x)[1], HOST[1]),
        "repeat": (xp.repeat(ids, 2), np.repeat([2, 0, 2, 1], 2)),
        "tril": (xp.tril(x), np.tril(HOST)),
    }
    for name, (actual, expected) in results.items():
        assert type(actual) is cupy.ndarray, name
        np.testing.assert_allclose(actual.get(), expected, err_msg=name)
        if isinstance(expected, np.ndarray):
            assert actual.dtype == expected.dtype, name
    assert xp.isdtype(x.dtype, "real floating")
    assert xp.finfo(x.dtype).eps == np.finfo(np.float64).eps
    assert xp.__array_namespace_info__().default_dtypes()["real floating"] == np.float64
