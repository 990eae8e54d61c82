"""Calls of the operating system for compiled code: yield, clock, and a POSIX mutex with a condition variable.

They need no interpreter lock. On systems without POSIX threads each compiles to nothing, and
`capgpu.kernels.cpu.thread_pool` starts no workers there.
"""

from __future__ import annotations

import os
import time
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "HAS_POSIX_THREADS",
    "condition_broadcast",
    "condition_init",
    "condition_wait",
    "mutex_init",
    "mutex_lock",
    "mutex_unlock",
    "nanoseconds",
    "yield_processor",
]

HAS_POSIX_THREADS = os.name == "posix"

I32, I64 = ir.IntType(32), ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()


def _call(name: str, addresses: int, nulls: int = 0) -> Any:
    """Return an intrinsic that calls a C function with some addresses, then some null pointers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if HAS_POSIX_THREADS:
            kind = ir.FunctionType(I32, [BYTES] * (addresses + nulls))
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            pointers = [builder.inttoptr(address, BYTES) for address in args]
            builder.call(function, pointers + [ir.Constant(BYTES, None)] * nulls)
        return context.get_dummy_value()

    return generate


@intrinsic
def yield_processor(typingctx: Any) -> Any:
    """Yield the processor to another thread."""
    return types.void(), _call("sched_yield", 0)


@intrinsic
def mutex_init(typingctx: Any, mutex: Any) -> Any:
    """Initialize a mutex in zeroed memory of at least 128 bytes."""
    return types.void(types.int64), _call("pthread_mutex_init", 1, 1)


@intrinsic
def mutex_lock(typingctx: Any, mutex: Any) -> Any:
    """Lock a mutex."""
    return types.void(types.int64), _call("pthread_mutex_lock", 1)


@intrinsic
def mutex_unlock(typingctx: Any, mutex: Any) -> Any:
    """Unlock a mutex."""
    return types.void(types.int64), _call("pthread_mutex_unlock", 1)


@intrinsic
def condition_init(typingctx: Any, condition: Any) -> Any:
    """Initialize a condition variable in zeroed memory of at least 128 bytes."""
    return types.void(types.int64), _call("pthread_cond_init", 1, 1)


@intrinsic
def condition_wait(typingctx: Any, condition: Any, mutex: Any) -> Any:
    """Unlock a mutex and sleep until the condition variable is signalled (or for no reason); lock it again."""
    return types.void(types.int64, types.int64), _call("pthread_cond_wait", 2)


@intrinsic
def condition_broadcast(typingctx: Any, condition: Any) -> Any:
    """Wake all threads that sleep on a condition variable."""
    return types.void(types.int64), _call("pthread_cond_broadcast", 1)


@intrinsic
def nanoseconds(typingctx: Any) -> Any:
    """Return the monotonic clock's time in nanoseconds, 0 on systems without POSIX threads."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not HAS_POSIX_THREADS:
            return I64(0)
        kind = ir.FunctionType(I32, [I32, I64.as_pointer()])
        place = cgutils.alloca_once(builder, I64, size=2)
        read = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(read, [I32(time.CLOCK_MONOTONIC), place])
        seconds, rest = (builder.load(builder.gep(place, [I64(i)])) for i in range(2))
        return builder.add(builder.mul(seconds, I64(10**9)), rest)

    return types.int64(), generate
