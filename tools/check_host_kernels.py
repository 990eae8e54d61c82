"""Compare the host's compiled kernels with the reference, small, on a processor where the tests cannot be run.

Run as ``python -m tools.check_host_kernels``; it needs NumPy, Numba and array-api-compat only (see `tools/aarch64.sh`).
"""

from __future__ import annotations

import platform
import sys
import time

import numpy as np

import capgpu
from capgpu.kernels import kernels_for

#: The tolerances of float32: see CONTRIBUTING.md.
FORWARD, GRADIENTS = 1e-5, 1e-4


def distance(found: object, wanted: object) -> float:
    """Return the norm of a difference, relative to that of what is wanted."""
    wanted = np.asarray(wanted, np.float64)
    return float(np.linalg.norm(np.asarray(found, np.float64) - wanted) / np.linalg.norm(wanted))


def product() -> list[tuple[str, float, float]]:
    """Multiply matrices, on several threads."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(shape).astype(np.float32) for shape in ((300, 200), (200, 310)))
    return [("product", distance(kernels_for(a).matmul(a, b), a.astype(np.float64) @ b), FORWARD)]


def model(cell_type: str) -> list[tuple[str, float, float]]:
    """Compute a loss, its gradients and captions."""
    random = np.random.default_rng(0)
    words = {word: k for k, word in enumerate(["<NULL>", "<START>", "<END>", *map(str, range(97))])}
    features, captions = random.standard_normal((12, 24)).astype(np.float32), random.integers(3, 100, (12, 9))
    results = []
    for backend in ("cpu", "numpy"):
        with capgpu.use_backend(backend):
            captioner = capgpu.CaptioningRNN(words, 24, 24, 64, cell_type, seed=0)
            results.append((*captioner.loss(features, captions), captioner.sample(features, 5)))
    (loss, grads, ids), (wanted_loss, wanted_grads, wanted_ids) = results
    found = [(f"{cell_type} {name}", distance(grads[name], wanted_grads[name]), GRADIENTS) for name in wanted_grads]
    loss_found = (f"{cell_type} loss", distance(loss, wanted_loss), FORWARD)
    return [loss_found, *found, (f"{cell_type} captions that differ", float((ids != wanted_ids).sum()), 0.0)]


def main() -> int:
    """Print every distance and its limit; return 1 if one is too large."""
    capgpu.set_backend("cpu")
    failed, start = False, time.perf_counter()
    for check in (product, lambda: model("rnn"), lambda: model("lstm")):
        for name, found, limit in check():
            failed |= not found <= limit
            print(f"{platform.machine()} {name}: {found:.2e}, limit {limit:.0e}", flush=True)
    print(f"{'FAILED' if failed else 'passed'} in {time.perf_counter() - start:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
