"""Memory for LLVM, before LLVM asks for it: it ends the process where it gets none.

"LLVM ERROR: out of memory", and C++'s ``std::bad_alloc`` inside of llvmlite, cannot be caught: no handler may return.
What loading or compiling a kernel can need is therefore reserved, and given back, immediately before: under a limit on
the address space (``ulimit -v``, as batch systems set it), or where the system promises no more memory than it has,
that fails by an error number. A container's limit (cgroups) does not show in this way: there the system kills the
process, whatever it does. Other threads may take the memory in the meantime: the abort is then as before.
"""

from __future__ import annotations

import mmap

__all__ = ["COMPILING", "IMPORTING", "LOADING", "require_memory"]

#: Bytes of address space that importing Numba and LLVM may take, with the stack and the heap of a thread.
IMPORTING = 256 << 20
#: Bytes that loading a kernel may take, with the stack and the heap of a worker. The first call of a captioner's loss
#: takes 80 MB in all.
LOADING = 64 << 20
#: Bytes that compiling a kernel may take, beside what those that it is compiled in have taken before.
COMPILING = 192 << 20


def require_memory(size: int, purpose: str) -> None:
    """Raise where an amount of memory cannot be had.

    Parameters
    ----------
    size : int
        Bytes of address space.
    purpose : str
        What they are for: a verb and its object.

    Raises
    ------
    MemoryError
        If the system refuses them.
    """
    try:
        mmap.mmap(-1, size).close()  # no page is touched
    except OSError as error:
        if error.errno is None:  # a signal handler's
            raise
        raise MemoryError(
            f"expected {size >> 20} MiB of free address space to {purpose}, got less ({error.strerror}). Raise "
            "the limit on memory (ulimit -v), or set CAPGPU_BACKEND=numpy, which needs no compiler."
        ) from error
