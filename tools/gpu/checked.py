"""The stages ``memcheck``, ``racecheck`` and ``synccheck``: launch every kernel and variant under a sanitizer.

    compute-sanitizer --tool=memcheck python -m tools.gpu.checked [--hidden 33,40,264] [--dtypes float32,...]

A checked launch is many times slower than a plain one, so shapes are small. They still have captions of different
lengths in two groups of blocks, numbers of hidden units that are and are not multiples of a vector copy, and several
rounds of the warps' buffers. Results are not compared: the tests do that.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["main"]

#: Rows of each step of a packed batch of five captions.
BATCH_SIZES = (5, 5, 3, 2, 2, 1)
GROUPS = 2
HIDDEN = "40,33,264"
#: bfloat16 comes last: the others have been checked where its arrays are unavailable.
DTYPES = "float32,float16,float64,bfloat16"
#: Rows of 40 scores are processed by warps, rows of 700 by blocks that hold a row in registers, or for float64 read it
#: twice (`capgpu.kernels.cuda.softmax`).
VOCABULARIES = (40, 700)
#: A row that is too long for registers in every dtype.
LONG_ROW = 33000
CAPTIONS = np.array([[1, 4, 5, 6, 2, 0], [1, 7, 2, 0, 0, 0], [1, 5, 0, 6, 4, 2], [0, 0, 0, 0, 0, 0]])


class UnavailableDtypeError(RuntimeError):
    """Arrays of a dtype cannot be created on this machine."""


class Launcher:
    """Launches of all kernels for one dtype.

    Raises
    ------
    UnavailableDtypeError
        For bfloat16, where ml_dtypes is not installed or CuPy has no such arrays.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: Messages of the launches that the driver refused.
        self.refused: list[str] = []
        self._random = np.random.default_rng(0)
        try:
            self.dtype = np.dtype(getattr(import_module("ml_dtypes"), name) if name == "bfloat16" else name)
            self.draw(1)
        except (ImportError, TypeError, ValueError) as error:
            raise UnavailableDtypeError(f"{type(error).__name__}: {error}") from error

    def draw(self, *shape: int) -> Any:
        """Return an array of random numbers on the device."""
        from capgpu.backend import asarray

        return asarray((self._random.uniform(-1, 1, shape) / 8).astype(self.dtype))

    def recurrences(self, H: int) -> int:
        """Run every pass of the recurrences with every configuration that fits; return the number of launches."""
        from capgpu.kernels.cuda import compile, launch_heuristics

        n_launched, multiprocessors = 0, compile.device_limits().multiprocessors
        for name, pass_info in launch_heuristics.PASSES.items():
            candidates = launch_heuristics.candidates(name, self.name, H, BATCH_SIZES[0])
            configs = [config for config in candidates if config.algorithm == "step"]
            for tensor_cores in ("0", "1", ""):
                os.environ["CAPGPU_TENSOR_CORES"] = tensor_cores
                persistent_configs = (
                    launch_heuristics.persistent(name, self.name, H, BATCH_SIZES[0], units, GROUPS)
                    for units in pass_info.units
                )
                configs += [config for config in persistent_configs if config not in configs]
            del os.environ["CAPGPU_TENSOR_CORES"]
            for config in configs:
                max_resident_blocks = config.kernel(name, self.name).max_blocks_per_multiprocessor(
                    config.block, config.shared
                )
                # all blocks of a persistent kernel must be resident at once, which small devices do not allow
                if max_resident_blocks == 0 or config.grid > max_resident_blocks * multiprocessors:
                    continue
                try:
                    self._pass(name, H, config)
                    n_launched += 1
                # the sanitizer takes resources that the driver's occupancy calculation does not know of
                except compile.CooperativeLaunchError as error:
                    self.refused.append(f"H={H}, {error}")
        return n_launched

    def _pass(self, name: str, H: int, config: Any) -> None:
        """Run one pass with all of its optional operands."""
        import cupy

        from capgpu.kernels.cuda import recurrence

        cell, direction = name.split("_")
        shape = recurrence.CELLS[cell].shape
        M, N, G = sum(BATCH_SIZES), BATCH_SIZES[0], shape.n_gates * H
        steps = recurrence.Steps.of(np.array(BATCH_SIZES))
        order = cupy.arange(N, dtype=np.int32)[::-1].copy()
        rows = cupy.asarray(self._random.integers(0, 4, M).astype(np.int32))
        h, Wh, hidden, previous = self.draw(N, H), self.draw(H, G), self.draw(M, H), self.draw(M, H)
        gates = self.draw(M, shape.n_saved * H) if shape.n_saved else None
        c, states = (self.draw(N, H), self.draw(M, H)) if shape.has_state else (None, None)
        if direction == "forward":
            bias = self.draw(shape.n_biases * H)
            inputs = recurrence.ForwardInputs(self.draw(4, G), rows, h, c, Wh, bias, self.draw(H), order)
            outputs = recurrence.ForwardOutputs(hidden, states, gates, previous)
            recurrence.forward_into(recurrence.CELLS[cell], inputs, steps, outputs, config)
        else:
            dcell, dc0 = (self.draw(M, H), self.draw(N, H)) if shape.has_state else (None, None)
            saved, states = (hidden, None) if gates is None else (gates, previous if states is None else states)
            gradients = recurrence.BackwardInputs(self.draw(M, H), dcell, saved, states, c, Wh, order)
            dinputs = self.draw(M, G) if shape.splits_gradient else None
            results = recurrence.BackwardOutputs(self.draw(M, G), h, dc0, dinputs)
            recurrence.backward_into(recurrence.CELLS[cell], gradients, steps, results, config)

    def steps(self, V: int) -> None:
        """Train each variant of the model for one step with each update rule, and decode."""
        from capgpu.kernels.cells import CELLS
        from capgpu.model import CaptioningRNN
        from capgpu.optim import Optimizer

        word_to_idx = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{k}": k for k in range(3, V)}}
        tied = {"tie_weights": True}
        regularization: dict[str, Any] = {"feature_dropout": 0.3, "output_dropout": 0.3, "label_smoothing": 0.1}
        for cell in CELLS:
            for H, options in ((24, {}), (21, {}), (24, regularization), (21, regularization), (12, tied)):
                model = CaptioningRNN(word_to_idx, 7, 12, H, cell, self.dtype, seed=3, **options)
                for rule in ("adam", "sgd_momentum", "sgd"):
                    _, grads = model.loss(self.draw(4, 7), CAPTIONS, dropout_key=5)
                    Optimizer(rule, {"learning_rate": 1e-3}, model.params).step(model.params, grads, clip_norm=1.0)
                model.sample(self.draw(4, 7), 4)

    def attention(self, H: int) -> None:
        """Run the attention LSTM, both passes and a step of its decoding, with more cells than a warp has lanes."""
        import cupy

        from capgpu.kernels.cuda import KERNELS, recurrence

        N, L, M, V = BATCH_SIZES[0], 37, sum(BATCH_SIZES), VOCABULARIES[0]
        steps = recurrence.Steps.of(np.array(BATCH_SIZES))
        order = cupy.arange(N, dtype=np.int32)[::-1].copy()
        A, Wh, Wattn, bias = self.draw(N, L, H), self.draw(H, 4 * H), self.draw(H, 4 * H), self.draw(4 * H)
        states = KERNELS.attention_lstm_forward(self.draw(M, 4 * H), None, A, Wh, Wattn, steps, bias=bias, order=order)
        saved = states.gates, states.cell, states.previous, states.attention
        KERNELS.attention_lstm_backward(self.draw(M, H), *saved, A, Wh, Wattn, steps, order=order)
        h, c, projected = self.draw(N, H), self.draw(N, H), self.draw(N, 4 * H)
        KERNELS.attention_decode_step(projected, None, h, c, A, order, Wh, Wattn, self.draw(H, V), self.draw(V))

    def long_rows(self) -> None:
        """Compute the softmax of rows that registers cannot hold, and of rows with weights."""
        import cupy

        from capgpu.backend import asarray
        from capgpu.kernels.cuda import KERNELS

        targets = cupy.asarray(np.array([3, LONG_ROW - 1]))
        KERNELS.softmax_cross_entropy(self.draw(2, LONG_ROW), targets, 1.0)
        weights = asarray(np.array([0.5, 0.0], np.float64 if self.name == "float64" else np.float32))
        for V in (*VOCABULARIES, LONG_ROW):
            operands = self.draw(2, 4), self.draw(4, V), self.draw(V), targets % V
            KERNELS.linear_cross_entropy(*operands, 1.0, row_weights=weights)


def main(argv: Sequence[str] | None = None) -> int:
    """Launch everything; return 1 if a dtype failed, otherwise 0."""
    from capgpu.backend import set_backend, synchronize
    from capgpu.kernels.cuda import stopwatch
    from capgpu.kernels.cuda.device_calls import counting

    parser = argparse.ArgumentParser(prog="python -m tools.gpu.checked", description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", default=DTYPES)
    parser.add_argument("--hidden", default=HIDDEN, help="numbers of hidden units")
    args = parser.parse_args(argv)
    set_backend("cuda")
    status, n_passes = 0, 0
    with counting() as launches:
        stopwatch.spin(1)
        for name in args.dtypes.split(","):
            try:
                launcher = Launcher(name)
                n_passes += sum(launcher.recurrences(int(H)) for H in args.hidden.split(","))
                for V in VOCABULARIES:
                    launcher.steps(V)
                for H in args.hidden.split(","):
                    launcher.attention(int(H))
                launcher.long_rows()
                synchronize()
            except UnavailableDtypeError as error:
                print(f"{name}: left out, {error}", flush=True)
            except Exception as error:  # the other dtypes are still checked
                print(f"{name}: FAILED, {type(error).__name__}: {error}", flush=True)
                status = 1
            else:
                print(f"{name}: done", flush=True)
                for refusal in launcher.refused:
                    print(f"{name}: NOT CHECKED, {refusal}", flush=True)
                    status = 1
    print(f"{n_passes} passes; launches: {', '.join(f'{k} {n}' for k, n in sorted(Counter(launches).items()))}")
    return status


if __name__ == "__main__":
    sys.exit(main())
