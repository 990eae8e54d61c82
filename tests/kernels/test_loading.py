"""Loading in a helper thread continues when the waiting thread is interrupted, and no thread waits forever."""

from __future__ import annotations

import contextvars
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from capgpu.kernels import loading
from capgpu.kernels.loading import undisturbed

POSIX = pytest.mark.skipif(os.name != "posix", reason="this system has no such signals")


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_results_and_errors_are_returned_to_the_caller():
    assert undisturbed(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        undisturbed(divmod, 7, 0)


def test_the_loader_thread_runs_in_the_callers_context():
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(5)
    thread, value = undisturbed(lambda: (threading.get_ident(), variable.get()))
    assert thread != threading.get_ident()
    assert value == 5


def test_a_helper_thread_serves_several_and_nested_calls():
    threads = {undisturbed(threading.get_ident) for _ in range(20)}
    assert len(threads) == 1
    assert undisturbed(lambda: undisturbed(threading.get_ident) == threading.get_ident())


def test_a_helper_thread_that_has_ended_is_replaced(monkeypatch):
    monkeypatch.setattr(loading, "LINGER", 0.01)
    monkeypatch.setattr(loading, "_idle", [])
    for _ in range(5):
        assert undisturbed(abs, -1) == 1
        time.sleep(0.03)
    assert not loading._idle


@POSIX
def test_an_exception_is_raised_at_once_and_the_loading_continues():
    assert (
        run("""
        import signal, threading, time
        from capgpu.kernels.loading import undisturbed
        def stop(number, frame): raise TimeoutError
        signal.signal(signal.SIGALRM, stop)
        done = []
        def slow():
            while not done:
                time.sleep(0.01)
            done.append(2)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            undisturbed(slow)
        except TimeoutError:
            done.append(1)
        while len(done) < 2:
            time.sleep(0.01)
        print(done)
    """)
        == "[1, 2]"
    )


@POSIX
def test_a_handler_may_load_while_the_interrupted_thread_waits():
    assert (
        run("""
        import signal, time
        from capgpu.kernels.loading import undisturbed
        seen = []
        signal.signal(signal.SIGALRM, lambda number, frame: seen.append(undisturbed(abs, -3)))
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        undisturbed(time.sleep, 0.4)
        print(seen)
    """)
        == "[3]"
    )


def test_a_helper_thread_that_never_starts_does_not_block_the_caller(monkeypatch):
    # a thread that is being started can receive the asynchronous exception of the one that starts it, and ends
    monkeypatch.setattr(loading, "START", 0.05)
    monkeypatch.setattr(loading, "_idle", [])
    monkeypatch.setattr(loading._Helper, "work", lambda helper: None)
    assert undisturbed(threading.get_ident) == threading.get_ident()


def test_without_threads_the_caller_loads_by_itself(monkeypatch):
    def refuse(function, args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(loading, "_idle", [])
    monkeypatch.setattr(loading._thread, "start_new_thread", refuse)
    assert undisturbed(threading.get_ident) == threading.get_ident()


def test_a_thread_inside_an_import_loads_by_itself(tmp_path, monkeypatch):
    (tmp_path / "loads_at_import.py").write_text(
        "import threading\nfrom capgpu.kernels.loading import undisturbed\n"
        "SAME = undisturbed(threading.get_ident) == threading.get_ident()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import loads_at_import

    assert loads_at_import.SAME


def test_a_compiling_thread_loads_by_itself(monkeypatch):
    monkeypatch.setattr(loading, "START", 60.0)  # on a busy machine the helper begins late
    pytest.importorskip("numba")
    from numba.core.compiler_lock import global_compiler_lock

    from capgpu.kernels.cpu import code_cache

    assert code_cache.holds_compiler_lock
    with global_compiler_lock:
        assert undisturbed(threading.get_ident) == threading.get_ident()
    assert undisturbed(threading.get_ident) != threading.get_ident()


FORKS = """
import os, signal, sys, time
from capgpu.kernels.loading import undisturbed
{handler}
signal.setitimer(signal.ITIMER_REAL, 0.1)
children = []
done = []
def slow():
    time.sleep(0.5)
    done.append(os.getpid())
try:
    undisturbed(slow)
except TimeoutError:
    children.append(os.fork())
assert done, "forked while a helper worked"
assert undisturbed(abs, -2) == 2
if children[0] == 0:
    os._exit(0)
assert os.waitpid(children[0], 0)[1] == 0
"""


@POSIX
@pytest.mark.parametrize(
    "handler",
    ["def handle(n, f): raise TimeoutError", "def handle(n, f): children.append(os.fork())"],
    ids=["after", "inside"],
)
def test_a_process_forks_when_helpers_have_ended_and_the_child_can_load(handler):
    run(FORKS.format(handler=handler + "\nsignal.signal(signal.SIGALRM, handle)"))


@POSIX
def test_signals_during_the_wait_of_a_fork_are_handled_after_it():
    assert (
        run("""
        import os, signal, time
        from capgpu.kernels.loading import undisturbed
        def stop(number, frame): raise TimeoutError(number)
        signal.signal(signal.SIGALRM, stop)
        done = []
        def slow():
            time.sleep(1.0)
            done.append(1)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            undisturbed(slow)
        except TimeoutError:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        child = None
        try:
            child = os.fork()
            if child == 0:
                time.sleep(0.5)  # the signal is not the child's
                os._exit(0 if done else 1)
            time.sleep(20)
        except TimeoutError as error:
            print(error, done, os.waitpid(child, 0)[1], signal.getsignal(signal.SIGALRM) is stop)
    """)
        == f"{int(signal.SIGALRM)} [1] 0 True"
    )


@POSIX
def test_signals_do_not_end_the_wait_at_the_end_of_the_process():
    run("""
        import atexit, os, signal, time
        from capgpu.kernels import loading
        def stop(number, frame): raise SystemExit
        signal.signal(signal.SIGALRM, stop)
        running = [1]
        def slow():
            try:
                while True:
                    time.sleep(0.01)
            finally:
                running.clear()
        atexit.unregister(loading._end)
        atexit.register(lambda: os._exit(3 if running else 0))
        atexit.register(loading._end)
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        loading.undisturbed(slow)
    """)


@POSIX
def test_at_the_end_of_the_process_a_long_loading_is_stopped():
    started = time.monotonic()
    run("""
        import signal, time
        from capgpu.kernels.loading import undisturbed
        def stop(number, frame): raise SystemExit
        signal.signal(signal.SIGALRM, stop)
        def slow():
            while True:
                time.sleep(0.01)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        undisturbed(slow)
    """)
    assert time.monotonic() - started < 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_no_fork_falls_into_the_next_of_several_calls() -> None:
    busy: list[int] = []

    def load() -> None:
        busy.append(1)
        time.sleep(0.12)
        busy.pop()

    def load_several() -> None:
        for _ in range(8):
            undisturbed(load)

    thread = threading.Thread(target=load_several)
    thread.start()
    states = []
    while thread.is_alive():
        time.sleep(0.01)
        child = os.fork()
        if child == 0:
            os._exit(len(busy))
        states.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    thread.join()
    assert set(states) == {0}
