"""The stage ``host``: what a training step costs the host, launched one by one and as CUDA graphs.

    python -m tools.gpu.host [--size S1] [--steps 200] [--calls 1000] [--lines 25]

First come single calls of CuPy and of this package, of which a step is made. Then, for each of the two ways:

- a step by the host's clock, without a profiler: until its launches have returned (`host`), and until the device has
  finished as well (`wall`), medians of batches of steps;
- its functions, profiled with cProfile: calls and microseconds a step, own time and time with all that is called. The
  profiler makes functions of Python slower, and not what they call in C: the sum is what the line above says. Time in
  CuPy's compiled code counts as own time of the function of Python that calls it.
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
        In all, in batches of which the median is taken.

    Returns
    -------
    host, wall : float
        Milliseconds a step until its launches have returned, and until the device has finished as well.
    """
    import cupy

    times = []
    for _ in range(_BATCHES):
        cupy.cuda.runtime.deviceSynchronize()
        count = max(steps // _BATCHES, 1)
        began = time.perf_counter()
        for _ in range(count):
            run()
        launched = time.perf_counter()
        cupy.cuda.runtime.deviceSynchronize()
        times.append(((launched - began) / count * 1e3, (time.perf_counter() - began) / count * 1e3))
    host, wall = (median(column) for column in zip(*times, strict=True))
    return host, wall


def profile(run: Callable[[], object], steps: int, lines: int) -> list[str]:
    """Profile steps.

    Parameters
    ----------
    run : callable
        Launches a step.
    steps : int
        Their number.
    lines : int
        Functions that each table shows.

    Returns
    -------
    list of str
        Two tables: by own time, and by time with all that is called.
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
    for heading, column in (("own time", 2), ("time with all that is called", 3)):
        text += ["", f"by {heading}, us a step:", f"{'calls':>8} {'own':>9} {'all':>9}  function"]
        for where, entry in sorted(stats.items(), key=lambda item: -item[1][column])[:lines]:
            _, calls, own, everything, _ = entry
            us = [seconds / steps * 1e6 for seconds in (own, everything)]
            text.append(f"{calls / steps:8.1f} {us[0]:9.1f} {us[1]:9.1f}  {_place(*where)}")
    return text


def _place(file: str, line: int, function: str) -> str:
    """Return where a function is, without the folders that all have in common."""
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
        Calls that are made of each, few enough for the queue of a device to hold them.

    Returns
    -------
    list of (str, float)
        What, and microseconds of the host for one. The shortest of several batches of calls.
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
    out, host = cupy.empty_like(array), np.zeros(3000, np.int32)
    there, pinned = cupy.zeros(3000, np.int32), PinnedMemory()
    spin, spun = compile.kernel("spin", "float32"), cupy.zeros(32, np.uint32)
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
        "cupy.asarray of 12 KB": lambda: cupy.asarray(host),
        "PinnedMemory.send of 12 KB": lambda: pinned.send([(there, host)]),
        "copy on the device": lambda: out.data.copy_from_device_async(array.data, array.nbytes),
        "memset": lambda: out.data.memset_async(0, out.nbytes),
        "event.record": lambda: event.record(stream),
        "event.done": lambda: event.done,
        "RawKernel, the shortest": lambda: spin._function((1,), (32,), (spun, np.int32(1))),
        "Kernel, the shortest": lambda: spin(1, 32, (spun, np.int32(1))),
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
    """Return the host's microseconds for a call: the least over batches, each into an idle queue."""
    import cupy

    found = []
    for _ in range(_BATCHES):
        cupy.cuda.runtime.deviceSynchronize()
        began = time.perf_counter()
        for _ in range(count):
            call()
        found.append((time.perf_counter() - began) / count * 1e6)
    return min(found[1:])  # the first warms up


def main(argv: Sequence[str] | None = None) -> int:
    """Print all tables; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu.host", description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="S1", help="of bench.workloads")
    parser.add_argument("--steps", type=int, default=200, help="that are timed, and profiled, in each way")
    parser.add_argument("--calls", type=int, default=1000, help="of each of the single calls")
    parser.add_argument("--lines", type=int, default=25, help="functions in a table")
    args = parser.parse_args(argv)
    try:
        about = cuda_ours.versions()
    except NoDeviceError as error:
        print(f"nothing to time: {error}", file=sys.stderr)
        return NO_DEVICE
    if about["emulated"]:
        print("a stand-in computes: its times are no device's, and no driver's")
    for what, us in single_calls(args.size, args.calls):
        print(f"{us:9.2f} us  {what}")
    for mode in ("cuda", "graphed"):
        task = cuda_ours.make_task(mode, make_workload(parse_size(args.size), "lstm"), "adam")
        for _ in range(3):
            task.launch()
        host, wall = time_steps(task.launch, args.steps)
        way = "CUDA graphs" if mode == "graphed" else "launched one by one"
        print(f"\n{args.size}, LSTM, Adam, {way}: host {host:.4f} ms a step, wall {wall:.4f} ms")
        print("\n".join(profile(task.launch, args.steps, args.lines)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
