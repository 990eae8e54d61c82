"""A second process compiles ahead. Threads would not help, since Numba holds the interpreter lock.

A model announces the operations that it is about to use (`announce`). When the first kernel is missing on disk, a
process is started that compiles the kernels of the announced operations into the same folder, starting with those
needed last, while this process compiles those it needs first. `capgpu.kernels.cpu.claims` decides which process
compiles what::

    this process                                  second process (`capgpu.kernels.cpu.compile_process`)
    announce(embedding, lstm, softmax, ...)
    embedding is missing: starts it  -------->    starts
    claims embedding, compiles                    claims softmax, compiles
    claims lstm, compiles                         lstm is claimed: skips it; ends after the first operation
    softmax is claimed: waits        <--------    writes softmax, releases the claim
    loads softmax

Until their code is compiled (`is_compiled_elsewhere`), captions are laid out by NumPy, which gives the same integers,
and kernels run without the pool's workers.

The second process is optional: if it cannot be started, or is killed, this process compiles everything. It checks twice
a second whether its parent is alive, has its own session (Ctrl-C in a terminal does not reach it), prints nothing, and
is killed when this process ends. It is not started if this process may use only one processor or one thread, if the
folder cannot be written, in a bundled application, or with ``CAPGPU_COMPILE_AHEAD=0``.

Ranks on one machine (`capgpu.distributed`) need the same kernels at the same time: all of them claim what they compile,
so that each kernel is compiled once, and the first of them starts the second process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from time import monotonic
from typing import Any

from capgpu.distributed.launch import launch
from capgpu.errors import InvalidValueError
from capgpu.kernels.cpu import code_cache
from capgpu.kernels.cpu.claims import CAN_CLAIM, LIMIT, claims, remove_abandoned
from capgpu.threads import thread_count, usable_processors

__all__ = ["announce", "compiles_ahead", "is_compiled_elsewhere"]

logger = logging.getLogger("capgpu")

VARIABLE = "CAPGPU_COMPILE_AHEAD"
#: The child uses this process's sys.path, independent of the working folder's contents.
PROGRAM = (
    "import json, sys; request = json.loads(sys.argv[1]); sys.path[:] = request.pop('path'); "
    "from capgpu.kernels.cpu.compile_process import main; main(**request)"
)

_announced: set[Any] = set()
#: Announced operations for which no process has been started: those needed soon, and those needed later.
_soon: list[Any] = []
_later: list[Any] = []
_process: subprocess.Popen[bytes] | None = None
#: Time (`time.monotonic`) until which code of the process is awaited.
_awaited_until = 0.0
#: Whether this program awaits code of the process, once it has been asked: if it found no compiled kernel.
_awaits: bool | None = None
#: Compiled functions that are not awaited any more.
_ready: set[Any] = set()


def compiles_ahead() -> bool:
    """Return whether a second process may be started.

    Raises
    ------
    ValueError
        If ``CAPGPU_COMPILE_AHEAD`` is neither 0 nor 1.
    """
    setting = os.environ.get(VARIABLE, "").strip()
    if setting not in ("", "0", "1"):
        raise InvalidValueError(
            f"{VARIABLE}: expected 1 (compile in a second process, too) or 0, got {setting!r}. Unset it for 1."
        )
    place = launch()
    processors = min(thread_count(), usable_processors()) * (1 if place is None else place.local_size)
    # in a bundled application (PyInstaller) sys.executable is the application, which would run a second time
    interpreter = bool(sys.executable) and not getattr(sys, "frozen", False)
    first = place is None or place.local_rank == 0
    return setting != "0" and CAN_CLAIM and processors > 1 and first and interpreter


def announce(operations: tuple[str, ...], dtype: Any, parameters: int, later: bool) -> None:
    """Record operations that follow; see `capgpu.kernels.reference.Kernels.announce`."""
    key = operations, dtype, parameters
    if key not in _announced:  # announced again at each training step
        _announced.add(key)
        # half types are computed in float32
        work = operations, "float64" if dtype == "float64" else "float32", parameters
        (_later if later else _soon).append(work)


def is_compiled_elsewhere(kernel: Any, *args: Any) -> bool:
    """Return whether a compiled function for some arguments is missing on disk while the second process runs.

    False from `capgpu.kernels.cpu.claims.LIMIT` seconds after its start on: it may have been stopped. What an earlier
    program has left is not awaited: short programs would end, and end the process, each time before it is compiled.

    Parameters
    ----------
    kernel : compiled function
        The kernel of an operation that the caller can compute in another way, with the same result.
    *args
        Its arguments.
    """
    global _awaits
    if kernel in _ready:  # at each training step but the first
        return False
    if code_cache.stored(kernel, *args):
        _ready.add(kernel)
        return False
    if _awaits is None:
        _awaits = code_cache.is_empty()
    if not _awaits:
        return False
    _start()
    return _process is not None and _process.poll() is None and monotonic() < _awaited_until


def _bytecode_options() -> list[str]:
    """Return the options about bytecode files, which an isolated interpreter does not read from its environment."""
    prefix = [] if sys.pycache_prefix is None else ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return [*prefix, "-B"] if sys.dont_write_bytecode else prefix


def _start() -> None:
    """Start the process unless it is running or nothing was announced. Called when a kernel is missing on disk."""
    global _process, _awaited_until
    if _has_other_ranks():
        code_cache.writable()  # makes the folder, without which nothing can be claimed
    if not (_soon or _later) or (_process is not None and _process.poll() is None):
        return
    work = [*_soon, *_later]
    _soon.clear()
    _later.clear()
    if not compiles_ahead() or not code_cache.writable():
        return
    remove_abandoned(code_cache.generation())
    # Python ignores entries that are not strings, such as a Path; JSON cannot contain them
    path = [entry for entry in sys.path if isinstance(entry, str)]
    request = json.dumps({"path": path, "parent": os.getpid(), "work": work})
    environment = {**os.environ, VARIABLE: "0", "CAPGPU_THREADS": "1"}
    try:
        _process = subprocess.Popen(
            [sys.executable, *_bytecode_options(), "-I", "-c", PROGRAM, request],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        claims.active, _awaited_until = True, monotonic() + LIMIT
        # without waiting for it, it would remain a zombie until this process ends
        threading.Thread(target=_process.wait, name="capgpu-compile-ahead", daemon=True).start()
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is None:  # raised by a signal handler
            raise
        logger.info("capgpu: no second process compiles: %s", error)


def _end() -> None:
    process = _process
    if process is not None and process.poll() is None:
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()
        remove_abandoned(code_cache.generation())


def _forget() -> None:
    """Discard the process in a forked child, whose parent owns it."""
    global _process
    _process = None


def _has_other_ranks() -> bool:
    """Return whether this machine has other ranks, which need the same kernels."""
    place = launch()
    return place is not None and place.local_size > 1


claims.active = claims.active or (CAN_CLAIM and _has_other_ranks())
code_cache.missing.append(_start)
atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
