"""Matrix products on the device: operands and results that are transposed views."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.kernels.cuda.device_calls import counting
from capgpu.kernels.cuda.gemm import product


@pytest.mark.parametrize("views", [(a, b, out) for a in (0, 1) for b in (0, 1) for out in (0, 1)], ids=str)
def test_transposed_views_are_read_and_written_without_a_copy(device, views):
    random = np.random.default_rng(0)
    host = random.standard_normal((3, 4)), random.standard_normal((4, 5))
    a, b = (
        device.asarray(np.ascontiguousarray(x.T)).T if view else device.asarray(x)
        for x, view in zip(host, views, strict=False)
    )
    out = device.zeros((5, 3)).T if views[2] else device.zeros((3, 5))
    with counting() as launches:
        result = product(a, b, out)
    assert result.shape == (3, 5)
    assert result.data.ptr == out.data.ptr
    assert np.allclose(out.get(), host[0] @ host[1], rtol=1e-14)
    assert launches == ["matmul"]
