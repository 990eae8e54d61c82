"""Handing a region's shares from one thread to others without the interpreter: shared words, spins, a function pointer.

Memory shared by a team, in 64-bit words: [0] ticket of the latest region, [1] its number of shares, [2] address of
the code that runs a share, [8 k] the latest ticket that worker k has finished, and from `ARGUMENTS` on the region's
arguments as the compiled code holds them. The caller fills all of it, then publishes the ticket (release); a worker
that sees the ticket (acquire) sees the rest.
"""

from __future__ import annotations

import os
import platform
import time
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, typing
from numba.extending import intrinsic

from capgpu.kernels.cpu.compile import compiled

__all__ = ["MOST_THREADS", "WORDS", "announce", "await_word", "finish", "meet", "publisher", "run_own_share", "serve"]

MOST_THREADS = 256
#: First word of the arguments, and words in all.
ARGUMENTS = 8 * MOST_THREADS
WORDS = ARGUMENTS + 512

I64 = ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()
SHARE = ir.FunctionType(ir.VoidType(), [I64, I64, BYTES])


def _word(builder: Any, address: Any, index: int = 0) -> Any:
    return builder.gep(builder.inttoptr(address, I64.as_pointer()), [I64(index)])


@intrinsic
def _load(typingctx: Any, address: Any) -> Any:
    """Read a word that another thread writes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(builder, args[0]), "acquire", 8)

    return types.int64(types.intp), generate


@intrinsic
def _store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a word that another thread reads."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _word(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), generate


@intrinsic
def _pause(typingctx: Any) -> Any:
    """Tell the processor that this is a waiting loop, where it has a word for it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if platform.machine().lower() in ("x86_64", "amd64"):
            pause = builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), ir.FunctionType(ir.VoidType(), []))
            builder.call(pause, [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _run_published(typingctx: Any, memory: Any, index: Any) -> Any:
    """Run share `index` of the region that lies in the shared memory."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        memory, index = args
        count = builder.load(_word(builder, memory, 1))
        code = builder.inttoptr(builder.load(_word(builder, memory, 2)), SHARE.as_pointer())
        data = builder.bitcast(_word(builder, memory, ARGUMENTS), BYTES)
        builder.call(code, [index, count, data])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


def publisher(share: Any) -> Any:
    """Make the code that writes a region into the shared memory.

    Parameters
    ----------
    share : compiled function
        ``share(index, count, *arguments)``.

    Returns
    -------
    intrinsic
        ``publish(memory, count, arguments)``, for compiled code. One for each share: compiled code that took the
        share as an argument could not be cached on disk.
    """

    @intrinsic
    def publish(typingctx: Any, memory: Any, count: Any, arguments: Any) -> Any:
        call = typing.signature(types.none, types.intp, types.intp, arguments)

        def unpack(index: Any, count: Any, arguments: Any) -> None:
            share(index, count, *arguments)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            memory, count, values = args
            values = _borrowed(context, builder, arguments, values)
            code = ir.Function(builder.module, SHARE, name=builder.module.get_unique_name("capgpu.share"))
            code.linkage = "internal"
            # one body, whoever runs it: pasted elsewhere, products and sums would be joined in other ways
            code.attributes.add("noinline")
            body = ir.IRBuilder(code.append_basic_block("entry"))
            place = body.bitcast(code.args[2], values.type.as_pointer())
            result = context.compile_subroutine(builder, unpack, call, caching=False)
            indices = [code.args[0], code.args[1]]
            context.call_internal_no_propagate(body, result.fndesc, call, [*indices, body.load(place, align=8)])
            body.ret_void()

            size = context.get_abi_sizeof(values.type)
            room = 8 * (WORDS - ARGUMENTS)
            if size > room:
                raise ValueError(f"the arguments of a region take {size} bytes; there is room for {room}.")
            builder.store(count, _word(builder, memory, 1))
            builder.store(builder.ptrtoint(code, I64), _word(builder, memory, 2))
            destination = _word(builder, memory, ARGUMENTS)
            builder.store(values, builder.bitcast(destination, values.type.as_pointer()), align=8)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, arguments), generate

    return publish


def _borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Strip arrays of their owner.

    A caller's references end when its compiled code returns, which may be before a worker is done; the memory itself
    is kept alive by the Python objects that the caller holds.
    """
    if isinstance(kind, types.BaseTuple):
        for position, inner in enumerate(kind):
            part = _borrowed(context, builder, inner, builder.extract_value(value, position))
            value = builder.insert_value(value, part, position)
        return value
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = array.meminfo.type(None)
        array.parent = array.parent.type(None)
        return array._getvalue()
    return value


@compiled()
def await_word(address: int, wanted: int, rounds: int) -> bool:
    """Spin until the word at an address is `wanted`; give up after some rounds."""
    for _ in range(rounds):
        if _load(address) == wanted:
            return True
        _pause()
    return False


@intrinsic
def _yield_processor(typingctx: Any) -> Any:
    """Let another thread run, where the system has a call for it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if os.name == "posix":
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _nanoseconds(typingctx: Any) -> Any:
    """Read a clock that never goes back, where the system has a call for it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if os.name != "posix":
            return I64(0)
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32), I64.as_pointer()])
        place = cgutils.alloca_once(builder, I64, size=2)
        read = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(read, [ir.IntType(32)(time.CLOCK_MONOTONIC), place])
        seconds, rest = (builder.load(builder.gep(place, [I64(i)])) for i in range(2))
        return builder.add(builder.mul(seconds, I64(10**9)), rest)

    return types.int64(), generate


@compiled(allocates=False)
def meet(meeting: int, index: int, count: int, number: int) -> None:
    """Wait until all shares of a region have come to the same point.

    Parameters
    ----------
    meeting : int
        Address of ``8 * count`` words, zero at first: for each share its number of meetings, then the nanoseconds that
        others kept it waiting, where that was not for a moment only.
    index, count : int
        This share, of how many; they must run at once (`capgpu.kernels.cpu.team.Team.run_together`).
    number : int
        How many times this share has come to a meeting, this one included.
    """
    _store(meeting + 64 * index, number)
    for other in range(count):
        rounds = 0
        while _load(meeting + 64 * other) < number and rounds < 2000:
            rounds += 1
            _pause()
        if rounds == 2000:
            since = _nanoseconds()
            while _load(meeting + 64 * other) < number:
                _yield_processor()
            waited = meeting + 64 * index + 8
            _store(waited, _load(waited) + _nanoseconds() - since)


@compiled()
def announce(memory: int, ticket: int) -> None:
    """Let the other threads see the published region, whose number is one above the latest; 0: run all of it here."""
    if ticket > 0:
        _store(memory, ticket)
        return
    for index in range(_load(memory + 8)):
        _run_published(memory, index)


@compiled()
def run_own_share(memory: int) -> None:
    """Run share 0 of the announced region."""
    _run_published(memory, 0)


@compiled()
def finish(memory: int, ticket: int, size: int, rounds: int) -> bool:
    """Wait for the other threads for some rounds.

    Parameters
    ----------
    memory : int
        Address of the team's words.
    ticket : int
        The region's number.
    size : int
        Threads of the team: every worker answers every ticket.
    rounds : int
        Rounds of waiting for each worker.

    Returns
    -------
    bool
        Whether all workers have finished.
    """
    finished = True
    for index in range(1, size):
        finished = finished and await_word(memory + 64 * index, ticket, rounds)
    return finished


@compiled()
def serve(memory: int, index: int, seen: int, rounds: int) -> int:
    """Run this worker's share of every region, until none has come for some rounds; return the latest ticket seen."""
    idle = 0
    while idle < rounds:
        if _load(memory) == seen:
            idle += 1
            _pause()
            continue
        seen += 1
        if index < _load(memory + 8):
            _run_published(memory, index)
        _store(memory + 64 * index, seen)
        idle = 0
    return seen
