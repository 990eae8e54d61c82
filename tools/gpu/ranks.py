"""The stage ``ranks``: training by one rank a device, whose gradients are added by NCCL.

    python -m tools.gpu.ranks --folder DIR [--size S1] [--steps 30]

On every device a process adds arrays of each dtype, and trains on its captions of the same minibatch; the losses must
be those of one process with all captions. With one device, NCCL has one rank: its calls, streams and events are
checked, but no sums. MPI is not needed: the processes find one another by files in the folder.

Exit status: 0 everything agrees; 1 it does not, or a process failed; 2 there is no device.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.ours import OurTask
from bench.workloads import SIZES, Size, make_workload, parse_size
from capgpu.array_libraries import BackendUnavailableError, open_cuda
from capgpu.backend import Array, synchronize
from capgpu.checkpoint import atomic_write
from capgpu.distributed import Communicator, Reduction
from capgpu.dtypes import named_dtype
from capgpu.kernels.cuda.nccl import NcclCollectives
from capgpu.optional_deps import MissingExtraError
from capgpu.training.distributed import DistributedSteps
from capgpu.training.steps import TrainingSteps
from tools.gpu.stages import NO_DEVICE

__all__ = ["TOLERANCE", "FileCommunicator", "main", "run_rank"]

#: Relative difference of losses in float32 after some updates.
TOLERANCE = 1e-3
_SECONDS = 60.0
_WARMUP = 5


class FileCommunicator(Communicator):
    """What `NcclCollectives` needs to begin: values of rank 0, by files in an empty folder.

    Parameters
    ----------
    folder : path
        Existing folder.
    rank, size : int
        Number of this rank, and of all.
    """

    def __init__(self, folder: Path, rank: int, size: int) -> None:
        self._folder, self.rank, self.size = folder, rank, size
        self.local_rank, self.local_size = rank, size
        self._messages = 0
        self.nccl: NcclCollectives | None = None

    def from_root(self, function: Callable[[], Any]) -> Any:
        """Call a function on rank 0 alone, and return its result on all ranks."""
        file = self._folder / f"message-{self._messages}.json"
        self._messages += 1
        if self.rank == 0:
            with atomic_write(file, "w") as out:
                json.dump(function(), out)
        end = time.monotonic() + _SECONDS
        while not file.exists():
            if time.monotonic() > end:
                raise TimeoutError(f"{file}: expected a message of rank 0 within {_SECONDS:g} s, got none")
            time.sleep(0.01)
        return json.loads(file.read_text())

    def start_all_reduce(self, array: Array, *, patient: bool = False) -> Reduction:
        """Start to replace an array by its sum over all ranks."""
        assert self.nccl is not None
        return self.nccl.start_all_reduce(array)


def check_sums(ranks: FileCommunicator) -> None:
    """Add arrays of every dtype, two at a time, and raise if a sum is wrong."""
    import cupy

    assert ranks.nccl is not None
    for name in ("float64", "float32", "float16", "bfloat16", "int32", "int64"):
        try:
            dtype = named_dtype(name)
        except MissingExtraError as error:
            print(f"left out: {error}")
            continue
        arrays = [cupy.full(shape, ranks.rank + 1, dtype=dtype) for shape in ((1000, 513), (7,))]
        for reduction in [ranks.nccl.start_all_reduce(array) for array in arrays]:
            reduction.wait()
        total = ranks.size * (ranks.size + 1) // 2
        for array in arrays:
            if not bool((array == total).all()):
                raise ValueError(f"{name}: expected sums of {total}, got {array.ravel()[:4]}")


def train(ranks: FileCommunicator | None, size: Size, steps: int) -> tuple[list[float], float]:
    """Return the losses of the first steps, and the median time of the others in ms."""
    task = OurTask("cuda", make_workload(size, "lstm"), "adam")
    rows = slice(None) if ranks is None else slice(ranks.rank, None, ranks.size)  # as `rank_rows`
    features = task.features[rows]
    plain = TrainingSteps(task.model, task.optimizer, None)
    stepper = plain if ranks is None else DistributedSteps(task.model, task.optimizer, None, ranks)
    losses, times = [], []
    for step in range(_WARMUP + steps):
        synchronize()
        start = time.perf_counter()
        loss = stepper.loss(features, task.captions, 1.0)
        stepper.update(1.0)
        synchronize()
        if step < _WARMUP:
            losses.append(float(loss))
        else:
            times.append((time.perf_counter() - start) * 1e3)
    return losses, float(np.median(times))


def run_rank(folder: Path, rank: int, count: int, size: Size, steps: int) -> bool:
    """Run the checks of one rank, on the device of its number; return whether they agree."""
    import cupy

    cupy.cuda.Device(rank).use()
    ranks = FileCommunicator(folder, rank, count)
    ranks.nccl = NcclCollectives(ranks)
    check_sums(ranks)
    alone, alone_ms = train(None, size, steps)
    losses, ms = train(ranks, size, steps)
    largest = max(abs(a - b) / abs(b) for a, b in zip(losses, alone, strict=True))
    if rank == 0:
        print(f"{size.name}, {count} ranks: {ms:.3f} ms a step; one process with all captions: {alone_ms:.3f} ms")
        print(f"losses of ranks: {' '.join(f'{loss:.6f}' for loss in losses)}")
        print(f"of one process:  {' '.join(f'{loss:.6f}' for loss in alone)}")
        print(f"largest relative difference {largest:.1e}, bound {TOLERANCE:.0e}", flush=True)
    return largest <= TOLERANCE


def main(argv: Sequence[str] | None = None) -> int:
    """Run a process a device; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu.ranks", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder for messages between the processes")
    parser.add_argument("--size", type=parse_size, default=SIZES["S1"])
    parser.add_argument("--steps", type=int, default=30, help="timed steps")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rank is not None:
        return 0 if run_rank(args.folder, args.rank, args.count, args.size, args.steps) else 1
    try:
        open_cuda()
    except BackendUnavailableError as error:
        print(f"no ranks: {error}", file=sys.stderr)
        return NO_DEVICE
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    folder = args.folder / f"ranks-{time.time_ns()}"  # messages of an earlier run are in another one
    folder.mkdir(parents=True)
    options = ["--folder", str(folder), "--size", args.size.name, "--steps", str(args.steps), "--count", str(count)]
    command = [sys.executable, "-m", "tools.gpu.ranks", *options]
    processes = [subprocess.Popen([*command, "--rank", str(rank)]) for rank in range(count)]
    codes = [process.wait() for process in processes]
    print(f"{count} devices, exit codes {codes}")
    return 0 if not any(codes) else 1


if __name__ == "__main__":
    sys.exit(main())
