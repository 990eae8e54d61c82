"""One rank of a timed training, under mpiexec or alone: prints a line of JSON on rank 0.

    mpiexec -n 2 python -m bench.scaling.worker ours S1 --batch 64 --steps 30

``ours`` trains with `CaptioningSolver` as a user does; a step lasts from the end of one update to the end of the next,
with the gathering of its minibatch. ``ddp`` is PyTorch's DistributedDataParallel over gloo: the packed step of
`bench.peers.torch_peer` on minibatches made before. Both use Adam without dropout, float32, and the same captions:
rank r of R has each R-th of a minibatch.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bench.workloads import Size, Workload, make_workload, parse_size
from capgpu.distributed.launch import launch

#: Different minibatches, whose captions have different lengths.
_MINIBATCHES = 4


def _workload(size: Size, batch: int, cell: str) -> Workload:
    return make_workload(replace(size, N=batch * _MINIBATCHES), cell)


class _Timer:
    """Takes the time at the end of each step; the first are for compiling and for filling caches."""

    def __init__(self, warmup: int, steps: int) -> None:
        self._marks: list[float] = []
        self._warmup, self._steps = warmup, steps

    def mark(self) -> bool:
        """Take the time; return whether that was the last step."""
        self._marks.append(time.perf_counter())
        return len(self._marks) > self._warmup + self._steps

    def result(self) -> dict[str, float]:
        times = np.diff(self._marks)[self._warmup :] * 1e3
        return {"median": float(np.median(times)), "least": float(times.min()), "mean": float(times.mean())}


def run_ours(work: Workload, batch: int, timer: _Timer) -> int:
    """Train until the timer ends; return the rank."""
    import capgpu
    from capgpu.backend import asarray
    from capgpu.distributed import communicator
    from capgpu.vocabulary import SPECIAL_WORDS

    capgpu.set_backend("cpu")
    size = work.size
    words = [*SPECIAL_WORDS, *(f"word{index}" for index in range(len(SPECIAL_WORDS), size.V))]
    word_to_idx = {word: index for index, word in enumerate(words)}
    model = capgpu.CaptioningRNN(word_to_idx, size.D, size.W, size.H, work.cell, dtype="float32")  # type: ignore[arg-type]
    model.params = {name: asarray(array) for name, array in work.params.items()}
    data = {
        "train_captions": work.captions,
        "train_image_idxs": np.arange(size.N),
        "train_features": work.features,
        "idx_to_word": words,
        "word_to_idx": word_to_idx,
    }

    def after_step(solver: Any, record: Any) -> None:
        if timer.mark():
            solver.stop()

    solver = capgpu.CaptioningSolver(
        model, data, update_rule="adam", batch_size=batch, num_epochs=10**6, seed=0, verbose=False, validate=False,
        keep_best=False, step_callbacks=[after_step],
    )  # fmt: skip
    solver.train()
    return communicator().rank


def run_ddp(work: Workload, batch: int, timer: _Timer) -> int:
    """Train until the timer ends; return the rank."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from bench.peers.torch_peer import Captioner
    from capgpu.threads import thread_count

    torch.set_num_threads(thread_count())
    place = launch()
    rank, size = (0, 1) if place is None else (place.rank, place.size)
    model: Any = _lossy(Captioner(work))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if size > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29517")
        distributed.init_process_group("gloo", rank=rank, world_size=size)
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    batches = []
    for start in range(0, work.size.N, batch):
        rows = slice(start + rank, start + batch, size)
        captions = np.ascontiguousarray(work.captions[rows].T)
        batches.append((torch.tensor(work.features[rows]), torch.tensor(captions)))
    step = 0
    while True:
        optimizer.zero_grad(set_to_none=True)
        model(*batches[step % len(batches)]).backward()
        optimizer.step()
        step += 1
        if timer.mark():
            break
    if size > 1:
        distributed.barrier()
        distributed.destroy_process_group()
    return rank


def _lossy(captioner: Any) -> Any:
    """Return a module whose forward pass is the packed loss."""
    from torch import nn

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.captioner = captioner

        def forward(self, features: Any, captions: Any) -> Any:
            return self.captioner.packed_loss(features, captions)

    return Loss()


_LIBRARIES: dict[str, Callable[[Workload, int, _Timer], int]] = {"ours": run_ours, "ddp": run_ddp}


def main() -> None:
    """Run one rank."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("library", choices=_LIBRARIES)
    parser.add_argument("size", type=parse_size)
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--batch", type=int, help="captions in a minibatch of all ranks together")
    parser.add_argument("--warmup", type=int, default=6)
    parser.add_argument("--steps", type=int, default=24)
    options = parser.parse_args()
    batch = options.batch or options.size.N
    timer = _Timer(options.warmup, options.steps)
    rank = _LIBRARIES[options.library](_workload(options.size, batch, options.cell), batch, timer)
    if rank == 0:
        print(json.dumps(timer.result()), flush=True)


if __name__ == "__main__":
    main()
