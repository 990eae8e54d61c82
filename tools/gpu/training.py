"""The stage ``train``: the command trains on the embedded pictures, on two backends, and must learn the same.

    python -m tools.gpu.training --folder DIR [--backends cuda,cpu] [--epochs 3] [-- options of capgpu train]

Batches, masks of dropout and initial parameters are the same on every backend, so that losses differ by rounding alone.
Exit status: 0 they agree; 1 they do not, or a training failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["TOLERANCE", "differences", "main"]

#: Relative difference of an epoch's losses in float32. Rounding grows from step to step; between `numpy` and `cpu` the
#: difference is 1.1e-7 after three epochs (python -m tools.gpu.training --backends numpy,cpu).
TOLERANCE = 1e-3
LOSSES = ("train_loss", "val_loss")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu.training", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the run folders go")
    parser.add_argument("--backends", default="cuda,cpu", help="two, comma-separated")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("options", nargs="*", help="of capgpu train, behind --")
    args = parser.parse_args(argv)
    args.backends = args.backends.split(",")
    if len(args.backends) != 2:
        parser.error(f"backends: expected two, got {','.join(args.backends)}")
    return args


def trained(backend: str, folder: Path, epochs: int, options: Sequence[str]) -> dict[str, list[float]] | None:
    """Train in a process of its own; return the losses of each epoch, None where it failed."""
    from capgpu.training.history import read_history

    words = ["train", "--data", "emoji", "--epochs", str(epochs), "--backend", backend, "--out", str(folder), "--force"]
    command = [sys.executable, "-c", "import sys; from capgpu.cli import main; main(sys.argv[1:])", *words, *options]
    began = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    print(f"{backend}: exit {code}, {time.monotonic() - began:.1f} s", flush=True)
    if code:
        return None
    epochs_made = [record for record in read_history(folder / "history.jsonl") if record["kind"] == "epoch"]
    return {name: [float(record[name]) for record in epochs_made] for name in LOSSES}


def differences(first: dict[str, list[float]], second: dict[str, list[float]]) -> float:
    """Return the largest relative difference between two runs' losses.

    Raises
    ------
    ValueError
        Where the runs have different numbers of epochs, or none.
    """
    worst = 0.0
    for name, losses in first.items():
        if len(losses) != len(second[name]) or not losses:
            raise ValueError(f"{name}: expected as many epochs in both runs, got {len(losses)} and {len(second[name])}")
        worst = max(worst, *(abs(a - b) / abs(b) for a, b in zip(losses, second[name], strict=True)))
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    """Train on both backends and compare; return the exit status."""
    args = arguments(argv)
    runs = {}
    for backend in args.backends:
        losses = trained(backend, args.folder / backend, args.epochs, args.options)
        if losses is None:
            return 1
        runs[backend] = losses
    for name in LOSSES:
        for backend, losses in runs.items():
            print(f"{name} on {backend}: {' '.join(f'{loss:.6f}' for loss in losses[name])}")
    worst = differences(*runs.values())
    agree = worst <= TOLERANCE
    print(f"largest relative difference {worst:.1e}, {'within' if agree else 'ABOVE'} {TOLERANCE:.0e}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
