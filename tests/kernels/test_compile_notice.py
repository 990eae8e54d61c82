"""Compilation that takes time is announced on stderr, and its time does not count as training."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import capgpu.kernels
import capgpu.kernels.cpu
from capgpu.kernels import compile_seconds
from capgpu.kernels.cpu import compile_notice
from capgpu.training.reporting import clock

COMPILING = """
import sys
import numpy as np
from capgpu.kernels.cpu import compile_notice, embedding
compile_notice.PATIENCE = 0.0
print(embedding.embedding_gradient(np.ones((2, 3)), np.array([1, 1]), 2).tolist(), compile_notice.notice.seconds > 0)
"""


def of(module: str = "capgpu.kernels.cpu.lstm") -> SimpleNamespace:
    return SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=SimpleNamespace(__module__=module))})


@pytest.fixture
def shown(capsys):
    """Give all that has been written to stderr."""
    text = ""

    def read():
        nonlocal text
        text += capsys.readouterr().err
        return text

    return read


@pytest.fixture
def notice(monkeypatch):
    monkeypatch.setattr(compile_notice, "PATIENCE", 0.02)
    return compile_notice.Notice()


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_long_compilation_prints_one_line(notice, shown):
    notice.on_start(of())
    wait_for(shown)
    assert shown() == "capgpu: compiling the kernels of lstm for this processor, once ..."
    notice.on_start(of("capgpu.kernels.cpu.gemm"))  # what it calls
    notice.on_end(of("capgpu.kernels.cpu.gemm"))
    assert not shown().endswith("\n")
    notice.on_end(of())
    assert shown() == "capgpu: compiling the kernels of lstm for this processor, once ... 0 s\n"
    assert 0.02 <= notice.seconds < 20


def test_a_notice_that_cannot_be_printed_stops_no_compilation(notice, shown, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    notice.on_start(of())
    time.sleep(0.01)
    notice.on_end(of())
    assert notice.seconds >= 0.01
    assert shown() == ""


def test_a_signal_handler_may_compile_while_a_line_is_written(notice, monkeypatch):
    written = []

    def write(text):
        written.append(text)
        if len(written) == 2:  # the end of the line: as in a handler
            notice.on_start(of())
            notice.on_end(of())

    monkeypatch.setattr(compile_notice, "_write", write)
    notice.on_start(of())
    wait_for(lambda: written)
    ending = threading.Thread(target=notice.on_end, args=[of()], daemon=True)
    ending.start()
    ending.join(20)
    assert not ending.is_alive()
    assert len(written) >= 2


def test_a_short_compilation_prints_nothing(notice, shown, monkeypatch):
    monkeypatch.setattr(compile_notice, "PATIENCE", 3600.0)
    notice.on_start(of())
    timer = notice._timer
    notice.on_end(of())
    timer.join(20)
    assert not timer.is_alive()
    assert shown() == ""
    assert notice.seconds > 0


def test_a_timer_that_fires_after_the_compilation_prints_nothing(notice, shown):
    notice.on_start(of())
    timer = notice._timer
    notice.on_end(of())
    timer.join(20)
    assert shown().count("capgpu") == shown().count("\n")


def test_compilations_of_other_packages_are_not_counted(notice, shown):
    notice.on_start(of("somebody.else"))
    assert notice._timer is None
    notice.on_end(of("somebody.else"))
    assert (notice.seconds, shown()) == (0.0, "")


@pytest.mark.parametrize("stream", [None, "closed"])
def test_without_stderr_nothing_fails(notice, monkeypatch, stream):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if stream else None)
    notice.on_start(of())
    wait_for(lambda: notice._written)
    notice.on_end(of())
    assert notice.seconds > 0


def test_training_time_excludes_compilation(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 1000.0)
    monkeypatch.setattr(capgpu.kernels.cpu.notice, "seconds", 0.0)
    assert clock() == 1000.0
    monkeypatch.setattr(capgpu.kernels.cpu.notice, "seconds", 40.0)
    assert clock() == 960.0
    assert compile_seconds() == 40.0


def test_the_compile_time_is_zero_before_kernels_are_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "capgpu.kernels.cpu.compile_notice")
    assert compile_seconds() == 0.0


def test_the_first_process_prints_the_notice_and_the_second_does_not(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(capgpu.__file__).parents[1])}
    shown = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", COMPILING], env=environment, capture_output=True, text=True, timeout=800, check=True
        )
        shown.append((done.stdout, done.stderr))
    assert shown[0][0] == "[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]] True\n"
    lines = shown[0][1].splitlines()
    assert re.fullmatch(r"capgpu: compiling the kernels of embedding for this processor, once \.\.\. \d+ s", lines[0])
    assert shown[1] == ("[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]] False\n", "")
