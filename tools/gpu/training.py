"""The stage ``train``: `capgpu train` on the embedded pictures must reach the same losses on two backends.

    python -m tools.gpu.training --folder DIR [--backends cuda,cpu] [--epochs 3] [-- options of capgpu train]

Batches, dropout masks and initial parameters are the same on every backend, so losses differ by rounding only.
Exit status: 0 the losses agree; 1 they do not, or a run failed.
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
    parser.add_argument("--folder", type=Path, required=True, help="folder for the run folders")
    parser.add_argument("--backends", default="cuda,cpu", help="two backends, comma-separated")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("options", nargs="*", help="options of capgpu train, after --")
    args = parser.parse_args(argv)
    args.backends = args.backends.split(",")
    if len(args.backends) != 2:
        parser.error(f"backends: expected two, got {','.join(args.backends)}")
    return args


def train(backend: str, folder: Path, epochs: int, options: Sequence[str]) -> dict[str, list[float]] | None:
    """Train in a separate process; return the losses of each epoch, or None if it failed."""
    from capgpu.training.history import read_history

    arguments = [
        "train",
        "--data",
        "emoji",
        "--epochs",
        str(epochs),
        "--backend",
        backend,
        "--out",
        str(folder),
        "--force",
    ]
    command = [
        sys.executable,
        "-c",
        "import sys; from capgpu.cli import main; main(sys.argv[1:])",
        *arguments,
        *options,
    ]
    started = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    print(f"{backend}: exit {code}, {time.monotonic() - started:.1f} s", flush=True)
    if code:
        return None
    epoch_records = [record for record in read_history(folder / "history.jsonl") if record["kind"] == "epoch"]
    return {name: [float(record[name]) for record in epoch_records] for name in LOSSES}


def differences(first: dict[str, list[float]], second: dict[str, list[float]]) -> float:
    """Return the largest relative difference between two runs' losses.

    Raises
    ------
    ValueError
        If the runs have different numbers of epochs, or none.
    """
    largest = 0.0
    for name, losses in first.items():
        if len(losses) != len(second[name]) or not losses:
            raise ValueError(f"{name}: expected as many epochs in both runs, got {len(losses)} and {len(second[name])}")
        largest = max(largest, *(abs(a - b) / abs(b) for a, b in zip(losses, second[name], strict=True)))
    return largest


def main(argv: Sequence[str] | None = None) -> int:
    """Train on both backends and compare; return the exit status."""
    args = arguments(argv)
    runs = {}
    for backend in args.backends:
        losses = train(backend, args.folder / backend, args.epochs, args.options)
        if losses is None:
            return 1
        runs[backend] = losses
    for name in LOSSES:
        for backend, losses in runs.items():
            print(f"{name} on {backend}: {' '.join(f'{loss:.6f}' for loss in losses[name])}")
    largest = differences(*runs.values())
    agree = largest <= TOLERANCE
    print(f"largest relative difference {largest:.1e}, {'within' if agree else 'ABOVE'} {TOLERANCE:.0e}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
