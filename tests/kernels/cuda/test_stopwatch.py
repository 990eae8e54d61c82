"""Device times are taken behind a filler, without a wait in between, and say so where the queue ran empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cells import CELLS
from capgpu.kernels.cuda import compile, stopwatch, tuning, workspace
from capgpu.kernels.cuda.device_calls import counting
from simulators.cupy_standin import stream


@pytest.fixture
def log(standin: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """List what happens in order: launches by name, ``event`` and ``wait``. The device is always behind the host."""
    capgpu.set_backend("cuda")
    compile.forget()
    workspace.forget()
    happened: list[str] = []
    synchronised, record = stream.synchronised, stream.Event.record

    def wait(operation: str) -> None:
        happened.append("wait")
        synchronised(operation)

    def event(self: Any, *given: Any) -> None:
        happened.append("event")
        record(self, *given)

    monkeypatch.setattr(stream, "synchronised", wait)
    monkeypatch.setattr(stream.Event, "record", event)
    monkeypatch.setattr(stream.Event, "done", property(lambda self: False))
    stopwatch.forget()
    yield happened
    for part in (stopwatch, compile, workspace):
        part.forget()


def measured(log: list[str], run: Callable[[], object], **settings: int) -> tuple[stopwatch.Elapsed, list[str]]:
    """Measure, and return what happened from the first filler of a batch on."""
    with counting(log):
        stopwatch.fill(0.01)  # calibrates
        del log[:]
        elapsed = stopwatch.device_time(run, **settings)
    first = log.index("wait")  # warm-up ends with the first wait, timing of the host with the second
    return elapsed, log[log.index("wait", first + 1) + 1 :]


def test_a_filler_precedes_each_batch_and_nothing_is_waited_for_until_its_end(log):
    elapsed, happened = measured(log, lambda: log.append("work"), batches=3, calls=2)
    assert happened == ["spin", "event", "work", "work", "event", "wait"] * 3
    assert elapsed.queued
    assert elapsed.milliseconds > 0


@pytest.mark.parametrize("cell", CELLS)
def test_timing_a_configuration_does_not_synchronize_within_a_batch(log, cell, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with counting(log):
        waits = tuning.measure(cell, "float32", 8, 3, 2, repeats=1)
    assert {entry.config.algorithm for entry in waits} == {"persistent", "step", "matmul"}
    assert all(entry.queued for entry in waits)
    end_events = [index for index, name in enumerate(log) if name == "event"]
    for start, end in zip(end_events[-2::-2], end_events[::-2], strict=False):
        assert "wait" not in log[start:end]
    assert log.count("wait") == 2 + 3 * len(waits)  # twice to calibrate; warm-up, host, batch of each configuration


def test_a_slow_host_gets_a_longer_filler_and_finally_an_unqueued_figure(log, monkeypatch):
    monkeypatch.setattr(stream.Event, "done", property(lambda self: True))
    turns: list[int] = []
    real = stopwatch.spin
    monkeypatch.setattr(stopwatch, "spin", lambda count: (turns.append(count), real(count)))
    elapsed, _ = measured(log, lambda: None, batches=2, calls=1)
    assert not elapsed.queued
    first, second, third, *rest = turns[-4:]
    assert first < second < third
    assert rest == [third]


def test_calls_that_take_the_host_long_are_few_in_a_batch(log, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(clock) * 2e-3)  # 2 ms a call
    monkeypatch.setattr(stopwatch, "fill", lambda milliseconds: log.append(f"fill {milliseconds:.1f}"))
    _, happened = measured(log, lambda: log.append("work"), batches=1, calls=8)
    assert happened == ["fill 4.2", "event", "work", "event", "wait"]


def test_the_spinning_kernel_computes_every_turn(device):
    x = np.arange(1, 33, dtype=np.uint32)
    for _ in range(2 * 256):
        for left, distance in ((True, 13), (False, 17), (True, 5)):
            x ^= x << np.uint32(distance) if left else x >> np.uint32(distance)
    stopwatch.spin(2)
    assert (workspace.workspace().take("spin", (32,), np.uint32).get() == x).all()


def test_a_filler_of_no_length_launches_nothing_and_calibrates_nothing(log):
    with counting(log):
        stopwatch.fill(0.0)
    assert log == []
