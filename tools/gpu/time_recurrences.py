"""Tables of the recurrences: every configuration that fits, cuDNN's layers, and the latency of a step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from capgpu.kernels.cuda import compile, launch_heuristics, tuning
from capgpu.kernels.cuda.stopwatch import Elapsed, device_time
from tools.gpu.tables import LeftOutError, Part, require_torch

__all__ = ["parts", "shown"]

CELLS = ("lstm", "rnn")
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


def shown(elapsed: Elapsed) -> Any:
    """Return milliseconds as a cell of a table, marked where they hold time of the host."""
    return round(elapsed.milliseconds, 6) if elapsed.queued else f"{elapsed.milliseconds:.6g} *"


@contextmanager
def _tensor_cores(setting: str) -> Iterator[None]:
    before = os.environ.get("CAPGPU_TENSOR_CORES")
    os.environ["CAPGPU_TENSOR_CORES"] = setting
    launch_heuristics.forget()
    try:
        yield
    finally:
        if before is None:
            del os.environ["CAPGPU_TENSOR_CORES"]
        else:
            os.environ["CAPGPU_TENSOR_CORES"] = before
        launch_heuristics.forget()


def _require(dtype: str) -> None:
    """Raise `LeftOutError` where there are no arrays of a dtype, as of bfloat16 without ml_dtypes."""
    import cupy

    try:
        if dtype == "bfloat16":
            import_module("ml_dtypes")  # brings its name to NumPy
        cupy.asarray(np.zeros(1).astype(dtype))
    except (ImportError, TypeError, ValueError) as error:
        raise LeftOutError(f"no arrays of {dtype}: {type(error).__name__}: {error}") from error


def _plans(precision: str, H: int, shapes: Any, batches: int) -> Iterator[list[Any]]:
    """Time every configuration that fits, forward and backward, all captions equally long."""
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
                        except compile.CooperativeLaunchError as error:  # the driver may refuse one that should fit
                            yield [name, N, T, *layout, f"{error}"[:200], ""]
                            continue
                        yield [name, N, T, *layout, shown(elapsed), round(elapsed.milliseconds / T * 1e3, 3)]


def _cudnn(H: int, shapes: Any, batches: int) -> Iterator[list[Any]]:
    """Time PyTorch's layers; the products with the inputs and the gradients of all weights are in these figures."""
    torch = require_torch()
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    for cell in CELLS:
        for N, T in shapes:
            for precision in PRECISIONS:
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
                dtype = dtypes.get(precision, torch.float32)
                net = (torch.nn.LSTM if cell == "lstm" else torch.nn.RNN)(H, H).to("cuda", dtype)
                x = torch.randn(T, N, H, device="cuda", dtype=dtype, requires_grad=True)
                upstream = torch.randn(T, N, H, device="cuda", dtype=dtype)

                def forward(net: Any = net, x: Any = x) -> Any:
                    return net(x)[0]

                def both(net: Any = net, x: Any = x, upstream: Any = upstream) -> None:
                    torch.autograd.grad(net(x)[0], [x, *net.parameters()], upstream)

                yield [cell, N, T, precision, shown(device_time(forward, batches)), shown(device_time(both, batches))]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def _latency(H: int, steps: tuple[int, int], batches: int) -> Iterator[list[Any]]:
    """Time a step that has next to nothing to compute: barrier, fetch of the states, sums. Four captions."""
    short, long = steps
    for cell in CELLS:
        few, many = (tuning.passes(cell, "float32", H, 4, T) for T in steps)
        for name in few:
            for config in launch_heuristics.candidates(name, "float32", H, 4):
                if config.algorithm == "persistent":
                    a = device_time(partial(few[name], config), batches)
                    b = device_time(partial(many[name], config), batches)
                    us = (b.milliseconds - a.milliseconds) / (long - short) * 1e3
                    yield [name, config.units, config.groups, round(us, 4) if a.queued and b.queued else f"{us:.4g} *"]


def parts(H: int, shapes: Any, steps: tuple[int, int], batches: int) -> list[Part]:
    """Return the tables.

    Parameters
    ----------
    H : int
        Hidden units.
    shapes : sequence of (int, int)
        Captions and steps.
    steps : (int, int)
        Of the two recurrences whose difference is the latency of a step.
    batches : int
        Of which each figure is the median.
    """
    config_columns = ("pass", "N", "T", "algorithm", "units", "groups", "blocks", "tensor", "chosen", "ms", "us a step")
    cudnn_columns = ("layer", "N", "T", "precision", "forward ms", "forward and backward ms")

    def of_plans(precision: str) -> Part:
        return Part(f"recurrences, {precision}", config_columns, lambda: _plans(precision, H, shapes, batches))

    return [
        of_plans("float32"),
        Part("cuDNN's layers", cudnn_columns, lambda: _cudnn(H, shapes, batches)),
        of_plans("plain float32"),
        of_plans("tf32"),
        of_plans("float16"),
        of_plans("bfloat16"),
        Part(
            "latency of a step, 4 captions",
            ("pass", "units", "groups", "us a step"),
            lambda: _latency(H, steps, batches),
        ),
    ]
