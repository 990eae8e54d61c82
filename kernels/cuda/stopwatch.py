"""Device time of launched work, measured without waiting for the host.

Launching many of these kernels takes the host longer than executing them takes the device, so events around launches
into an idle stream would measure the host. Here a spinning kernel (spin.cu) is launched first, then events and work,
and the device starts the work when all of it has been queued. This is verified: the event before the work must not have
completed when the host has launched everything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from statistics import median

import numpy as np

from capgpu.kernels.cuda.compile import kernel
from capgpu.kernels.cuda.workspace import workspace

__all__ = ["Elapsed", "device_time", "fill", "forget", "spin"]

_WARP = 32
#: Turns whose duration is measured once on each device: about 0.1 ms on an H100.
_CALIBRATION_TURNS = 100
_MAX_TURNS = 2**31 - 1
_WARM_UP_CALLS = 3
#: Maximum host time of a batch. CUDA's launch queue has about 1,000 entries; at 5 us each, 3 ms stay below that.
_BATCH_HOST_MS = 3.0
#: Duration of the filler relative to the host time of a batch, plus a margin for the events.
_FILLER_FACTOR = 2.0
_FILLER_MARGIN_MS = 0.2
#: How often the filler is doubled if the host was too slow.
_MAX_DOUBLINGS = 2

_turn_ms: dict[int, float] = {}


@dataclass(frozen=True)
class Elapsed:
    """Device time of one call.

    Attributes
    ----------
    milliseconds : float
        Median over batches of the mean of a batch's calls.
    queued : bool
        Whether every batch was queued completely before the device reached it. False means that the host was too
        slow, or that the call waits for the device: the figure then includes host time.
    """

    milliseconds: float
    queued: bool


def forget() -> None:
    """Clear the calibration of every device."""
    _turn_ms.clear()


def spin(turns: int) -> None:
    """Launch the spinning kernel on the current stream.

    Parameters
    ----------
    turns : int
        Its length, in units of 256 dependent steps.
    """
    out = workspace().take("spin", (_WARP,), np.uint32)
    kernel("spin", "float32")(1, _WARP, (out, np.int32(turns)))


def fill(milliseconds: float) -> None:
    """Launch work of about a given length on the current stream.

    The first call on a device measures how long a turn takes, and waits for that.

    Parameters
    ----------
    milliseconds : float
        Length; nothing is launched for 0 or less.
    """
    if milliseconds <= 0:
        return
    cuda = import_module("cupy").cuda
    device = cuda.runtime.getDevice()
    turn_ms = _turn_ms.get(device)
    if turn_ms is None:
        for _ in range(2):  # the first launch loads the kernel
            start, end = cuda.Event(), cuda.Event()
            start.record()
            spin(_CALIBRATION_TURNS)
            end.record()
            end.synchronize()
        # at least a nanosecond, so that a clock without resolution does not divide by zero
        turn_ms = max(float(cuda.get_elapsed_time(start, end)) / _CALIBRATION_TURNS, 1e-6)
        _turn_ms[device] = turn_ms
    spin(min(math.ceil(milliseconds / turn_ms), _MAX_TURNS))


def device_time(run: Callable[[], object], batches: int = 5, calls: int = 4) -> Elapsed:
    """Measure the device time of work that a function launches on the current stream.

    Parameters
    ----------
    run : callable
        Launches the work. It is called 4 times before the measurement.
    batches : int
        Measurements, of which the median is taken.
    calls : int
        Most calls in a batch. There are fewer where the host needs more than 3 ms to make them.

    Returns
    -------
    Elapsed
        Device time of one call.
    """
    cuda = import_module("cupy").cuda
    fill(_FILLER_MARGIN_MS)  # calibrated before anything is measured
    for _ in range(_WARM_UP_CALLS):
        run()
    cuda.get_current_stream().synchronize()
    start_time = time.perf_counter()
    run()
    host_ms = (time.perf_counter() - start_time) * 1e3
    cuda.get_current_stream().synchronize()
    calls = max(1, min(calls, int(_BATCH_HOST_MS / max(host_ms, 1e-3))))
    filler_ms = _FILLER_FACTOR * calls * host_ms + _FILLER_MARGIN_MS
    times: list[float] = []
    queued, doublings = True, 0
    while len(times) < batches:
        start, end = cuda.Event(), cuda.Event()
        fill(filler_ms)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        queued_in_time = not start.done
        end.synchronize()
        if not queued_in_time and doublings < _MAX_DOUBLINGS:
            doublings, filler_ms = doublings + 1, 2 * filler_ms
            continue
        queued = queued and queued_in_time
        times.append(float(cuda.get_elapsed_time(start, end)) / calls)
    return Elapsed(median(times), queued)
