"""Compare the CPU kernels with the reference on small problems, for processors on which the tests cannot be run.

Run as ``python -m tools.check_host_kernels [CELL ...]``, by default for all cells. It needs only NumPy, Numba and
array-api-compat (see `tools/aarch64.sh`).
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from functools import partial

import numpy as np

import capgpu
from capgpu.kernels import kernels_for
from capgpu.layers.cells import CELLS

#: Norm-wise relative tolerances of float32, as in CONTRIBUTING.md.
FORWARD, GRADIENTS = 1e-5, 1e-4


def distance(actual: object, expected: object) -> float:
    """Return the norm of the difference relative to the norm of `expected`."""
    expected = np.asarray(expected, np.float64)
    return float(np.linalg.norm(np.asarray(actual, np.float64) - expected) / np.linalg.norm(expected))


def product() -> list[tuple[str, float, float]]:
    """Return the error of a matrix product computed by several threads: a label, the error and its limit."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(shape).astype(np.float32) for shape in ((300, 200), (200, 310)))
    return [("product", distance(kernels_for(a).matmul(a, b), a.astype(np.float64) @ b), FORWARD)]


def model(cell_type: str) -> list[tuple[str, float, float]]:
    """Return the errors of a model's loss, gradients and greedy captions: labels, errors and limits."""
    random = np.random.default_rng(0)
    word_to_idx = {word: k for k, word in enumerate(["<NULL>", "<START>", "<END>", *map(str, range(97))])}
    features, captions = random.standard_normal((12, 24)).astype(np.float32), random.integers(3, 100, (12, 9))
    results = []
    for backend in ("cpu", "numpy"):
        with capgpu.use_backend(backend):
            captioner = capgpu.CaptioningRNN(word_to_idx, 24, 24, 64, cell_type, seed=0)
            results.append((*captioner.loss(features, captions), captioner.sample(features, 5)))
    (loss, grads, ids), (expected_loss, expected_grads, expected_ids) = results
    gradient_errors = [
        (f"{cell_type} {name}", distance(grads[name], expected_grads[name]), GRADIENTS) for name in expected_grads
    ]
    loss_error = (f"{cell_type} loss", distance(loss, expected_loss), FORWARD)
    return [
        loss_error,
        *gradient_errors,
        (f"{cell_type} captions that differ", float((ids != expected_ids).sum()), 0.0),
    ]


def main(cells: Sequence[str]) -> int:
    """Print every error and its limit; return 1 if a limit is exceeded."""
    capgpu.set_backend("cpu")
    from capgpu.kernels.cpu.compile import FUSES, VECTOR_BYTES

    print(f"vectors of {VECTOR_BYTES} bytes, {'fused' if FUSES else 'separate'} multiply and add")
    failed, start = False, time.perf_counter()
    for check in (product, *(partial(model, cell) for cell in cells or CELLS)):
        for name, error, limit in check():
            failed |= not error <= limit
            print(f"{platform.machine()} {name}: {error:.2e}, limit {limit:.0e}", flush=True)
    print(f"{'FAILED' if failed else 'passed'} in {time.perf_counter() - start:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
