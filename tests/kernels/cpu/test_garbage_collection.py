"""While kernels are compiled the garbage collector searches rarely; afterwards its thresholds are the caller's."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from capgpu.kernels.cpu import code_cache, embedding
from capgpu.kernels.cpu.garbage_collection import COMPILING, rare_collections


@pytest.fixture(params=[(700, 10, 10), (0, 10, 10), (50_000, 5, 5)], ids=str)
def thresholds(request):
    before = gc.get_threshold()
    gc.set_threshold(*request.param)
    yield request.param
    gc.set_threshold(*before)


def test_thresholds_are_raised_and_restored(thresholds):
    with rare_collections(), rare_collections():
        assert gc.get_threshold() == (COMPILING if thresholds[0] == 700 else thresholds)
    assert gc.get_threshold() == thresholds


def test_an_exception_restores_them(thresholds):
    with pytest.raises(KeyboardInterrupt), rare_collections():
        raise KeyboardInterrupt
    assert gc.get_threshold() == thresholds


def test_what_is_set_meanwhile_stays(thresholds):
    with rare_collections():
        gc.set_threshold(123, 4, 5)
    assert gc.get_threshold() == (123, 4, 5)


def test_the_last_of_several_threads_restores_them(thresholds):
    entered, leave = threading.Event(), threading.Event()

    def stay():
        with rare_collections():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=stay)
    with rare_collections():
        thread.start()
        assert entered.wait(30)
    raised = COMPILING if thresholds[0] == 700 else thresholds
    assert gc.get_threshold() == raised
    leave.set()
    thread.join()
    assert gc.get_threshold() == thresholds


def test_they_are_raised_while_a_kernel_is_compiled(monkeypatch, tmp_path):
    before, during = gc.get_threshold(), []
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(code_cache, "missing", [lambda: during.append(gc.get_threshold())])
    rows = embedding.take_rows(np.ones((2, 2), np.int16), np.zeros(1, np.int64))  # a type that nothing else compiles
    assert rows.tolist() == [[1, 1]]
    assert set(during) == {COMPILING}
    assert gc.get_threshold() == before
