"""Device work other than these kernels: copies, CuPy's elementwise operations, graphs.

`compile.Kernel`, `gemm.product` and the functions here are the only places that launch work on a stream. Each reports
the work by name to an observer, which a test or a tool sets with `counting`; launchers contain no instrumentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

__all__ = [
    "add_into",
    "argsort",
    "copy_from_host",
    "copy_into",
    "counting",
    "fill",
    "launch_graph",
    "report",
    "take_rows",
]

_log: list[str] | None = None


def report(name: str) -> None:
    """Report one piece of device work to the observer, if there is one."""
    if _log is not None:
        _log.append(name)


@contextmanager
def counting(log: list[str] | None = None) -> Iterator[list[str]]:
    """List the device work launched in a ``with`` block: kernels by name, other work as ``matmul``, ``copy``, ...

    Parameters
    ----------
    log : list of str, optional
        Appended to before each launch; by default a new list.

    Yields
    ------
    list of str
        Grows while the block runs.
    """
    global _log
    previous, _log = _log, [] if log is None else log
    try:
        yield _log
    finally:
        _log = previous


def add_into(out: Any, array: Any) -> None:
    """Add an array to another in place."""
    report("add")
    out += array


def argsort(array: Any) -> Any:
    """Return the indices that sort an array; equal values keep their order."""
    report("sort")
    return import_module("cupy").argsort(array)


def copy_from_host(memory: Any, address: Any, size: int) -> None:
    """Copy bytes from pinned host memory to the device, asynchronously."""
    report("copy")
    memory.copy_from_host_async(address, size)


def copy_into(out: Any, array: Any) -> None:
    """Copy an array to another of its shape and dtype on the device, asynchronously; `out` is C-contiguous."""
    report("copy")
    if array.flags.c_contiguous:
        out.data.copy_from_device_async(array.data, array.nbytes)
    else:
        out[...] = array


def fill(array: Any, value: Any) -> None:
    """Fill an array with a value."""
    report("fill")
    array.fill(value)


def launch_graph(graph: Any) -> None:
    """Launch a CUDA graph on the current stream."""
    report("graph")
    graph.launch()


def take_rows(array: Any, rows: Any) -> Any:
    """Return the given rows of a matrix."""
    report("take")
    return array.take(rows, axis=0)
