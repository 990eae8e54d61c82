"""Tables of the recurrences: every launch configuration that fits, cuDNN's layers, and the latency of a step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from capgpu.kernels.cells import CELLS
from capgpu.kernels.cuda import compile, launch_heuristics, tuning
from capgpu.kernels.cuda.stopwatch import Elapsed, device_time
from tools.gpu.tables import LeftOutError, Part, require_torch

__all__ = ["parts", "shown"]

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


def shown(elapsed: Elapsed) -> Any:
    """Return milliseconds as a table cell, with an asterisk if the device waited for the host."""
    return round(elapsed.milliseconds, 6) if elapsed.queued else f"{elapsed.milliseconds:.6g} *"


@contextmanager
def _tensor_cores(setting: str) -> Iterator[None]:
    previous = os.environ.get("CAPGPU_TENSOR_CORES")
    os.environ["CAPGPU_TENSOR_CORES"] = setting
    launch_heuristics.forget()
    try:
        yield
    finally:
        if previous is None:
            del os.environ["CAPGPU_TENSOR_CORES"]
        else:
            os.environ["CAPGPU_TENSOR_CORES"] = previous
        launch_heuristics.forget()


def _require(dtype: str) -> None:
    """Raise `LeftOutError` if arrays of a dtype cannot be created, such as bfloat16 without ml_dtypes."""
    import cupy

    try:
        if dtype == "bfloat16":
            import_module("ml_dtypes")  # registers the dtype's name with NumPy
        cupy.asarray(np.zeros(1).astype(dtype))
    except (ImportError, TypeError, ValueError) as error:
        raise LeftOutError(f"no arrays of {dtype}: {type(error).__name__}: {error}") from error


def _configurations(precision: str, H: int, shapes: Any, batches: int) -> Iterator[list[Any]]:
    """Time every launch configuration that fits, forward and backward, with captions of equal length."""
    dtype, setting = {"plain float32": ("float32", "0"), "tf32": ("float32", "1")}.get(precision, (precision, ""))
    _require(dtype)
    with _tensor_cores(setting):
        for cell in CELLS:
            for N, T in shapes:
                for name, run in tuning.passes(cell, dtype, H, N, T).items():
                    chosen = launch_heuristics.choose(name, dtype, H, N, T)
                    for config in launch_heuristics.candidates(name, dtype, H, N):
                        layout = [
                            config.algorithm,
                            config.units,
                            config.groups,
                            config.grid,
                            config.tensor_cores,
                            config == chosen,
                        ]
                        try:
                            elapsed = device_time(partial(run, config), batches)
                        except compile.CooperativeLaunchError as error:  # refused although the occupancy allows it
                            yield [name, N, T, *layout, f"{error}"[:200], ""]
                            continue
                        yield [name, N, T, *layout, shown(elapsed), round(elapsed.milliseconds / T * 1e3, 3)]


def _cudnn(H: int, shapes: Any, batches: int) -> Iterator[list[Any]]:
    """Time PyTorch's layers; the figures include the input projection and the gradients of all weights."""
    torch = require_torch()
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    for cell in CELLS:
        for N, T in shapes:
            for precision in PRECISIONS:
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
                dtype = dtypes.get(precision, torch.float32)
                net = getattr(torch.nn, cell.upper())(H, H).to("cuda", dtype)
                x = torch.randn(T, N, H, device="cuda", dtype=dtype, requires_grad=True)
                upstream = torch.randn(T, N, H, device="cuda", dtype=dtype)

                def forward(net: Any = net, x: Any = x) -> Any:
                    return net(x)[0]

                def both(net: Any = net, x: Any = x, upstream: Any = upstream) -> None:
                    torch.autograd.grad(net(x)[0], [x, *net.parameters()], upstream)

                yield [cell, N, T, precision, shown(device_time(forward, batches)), shown(device_time(both, batches))]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def _latency(H: int, steps: tuple[int, int], batches: int) -> Iterator[list[Any]]:
    """Measure the latency of a step with almost no arithmetic: barrier, loads of the states, sums of four captions."""
    short, long = steps
    for cell in CELLS:
        short_passes, long_passes = (tuning.passes(cell, "float32", H, 4, T) for T in steps)
        for name in short_passes:
            for config in launch_heuristics.candidates(name, "float32", H, 4):
                if config.algorithm == "persistent":
                    short_run = device_time(partial(short_passes[name], config), batches)
                    long_run = device_time(partial(long_passes[name], config), batches)
                    step_us = (long_run.milliseconds - short_run.milliseconds) / (long - short) * 1e3
                    yield [
                        name,
                        config.units,
                        config.groups,
                        round(step_us, 4) if short_run.queued and long_run.queued else f"{step_us:.4g} *",
                    ]


def parts(H: int, shapes: Any, steps: tuple[int, int], batches: int) -> list[Part]:
    """Return the tables.

    Parameters
    ----------
    H : int
        Hidden units.
    shapes : sequence of (int, int)
        Numbers of captions and of steps.
    steps : (int, int)
        Numbers of steps of the two recurrences whose difference in time gives the latency of a step.
    batches : int
        Number of batches of which each figure is the median.
    """
    config_columns = ("pass", "N", "T", "algorithm", "units", "groups", "blocks", "tensor", "chosen", "ms", "us a step")
    cudnn_columns = ("layer", "N", "T", "precision", "forward ms", "forward and backward ms")

    def recurrences(precision: str) -> Part:
        return Part(f"recurrences, {precision}", config_columns, lambda: _configurations(precision, H, shapes, batches))

    return [
        recurrences("float32"),
        Part("cuDNN's layers", cudnn_columns, lambda: _cudnn(H, shapes, batches)),
        recurrences("plain float32"),
        recurrences("tf32"),
        recurrences("float16"),
        recurrences("bfloat16"),
        Part(
            "latency of a step, 4 captions",
            ("pass", "units", "groups", "us a step"),
            lambda: _latency(H, steps, batches),
        ),
    ]
