"""A second process compiles ahead: Numba holds the interpreter lock, so that threads would take turns.

A model announces the operations that it is about to use (`announce`). When the first kernel turns out to be missing on
disk, a process is started that compiles those of the announced operations into the same folder, beginning with what is
needed last, while this process compiles what it needs first. Who compiles what is settled by
`capgpu.kernels.cpu.claims`. What the other process has finished is loaded here.

The process is a help only. Where it cannot be started, or is killed, this process compiles everything. It looks twice a
second whether its parent is alive, has a session of its own (Ctrl-C in a terminal does not reach it), writes nothing,
and is killed when this process ends. None is started where this process may use one processor or one thread, where the
folder cannot be written, in a bundled application, or with ``CAPGPU_COMPILE_AHEAD=0``.
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
from typing import Any

from capgpu.errors import InvalidValueError
from capgpu.kernels.cpu import code_cache
from capgpu.kernels.cpu.claims import CAN_CLAIM, claims
from capgpu.threads import thread_count, usable_processors

__all__ = ["announce", "compiles_ahead"]

logger = logging.getLogger("capgpu")

VARIABLE = "CAPGPU_COMPILE_AHEAD"
#: The child finds modules as this process does, whatever the folder in which it is started holds.
PROGRAM = (
    "import json, sys; request = json.loads(sys.argv[1]); sys.path[:] = request.pop('path'); "
    "from capgpu.kernels.cpu.compile_process import main; main(**request)"
)

_announced: set[Any] = set()
#: What no process has been started for: what is needed soon, and what is needed later.
_soon: list[Any] = []
_later: list[Any] = []
_process: subprocess.Popen[bytes] | None = None


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
    processors = min(thread_count(), usable_processors())
    # of a bundled application (PyInstaller) the executable is the application: it would run a second time
    interpreter = bool(sys.executable) and not getattr(sys, "frozen", False)
    return setting != "0" and CAN_CLAIM and processors > 1 and interpreter


def announce(operations: tuple[str, ...], dtype: Any, parameters: int, later: bool) -> None:
    """Note operations that follow; see `capgpu.kernels.reference.Kernels.announce`."""
    key = operations, dtype, parameters
    if key not in _announced:  # at each training step
        _announced.add(key)
        # half types are computed in float32
        work = operations, "float64" if dtype == "float64" else "float32", parameters
        (_later if later else _soon).append(work)


def _bytecode_options() -> list[str]:
    """Return options for what an isolated interpreter does not read from its environment: where bytecode is written."""
    prefix = [] if sys.pycache_prefix is None else ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return [*prefix, "-B"] if sys.dont_write_bytecode else prefix


def _start() -> None:
    """Start the process, unless it is running or there is nothing to do. Called where a kernel is missing."""
    global _process
    if not (_soon or _later) or (_process is not None and _process.poll() is None):
        return
    work = [*_soon, *_later]
    _soon.clear()
    _later.clear()
    if not compiles_ahead() or not code_cache.writable():
        return
    # Python passes over what is no string, such as a Path; JSON does not
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
        claims.active = True
        # without a wait it would stay a zombie until this process ends
        threading.Thread(target=_process.wait, name="capgpu-compile-ahead", daemon=True).start()
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is None:  # a signal handler's
            raise
        logger.info("capgpu: no second process compiles: %s", error)


def _end() -> None:
    process = _process
    if process is not None and process.poll() is None:
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()


def _forget() -> None:
    """Begin without a process, as a forked child must: it is another one's."""
    global _process
    _process = None


code_cache.missing.append(_start)
atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
