"""The stage ``host``: host time of a training step, launched kernel by kernel and as CUDA graphs.

    python -m tools.gpu.host [--size S1] [--steps 200] [--calls 1000] [--lines 25]

First come the single calls of CuPy and of this package that a step consists of. Then, for each of the two modes:

- a step by the host's clock, without a profiler: until its launches have returned (`host`), and until the device has
  finished as well (`wall`), medians of batches of steps;
- its functions, profiled with cProfile: calls and microseconds per step, own and cumulative time. The profiler slows
  Python functions down but not the C code that they call, so only the line above gives a step's true time. Time in
  CuPy's compiled code counts as own time of the Python function that calls it.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.peers import NoDeviceError, cuda_ours
from bench.workloads import make_workload, parse_size
from tools.gpu.stages import NO_DEVICE

__all__ = ["main", "profile", "single_calls", "time_steps"]

_BATCHES = 5
_ROOT = str(Path(__file__).resolve().parents[2])


def time_steps(run: Callable[[], object], steps: int) -> tuple[float, float]:
    """Time steps by the host's clock.

    Parameters
    ----------
    run : callable
        Launches a step.
    steps : int
        Number of steps, divided into batches of which the median is returned.

    Returns
    -------
    host, wall : float
        Milliseconds a step until its launches have returned, and until the device has finished as well.
    """
    import cupy

    times = []
    for _ in range(_BATCHES):
        cupy.cuda.runtime.deviceSynchronize()
        steps_per_batch = max(steps // _BATCHES, 1)
        started = time.perf_counter()
        for _ in range(steps_per_batch):
            run()
        launched = time.perf_counter()
        cupy.cuda.runtime.deviceSynchronize()
        times.append(
            ((launched - started) / steps_per_batch * 1e3, (time.perf_counter() - started) / steps_per_batch * 1e3)
        )
    host, wall = (median(column) for column in zip(*times, strict=True))
    return host, wall


def profile(run: Callable[[], object], steps: int, lines: int) -> list[str]:
    """Profile steps.

    Parameters
    ----------
    run : callable
        Launches a step.
    steps : int
        Number of profiled steps.
    lines : int
        Number of functions in each table.

    Returns
    -------
    list of str
        Lines of two tables: by own time and by cumulative time.
    """
    import cupy

    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(steps):
        run()
    profiler.disable()
    cupy.cuda.runtime.deviceSynchronize()
    stats: dict[tuple[str, int, str], Any] = vars(pstats.Stats(profiler))["stats"]
    text = []
    for heading, column in (("own time", 2), ("cumulative time", 3)):
        text += ["", f"by {heading}, us a step:", f"{'calls':>8} {'own':>9} {'all':>9}  function"]
        for location, entry in sorted(stats.items(), key=lambda item: -item[1][column])[:lines]:
            _, calls, own_seconds, total_seconds, _ = entry
            microseconds = [seconds / steps * 1e6 for seconds in (own_seconds, total_seconds)]
            text.append(f"{calls / steps:8.1f} {microseconds[0]:9.1f} {microseconds[1]:9.1f}  {_place(*location)}")
    return text


def _place(file: str, line: int, function: str) -> str:
    """Return a function's location without the prefix of the checkout or of site-packages."""
    if file == "~":
        return function
    short = file.removeprefix(_ROOT + "/").rpartition("site-packages/")[2]
    return f"{short}:{line} {function}"


def single_calls(size: str, count: int) -> list[tuple[str, float]]:
    """Time single calls that steps are made of.

    Parameters
    ----------
    size : str
        Of `bench.workloads`, for the recurrence.
    count : int
        Number of calls of each, few enough for the device's launch queue to hold them.

    Returns
    -------
    list of (str, float)
        A label, and the host's microseconds per call: the minimum over several batches.
    """
    import cupy

    from capgpu.kernels.cuda import KERNELS, compile, gemm, stopwatch, tuning
    from capgpu.kernels.cuda.launch_heuristics import choose
    from capgpu.kernels.cuda.pinned import PinnedMemory
    from capgpu.kernels.cuda.workspace import workspace

    work = make_workload(parse_size(size), "lstm")
    H, N, T = work.size.H, work.size.N, work.size.T
    runtime, stream, event = cupy.cuda.runtime, cupy.cuda.Stream.null, cupy.cuda.Event(disable_timing=True)
    array, other = cupy.zeros((64, 512), np.float32), cupy.zeros((512, 512), np.float32)
    out, host_array = cupy.empty_like(array), np.zeros(3000, np.int32)
    dev_array, pinned = cupy.zeros(3000, np.int32), PinnedMemory()
    spin, spin_result = compile.kernel("spin", "float32"), cupy.zeros(32, np.uint32)
    passes = tuning.passes("lstm", "float32", H, N, T)
    resident = choose("lstm_forward", "float32", H, N, T)
    calls: dict[str, Callable[[], object]] = {
        "a call of nothing": lambda: None,
        "cupy.cuda.runtime.getDevice": runtime.getDevice,
        "cupy.cuda.runtime.getDeviceCount": runtime.getDeviceCount,
        "cupy.cuda.get_current_stream": cupy.cuda.get_current_stream,
        "cupy.empty": lambda: cupy.empty((64, 512), np.float32),
        "array[:32]": lambda: array[:32],
        "array.T": lambda: array.T,
        "array.data.ptr": lambda: array.data.ptr,
        "array.shape, dtype, flags": lambda: (array.shape, array.dtype, array.flags.c_contiguous),
        "cupy.asarray of 12 KB": lambda: cupy.asarray(host_array),
        "PinnedMemory.send of 12 KB": lambda: pinned.send([(dev_array, host_array)]),
        "copy on the device": lambda: out.data.copy_from_device_async(array.data, array.nbytes),
        "memset": lambda: out.data.memset_async(0, out.nbytes),
        "event.record": lambda: event.record(stream),
        "event.done": lambda: event.done,
        "RawKernel, the shortest": lambda: spin._function((1,), (32,), (spin_result, np.int32(1))),
        "Kernel, the shortest": lambda: spin(1, 32, (spin_result, np.int32(1))),
        "module.kernel": lambda: compile.kernel("spin", "float32"),
        "launch_heuristics.choose": lambda: choose("lstm_forward", "float32", H, N, T),
        "workspace()": workspace,
        "product, ours": lambda: gemm.product(array, other, out),
        "product, CuPy's": lambda: cupy.matmul(array, other, out=out),
        f"lstm_forward, {resident.algorithm}": lambda: passes["lstm_forward"](resident),
        "caption_batch": lambda: KERNELS.caption_batch(work.captions, 0, work.size.V, array),
        "stopwatch.spin": lambda: stopwatch.spin(1),
    }
    return [(what, _shortest(call, max(count // _BATCHES, 1))) for what, call in calls.items()]


def _shortest(call: Callable[[], object], count: int) -> float:
    """Return the host's microseconds per call: the minimum over batches, each started with an empty launch queue."""
    import cupy

    microseconds = []
    for _ in range(_BATCHES):
        cupy.cuda.runtime.deviceSynchronize()
        started = time.perf_counter()
        for _ in range(count):
            call()
        microseconds.append((time.perf_counter() - started) / count * 1e6)
    return min(microseconds[1:])  # the first warms up


def main(argv: Sequence[str] | None = None) -> int:
    """Print all tables; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu.host", description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="S1", help="of bench.workloads")
    parser.add_argument("--steps", type=int, default=200, help="number of steps timed and profiled in each mode")
    parser.add_argument("--calls", type=int, default=1000, help="number of repetitions of each single call")
    parser.add_argument("--lines", type=int, default=25, help="number of functions in a table")
    args = parser.parse_args(argv)
    try:
        about = cuda_ours.versions()
    except NoDeviceError as error:
        print(f"nothing to time: {error}", file=sys.stderr)
        return NO_DEVICE
    if about["emulated"]:
        print("computed by the stand-in for CuPy: these times say nothing about a device or a driver")
    for what, us in single_calls(args.size, args.calls):
        print(f"{us:9.2f} us  {what}")
    for mode in ("cuda", "graphed"):
        task = cuda_ours.make_task(mode, make_workload(parse_size(args.size), "lstm"), "adam")
        for _ in range(3):
            task.launch()
        host, wall = time_steps(task.launch, args.steps)
        launch_mode = "CUDA graphs" if mode == "graphed" else "launched one by one"
        print(f"\n{args.size}, LSTM, Adam, {launch_mode}: host {host:.4f} ms a step, wall {wall:.4f} ms")
        print("\n".join(profile(task.launch, args.steps, args.lines)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
