"""Atomic operations on 64-bit words at raw addresses, for compiled code.

Numba has no atomics for the host, so they are emitted as LLVM instructions. An address is an integer in bytes and must
be a multiple of 8.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["add", "compare_exchange", "fence", "load", "pause", "store"]

I64 = ir.IntType(64)


def _word(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def load(typingctx: Any, address: Any) -> Any:
    """Return a word (acquire): what its writer stored before, the caller reads after."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(builder, args[0]), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a word (release): who reads it by `load` also reads what the caller stored before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _word(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def compare_exchange(typingctx: Any, address: Any, expected: Any, value: Any) -> Any:
    """Replace a word by `value` if it is `expected` (acquire and release); return whether it was."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair = builder.cmpxchg(_word(builder, args[0]), args[1], args[2], "acq_rel", "acquire")
        return builder.zext(builder.extract_value(pair, 1), context.get_value_type(types.boolean))

    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def add(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to a word (acquire and release)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.atomic_rmw("add", _word(builder, args[0]), args[1], "acq_rel")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def fence(typingctx: Any) -> Any:
    """Order every store before with every load after, in one order for all threads (sequentially consistent)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def pause(typingctx: Any) -> Any:
    """Emit a spin-wait hint (x86 `pause`; nothing on other processors)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if platform.machine().lower() in ("x86_64", "amd64"):
            hint = builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), ir.FunctionType(ir.VoidType(), []))
            builder.call(hint, [])
        return context.get_dummy_value()

    return types.void(), generate
