"""Tables of whole training steps, of single kernels, and of the card's attainable bandwidth and arithmetic rate."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bench.workloads import CELLS, make_workload, parse_size
from capgpu.kernels.cuda.stopwatch import device_time
from tools.gpu.tables import Part, require_torch
from tools.gpu.time_recurrences import shown

__all__ = ["alone", "ceilings", "launches", "steps"]

_FILLER_MS = 20.0


def wall_ms(run: Callable[[], object], count: int) -> float:
    """Return wall milliseconds per step for `count` steps launched back to back, after a tenth as many for warm-up."""
    import cupy

    def loop(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            run()
        cupy.cuda.runtime.deviceSynchronize()
        return time.perf_counter() - started

    loop(-(-count // 10))
    return round(loop(count) / count * 1e3, 5)


def ceilings(count: int, side: int, batches: int) -> Part:
    """Return the table of the card's attainable rates: a copy, and products of square matrices.

    Parameters
    ----------
    count : int
        Elements of the array that is copied: more than the L2 cache holds.
    side : int
        Order of the square matrices.
    batches : int
        Number of batches of which each figure is the median.
    """

    def rows() -> Iterator[list[Any]]:
        import cupy

        source = cupy.ones(count, np.float32)
        destination = cupy.empty_like(source)
        elapsed = device_time(lambda: cupy.copyto(destination, source), batches)
        yield ["copy", shown(elapsed), f"{2 * source.nbytes / elapsed.milliseconds / 1e9:.3f} TB/s"]
        for dtype in (np.float32, np.float16):
            a, b = (cupy.ones((side, side), dtype) for _ in range(2))
            c = cupy.empty_like(a)
            elapsed = device_time(lambda a=a, b=b, c=c: cupy.matmul(a, b, out=c), batches, 1)
            rate = 2 * side**3 / elapsed.milliseconds / 1e9
            yield [f"product, {np.dtype(dtype).name}", shown(elapsed), f"{rate:.1f} TFLOP/s"]
        query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,power.draw", "--format=csv,noheader"]
        try:
            clocks = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        except OSError as error:
            clocks = str(error)
        yield ["clocks after that", "", clocks]

    return Part("ceilings", ("what", "ms", "rate"), rows)


def steps(sizes: Sequence[str], batches: int, count: int) -> Part:
    """Return the table of a training step with Adam, as training executes it, beside PyTorch's.

    Parameters
    ----------
    sizes : sequence of str
        Names of `bench.workloads`.
    batches : int
        Number of batches of which each device time is the median.
    count : int
        Number of steps timed by the host's clock.
    """

    def runs(size: str, cell: str, job: str) -> Iterator[tuple[str, Callable[[], Callable[[], object]]]]:
        work = make_workload(parse_size(size), cell)

        def ours(mode: str) -> Callable[[], object]:
            from bench.peers import cuda_ours

            launch: Callable[[], object] = cuda_ours.make_task(mode, work, job).launch
            return launch

        def torch(mode: str) -> Callable[[], object]:
            from bench.peers import cuda_torch

            task = cuda_torch.make_task(mode, work, job)
            task.build()
            return task.launch

        yield "capgpu", lambda: ours("cuda")
        yield "capgpu graphed", lambda: ours("graphed")
        for mode in ("padded", "packed", "graphed"):
            yield f"torch {mode}", lambda mode=mode: torch(mode)

    def rows() -> Iterator[list[Any]]:
        for size in sizes:
            for cell in CELLS:
                for job in ("adam", "adam-dropout"):
                    for implementation, make in runs(size, cell, job):
                        try:
                            run = make()
                            yield [
                                size,
                                cell,
                                job,
                                implementation,
                                shown(device_time(run, batches, 2)),
                                wall_ms(run, count),
                            ]
                        except Exception as error:  # a competitor that is missing or fails does not end the table
                            if implementation == "capgpu":
                                raise
                            yield [size, cell, job, implementation, f"{type(error).__name__}: {error}"[:200], ""]

    return Part("training steps, float32", ("size", "cell", "job", "who", "ms", "wall ms"), rows)


def launches(sizes: Sequence[str], count: int) -> Part:
    """Return the table of the launches of a capgpu training step, each timed within the step.

    Parameters
    ----------
    sizes : sequence of str
        Names of `bench.workloads`.
    count : int
        Number of steps of which each figure is the median.
    """

    def rows() -> Iterator[list[Any]]:
        from bench.cuda.timing import time_launches
        from bench.peers import cuda_ours

        for size in sizes:
            for cell in CELLS:
                for job in ("adam", "adam-dropout"):
                    task = cuda_ours.make_task("cuda", make_workload(parse_size(size), cell), job)
                    for place, (name, ms) in enumerate(time_launches(task, count, _FILLER_MS), start=1):
                        yield [size, cell, job, place, name, round(ms * 1e3, 2)]

    return Part("launches of a step", ("size", "cell", "job", "place", "launch", "us"), rows)


def alone(rows_count: int, vocabulary: int, H: int, batches: int) -> Part:
    """Return the table of kernels timed alone, with the rate at which they move or compute the necessary minimum.

    Parameters
    ----------
    rows_count, vocabulary : int
        Shape of the scores.
    H : int
        Hidden units, and length of a word vector.
    batches : int
        Number of batches of which each figure is the median.
    """
    M, V = rows_count, vocabulary
    shapes = [(V, H), (4 * H, H), (H,), (H, 4 * H), (H, 4 * H), (4 * H,), (H, V), (V,)]

    def entry(what: str, run: Callable[[], object], count: float, unit: str = "TB/s") -> list[Any]:
        elapsed = device_time(run, batches)
        return [what, shown(elapsed), f"{count / elapsed.milliseconds / 1e9:.3f} {unit}"]

    def rows() -> Iterator[list[Any]]:
        yield from _capgpu_rows(entry, M, V, H, shapes)
        yield from _torch_rows(entry, M, V, shapes)

    return Part("kernels alone", ("what", "ms", "rate"), rows)


def _capgpu_rows(entry: Callable[..., list[Any]], M: int, V: int, H: int, shapes: Any) -> Iterator[list[Any]]:
    import cupy

    from capgpu.kernels.cuda import KERNELS

    random = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return cupy.asarray(random.standard_normal(shape).astype(np.float32))

    scores, targets = draw(M, V), cupy.asarray(random.integers(0, V, M).astype(np.int32))
    # later calls take the gradient that the first has written as scores: the time does not depend on the values
    yield entry("softmax and gradient", lambda: KERNELS.softmax_cross_entropy(scores, targets, 1e-3), 2 * scores.nbytes)
    yield entry("column sums of the scores", lambda: KERNELS.column_sums(scores), scores.nbytes)
    params, grads, first_moments = ([draw(*shape) for shape in shapes] for _ in range(3))
    second_moments = [array * array for array in first_moments]
    settings = np.tile([1e-3, 0.9, 0.1, 0.999, 0.001, 1.0, 1e-8, 1.0], (len(shapes), 1))
    bytes_moved = 7 * sum(array.nbytes for array in params)
    yield entry(
        "Adam", lambda: KERNELS.adam_update(params, grads, first_moments, second_moments, settings, 1.0), bytes_moved
    )
    for what, m, k, n in (("scores", M, H, V), ("gradient of Wh", H, M, 4 * H)):
        a, b, c = draw(m, k), draw(k, n), cupy.empty((m, n), np.float32)
        yield entry(f"product: {what}", lambda a=a, b=b, c=c: cupy.matmul(a, b, out=c), 2 * m * k * n, "TFLOP/s")


def _torch_rows(entry: Callable[..., list[Any]], M: int, V: int, shapes: Any) -> Iterator[list[Any]]:
    torch = require_torch()
    logits = torch.randn(M, V, device="cuda", requires_grad=True)
    targets = torch.randint(0, V, (M,), device="cuda")

    def softmax() -> None:
        torch.autograd.grad(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), logits)

    yield entry("torch: softmax and gradient", softmax, 2 * logits.nbytes)
    yield entry("torch: column sums of the scores", lambda: logits.detach().sum(0), logits.nbytes)
    params = [torch.nn.Parameter(torch.randn(*shape, device="cuda")) for shape in shapes]
    for param in params:
        param.grad = torch.randn_like(param)
    adam = torch.optim.Adam(params, lr=1e-3, fused=True)
    yield entry("torch: Adam, fused", adam.step, 7 * sum(param.nbytes for param in params))
