"""The stages ``memcheck``, ``racecheck`` and ``synccheck``: every kernel and variant once, for NVIDIA's checkers.

    compute-sanitizer --tool=memcheck python -m tools.gpu.checked [--hidden 33,40,264] [--dtypes float32,...]

A checked launch is many times slower than a plain one, so that the shapes are small: rows of different lengths in two
groups of blocks; numbers of hidden units that are, and are not, multiples of what is copied at once; several rounds of
the warps' buffers. Results are not looked at: the tests do that.
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

COUNTS = (5, 5, 3, 2, 2, 1)
GROUPS = 2
HIDDEN = "40,33,264"
#: bfloat16 comes last: where its arrays are not to be had, the others have been checked.
DTYPES = "float32,float16,float64,bfloat16"
#: The first is scored by warps, the second by blocks that hold a row in registers, or read it twice for float64
#: (`capgpu.kernels.cuda.softmax`); rows of so many scores are read twice for every type.
VOCABULARIES = (40, 700)
LONG_ROW = 33000
CAPTIONS = np.array([[1, 4, 5, 6, 2, 0], [1, 7, 2, 0, 0, 0], [1, 5, 0, 6, 4, 2], [0, 0, 0, 0, 0, 0]])


class UnavailableDtypeError(RuntimeError):
    """There are no arrays of a dtype here."""


class Launcher:
    """Launches of one dtype, on data drawn once and for all.

    Raises
    ------
    UnavailableDtypeError
        For bfloat16, where ml_dtypes is not installed or CuPy has no such arrays.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: Launches that the driver has refused, in words.
        self.refused: list[str] = []
        self._random = np.random.default_rng(0)
        try:
            self.dtype = np.dtype(getattr(import_module("ml_dtypes"), name) if name == "bfloat16" else name)
            self.draw(1)
        except (ImportError, TypeError, ValueError) as error:
            raise UnavailableDtypeError(f"{type(error).__name__}: {error}") from error

    def draw(self, *shape: int) -> Any:
        """Return an array on the device."""
        from capgpu.backend import asarray

        return asarray((self._random.uniform(-1, 1, shape) / 8).astype(self.dtype))

    def recurrences(self, H: int) -> int:
        """Run every pass with every configuration that fits the device; return how many."""
        from capgpu.kernels.cuda import compile, launch_heuristics

        done, multiprocessors = 0, compile.device_limits().multiprocessors
        for name, kind in launch_heuristics.PASSES.items():
            candidates = launch_heuristics.candidates(name, self.name, H, COUNTS[0])
            configs = [config for config in candidates if config.algorithm == "step"]
            for setting in ("0", "1", ""):
                os.environ["CAPGPU_TENSOR_CORES"] = setting
                laid_out = (
                    launch_heuristics.persistent(name, self.name, H, COUNTS[0], units, GROUPS) for units in kind.units
                )
                configs += [config for config in laid_out if config not in configs]
            del os.environ["CAPGPU_TENSOR_CORES"]
            for config in configs:
                most = config.kernel(name, self.name).max_blocks_per_multiprocessor(config.block, config.shared)
                # all blocks of the persistent kernels are on the device at once; a smaller device has no room for some
                if most == 0 or config.grid > most * multiprocessors:
                    continue
                try:
                    self._pass(name, H, config)
                    done += 1
                except (
                    compile.CooperativeLaunchError
                ) as error:  # a checker takes room, of which the driver says nothing
                    self.refused.append(f"H={H}, {error}")
        return done

    def _pass(self, name: str, H: int, config: Any) -> None:
        """Run one pass with every option that it has."""
        import cupy

        from capgpu.kernels.cuda import recurrence

        M, N, G = sum(COUNTS), COUNTS[0], (4 * H if name.startswith("lstm") else H)
        steps = recurrence.Steps.of(np.array(COUNTS))
        order = cupy.arange(N, dtype=np.int32)[::-1].copy()
        rows = cupy.asarray(self._random.integers(0, 4, M).astype(np.int32))
        h, Wh, wide, out = self.draw(N, H), self.draw(H, G), self.draw(M, G), self.draw(M, G)
        narrow = [self.draw(M, H) for _ in range(2)]
        cell, direction = name.split("_")
        lstm = cell == "lstm"
        c, states = (self.draw(N, H), self.draw(M, H)) if lstm else (None, None)
        if direction == "forward":
            inputs = recurrence.ForwardInputs(self.draw(4, G), rows, h, c, Wh, self.draw(G), self.draw(H), order)
            outputs = recurrence.ForwardOutputs(narrow[0], states, out if lstm else None, self.draw(M, H))
            recurrence.forward_into(recurrence.CELLS[cell], inputs, steps, outputs, config)
        else:
            dcell = narrow[1] if lstm else None
            gradients = recurrence.BackwardInputs(narrow[0], dcell, wide, states, c, Wh, order)
            results = recurrence.BackwardOutputs(out, h, self.draw(N, H) if lstm else None)
            recurrence.backward_into(recurrence.CELLS[cell], gradients, steps, results, config)

    def steps(self, V: int) -> None:
        """Train models for a step with each rule, with dropout, smoothed labels or tied weights, too, and decode."""
        from capgpu.model import CaptioningRNN
        from capgpu.optim import Optimizer

        words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{k}": k for k in range(3, V)}}
        tied = {"tie_weights": True}
        disturbed: dict[str, Any] = {"feature_dropout": 0.3, "output_dropout": 0.3, "label_smoothing": 0.1}
        for cell in ("lstm", "rnn"):
            for H, options in ((24, {}), (21, {}), (24, disturbed), (21, disturbed), (12, tied)):
                model = CaptioningRNN(words, 7, 12, H, cell, self.dtype, seed=3, **options)
                for rule in ("adam", "sgd_momentum", "sgd"):
                    _, grads = model.loss(self.draw(4, 7), CAPTIONS, dropout_key=5)
                    Optimizer(rule, {"learning_rate": 1e-3}, model.params).step(model.params, grads, clip_norm=1.0)
                model.sample(self.draw(4, 7), 4)

    def long_rows(self) -> None:
        """Compute the softmax of rows that registers cannot hold."""
        import cupy

        from capgpu.kernels.cuda import KERNELS

        KERNELS.softmax_cross_entropy(self.draw(2, LONG_ROW), cupy.asarray(np.array([3, LONG_ROW - 1])), 1.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Launch everything; return 1 where a dtype failed."""
    from capgpu.backend import set_backend, synchronize
    from capgpu.kernels.cuda import stopwatch
    from capgpu.kernels.cuda.device_calls import counting

    parser = argparse.ArgumentParser(prog="python -m tools.gpu.checked", description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", default=DTYPES)
    parser.add_argument("--hidden", default=HIDDEN, help="numbers of hidden units")
    args = parser.parse_args(argv)
    set_backend("cuda")
    status, passes = 0, 0
    with counting() as launches:
        stopwatch.spin(1)
        for name in args.dtypes.split(","):
            try:
                launcher = Launcher(name)
                passes += sum(launcher.recurrences(int(H)) for H in args.hidden.split(","))
                for V in VOCABULARIES:
                    launcher.steps(V)
                launcher.long_rows()
                synchronize()
            except UnavailableDtypeError as error:
                print(f"{name}: left out, {error}", flush=True)
            except Exception as error:  # the checkers' findings on the other types are worth having
                print(f"{name}: FAILED, {type(error).__name__}: {error}", flush=True)
                status = 1
            else:
                print(f"{name}: done", flush=True)
                for words in launcher.refused:
                    print(f"{name}: NOT CHECKED, {words}", flush=True)
                    status = 1
    print(f"{passes} passes; launches: {', '.join(f'{k} {n}' for k, n in sorted(Counter(launches).items()))}")
    return status


if __name__ == "__main__":
    sys.exit(main())
