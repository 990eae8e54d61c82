"""Import and load without interruption: in a thread that no exception from outside can reach.

Python runs signal handlers in the main thread only, and `PyThreadState_SetAsyncExc` raises in the thread that it names.
An exception in the midst of an import, of Numba's reading of its tables, or of a callback from LLVM leaves these
libraries half loaded (later calls raise KeyError or AttributeError), or is printed and dropped. What they do therefore
runs in a helper thread. The calling thread waits. An exception from outside is raised at once where it waits, while
the helper goes on; the next call that needs the same finds it loaded, or waits for the locks of the import system
and of Numba's compiler.

The process does not end, and does not fork, while a helper works: code of LLVM must not run while the process is taken
down, and a child would have copies of locks that nobody releases. At the end a compilation is stopped as soon as LLVM
returns from what it does. What a signal handler raises while the process waits there would be printed and dropped by
Python, and the wait would end: signals are recorded meanwhile. After a fork they are sent again; at the end of the
process they are dropped.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import contextvars
import ctypes
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from time import monotonic, sleep
from types import FrameType
from typing import Any, TypeVar

__all__ = ["holds_compiler_lock", "imported", "undisturbed"]

T = TypeVar("T")

#: Seconds after which a waiting thread looks for exceptions that `PyThreadState_SetAsyncExc` has set: no signal wakes
#: it for them.
LOOK = 0.05
#: Seconds after which the waiting thread does itself what no helper has begun. A thread that is just being started has
#: the number of the one that starts it: it can receive that one's asynchronous exception, and end.
START = 1.0
#: Seconds that a helper without work waits for more.
LINGER = 2.0
#: Seconds for which a wait before a fork, or at the end of the process, records signals. LLVM returns sooner; what
#: hangs can be interrupted afterwards.
RECORDING = 30.0
#: Seconds after a fork until recorded signals are sent again: Python's other callbacks of the fork have returned.
RESENDING = 0.01
#: Code of these files on the stack means that the thread holds locks of the import system.
IMPORT_SYSTEM = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")

#: Return whether this thread holds the lock of Numba's compiler; set where Numba is imported.
holds_compiler_lock: list[Callable[[], bool]] = []


class _Call:
    """A call of a function by one of two threads: whichever begins it first."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._call = contextvars.copy_context().run, function, args
        self._begun, self._ended = _thread.allocate_lock(), _thread.allocate_lock()
        self._ended.acquire()
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Call the function, unless that has begun."""
        if not self._begun.acquire(blocking=False):
            return
        try:
            self._thread = _thread.get_ident()
            _running.add(self)
            run, function, args = self._call
            self.result = run(function, *args)
        except BaseException as error:  # also a MemoryError: the caller waits
            self.error = error
        finally:
            self.done = True
            self._ended.release()
            _running.discard(self)

    def stop(self) -> None:
        """Stop the function soon, by an exception. What it loads cannot be used afterwards."""
        deadline = monotonic() + START
        while not self.done and monotonic() < deadline:
            self._ended.acquire(timeout=LOOK)
        if not self.done:
            raise_in_thread = ctypes.pythonapi.PyThreadState_SetAsyncExc
            raise_in_thread(ctypes.c_ulong(self._thread), ctypes.py_object(SystemExit))
            self.wait()

    def wait(self) -> None:
        """Wait until the function has returned; call it if nobody else does."""
        deadline = monotonic() + START
        while not self.done:
            self._ended.acquire(timeout=LOOK)
            if monotonic() > deadline:
                self.run()


class _Helper:
    """A thread that runs calls one after the other. It is no `threading.Thread`, whose start could wait for ever."""

    def __init__(self) -> None:
        self._call: _Call | None = None
        self._given = _thread.allocate_lock()
        self._given.acquire()

    def give(self, call: _Call) -> None:
        self._call = call
        self._given.release()

    def work(self) -> None:
        _helpers.add(_thread.get_ident())
        try:
            while self._given.acquire(timeout=LINGER):
                call, self._call = self._call, None
                if call is not None:
                    call.run()
                del call
                _idle.append(self)
        finally:
            _helpers.discard(_thread.get_ident())
            with contextlib.suppress(ValueError):  # a call comes too late: its caller does it
                _idle.remove(self)


_running: set[_Call] = set()
_idle: list[_Helper] = []
_helpers: set[int] = set()


def undisturbed(function: Callable[..., T], *args: Any) -> T:
    """Call a function that imports or loads, so that no exception from outside can interrupt it.

    Parameters
    ----------
    function : callable
        It goes on to its end, whatever is raised in the calling thread meanwhile. It must be safe to call again.
    *args
        Its arguments.

    Returns
    -------
    object
        What the function returns.

    Raises
    ------
    BaseException
        What the function raises, or what a signal handler or another thread raises in the thread that waits.

    Notes
    -----
    The calling thread itself calls the function where it is a helper, where it holds locks for which a helper could
    wait for ever (of an import, or of Numba's compiler), and where no thread can be started.
    """
    if _may_not_wait():
        return function(*args)
    call = _Call(function, args)
    try:
        helper = _idle.pop()
    except IndexError:
        helper = _Helper()
        try:
            _thread.start_new_thread(helper.work, ())
        except RuntimeError as error:
            if "new thread" not in str(error):  # a signal handler's
                raise
            return function(*args)
    helper.give(call)
    call.wait()
    try:
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result
    finally:
        del call  # its error refers to this frame


def _may_not_wait() -> bool:
    """Return whether a helper could wait for this thread."""
    if _thread.get_ident() in _helpers or any(holds() for holds in holds_compiler_lock):
        return True
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename not in IMPORT_SYSTEM:
        frame = frame.f_back
    return frame is not None


#: Numbers of the signals that arrived while a fork waited for helpers.
_recorded: list[int] = []


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Record signals, for `RECORDING` seconds, instead of calling their handlers."""
    handlers: dict[int, Any] = {}
    end = monotonic() + RECORDING

    def record(number: int, frame: FrameType | None) -> None:
        if monotonic() < end:
            _recorded.append(number)
        else:
            handlers[number](number, frame)

    if threading.current_thread() is threading.main_thread():  # handlers run in no other
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in handlers:
            signal.signal(number, record)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _finish() -> None:
    """Wait until no helper works, unless one could wait for this thread."""
    if not _running or _may_not_wait():
        return
    with _recording():
        # another thread that has waited for the same call may have the next one begun meanwhile
        while _running:
            for call in list(_running):
                call.wait()


def _resend() -> None:
    """Send the recorded signals, in the process that has forked."""
    if _recorded:
        numbers = _recorded.copy()
        _recorded.clear()
        _thread.start_new_thread(_send, (threading.main_thread().ident, numbers))


def _send(thread: int | None, numbers: list[int]) -> None:
    sleep(RESENDING)
    if thread is not None:
        for number in numbers:
            signal.pthread_kill(thread, number)


def _end() -> None:
    """Stop what helpers run, which may be a compilation of many seconds, and wait until they have stopped."""
    if _running and not _may_not_wait():
        with _recording():
            for call in list(_running):
                call.stop()


def _forget() -> None:
    """Reset to no helpers, in a forked child: it has no such threads."""
    _recorded.clear()
    _running.clear()
    _idle.clear()
    _helpers.clear()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_finish, after_in_parent=_resend, after_in_child=_forget)


@functools.cache
def imported(name: str) -> Any:
    """Return a module that is imported when it is needed, undisturbed."""
    return undisturbed(import_module, name)
