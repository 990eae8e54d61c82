"""The estimated times beside measured ones: an H100 SXM, H = 512, every config that fits."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import compile, launch_heuristics
from simulators.cupy_standin.architecture import ARCHITECTURES
from simulators.cupy_standin.state import STATE

#: The estimates of that device, whatever device is there.
pytestmark = pytest.mark.standin

#: Microseconds of a step: how products are computed, pass, sequences (16 steps of 64, 20 of 128), then by units of a
#: block of the persistent kernels, and of the others. From ``python -m tools.gpu.time_recurrences``; half is float16.
MEASURED = """
split    lstm_forward   64  4:8.59   8:5.82   16:5.66  step:11.1 matmul:46.3
split    lstm_backward  64  8:13.32  16:8.82  step:19.5 matmul:83.1
split    lstm_forward  128  4:16.88  8:11.23  16:8.62  step:16.3 matmul:55.8
split    lstm_backward 128  8:25.78  16:16.84 step:20.5 matmul:90.7
split    rnn_forward    64  8:4.18   16:3.38  32:3.85  step:8.2 matmul:13.3
split    rnn_backward   64  8:5.31   16:3.49  32:3.97  step:7.0 matmul:18.9
split    rnn_forward   128  8:7.68   16:4.65  32:4.14  step:8.4 matmul:14.5
split    rnn_backward  128  8:9.74   16:6.11  32:4.30  step:8.1 matmul:22.5
plain    lstm_forward   64  4:9.49   8:6.69   16:5.84  step:11.1 matmul:46.4
plain    lstm_backward  64  8:12.44  16:8.94  step:19.6 matmul:83.2
plain    lstm_forward  128  4:18.94  8:13.20  16:11.21 step:16.3 matmul:56.0
plain    lstm_backward 128  8:24.07  16:17.21 step:20.6 matmul:90.5
plain    rnn_forward    64  8:4.15   16:3.43  32:3.36  step:8.2 matmul:13.4
plain    rnn_backward   64  8:4.94   16:3.44  32:3.58  step:7.0 matmul:19.1
plain    rnn_forward   128  8:7.55   16:5.92  32:4.12  step:8.8 matmul:14.4
plain    rnn_backward  128  8:8.95   16:5.88  32:4.45  step:8.1 matmul:22.7
rounded  lstm_forward   64  4:8.07   8:4.90   16:4.08  step:11.1 matmul:46.2
rounded  lstm_backward  64  8:12.85  16:7.72  step:19.5 matmul:82.7
rounded  lstm_forward  128  4:16.26  8:9.39   16:6.60  step:16.4 matmul:55.7
rounded  lstm_backward 128  8:24.20  16:14.29 step:20.7 matmul:90.3
rounded  rnn_forward    64  8:4.05   16:3.05  32:3.29  step:8.2 matmul:13.3
rounded  rnn_backward   64  8:5.00   16:3.02  32:3.19  step:7.0 matmul:19.0
rounded  rnn_forward   128  8:7.40   16:4.27  32:3.63  step:8.5 matmul:14.3
rounded  rnn_backward  128  8:9.17   16:5.15  32:3.48  step:8.0 matmul:22.6
half     lstm_forward   64  4:6.23   8:3.75   16:3.35  step:11.2 matmul:38.4
half     lstm_backward  64  8:7.91   16:5.46  32:4.97  step:21.3 matmul:69.9
half     lstm_forward  128  4:11.41  8:6.34   16:4.29  step:16.4 matmul:43.5
half     lstm_backward 128  8:14.26  16:8.72  32:5.88  step:21.4 matmul:77.2
half     rnn_forward    64  8:3.25   16:2.69  32:2.60  step:8.2 matmul:8.8
half     rnn_backward   64  8:4.28   16:2.66  32:2.77  step:7.6 matmul:13.3
half     rnn_forward   128  8:5.42   16:3.22  32:2.90  step:8.3 matmul:9.3
half     rnn_backward  128  8:7.65   16:4.43  32:3.02  step:7.7 matmul:14.0
"""
MULTIPLIED = {
    "plain": ("float32", "0", launch_heuristics.PLAIN),
    "rounded": ("float32", "1", launch_heuristics.ROUNDED),
    "split": ("float32", "", launch_heuristics.SPLIT),
    "half": ("float16", "", launch_heuristics.ROUNDED),
}


def measured():
    """Yield one row after the other, its times by algorithm or units."""
    for line in MEASURED.split("\n")[1:-1]:
        multiplied, name, N, *times = line.split()
        entries = (time.split(":") for time in times)
        yield multiplied, name, int(N), {key: float(time) for key, time in entries}


@pytest.fixture
def h100(standin, monkeypatch, tmp_path):
    """Make the stand-in an H100 with no choices stored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    capgpu.set_backend("cuda")
    STATE.architecture = ARCHITECTURES["sm_90"]
    monkeypatch.setattr(
        launch_heuristics, "_fits", lambda *given: True
    )  # they all did; nothing is compiled to find out
    compile.forget()
    launch_heuristics.forget()
    yield
    compile.forget()
    launch_heuristics.forget()


def key(config):
    return str(config.units) if config.algorithm == "persistent" else config.algorithm


@pytest.mark.parametrize(
    ("multiplied", "name", "N", "times"), [pytest.param(*row, id="-".join(map(str, row[:3]))) for row in measured()]
)
def test_the_heuristic_chooses_a_configuration_close_to_the_fastest(h100, monkeypatch, multiplied, name, N, times):
    dtype, setting, products = MULTIPLIED[multiplied]
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", setting)
    chosen = launch_heuristics.choose(name, dtype, 512, N, 16)
    assert chosen.tensor_cores == products
    assert times[key(chosen)] <= 1.05 * min(times.values())


def test_estimates_of_the_persistent_tier_are_near_the_measured_times(h100, monkeypatch):
    ratios = []
    for multiplied, name, N, times in measured():
        dtype, setting, _ = MULTIPLIED[multiplied]
        monkeypatch.setenv("CAPGPU_TENSOR_CORES", setting)
        estimates = {key(config): config.step_us for config in launch_heuristics._resident(name, dtype, 512, N)}
        assert set(estimates) == set(times) - {"step", "matmul"}
        ratios += [estimates[units] / times[units] for units in estimates]
    assert 0.95 < np.median(ratios) < 1.05
    assert np.mean(np.abs(np.log(ratios)) < np.log(1.2)) > 0.85
    assert max(ratios) < 1.5
    assert min(ratios) > 1 / 1.6
