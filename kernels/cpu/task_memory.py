"""Temporary arrays of tasks: memory of the C library, which a task allocates and releases itself.

NumPy's arrays in compiled code count their references, each view as well. Code without these counts is a fifth smaller,
and so is the time that it takes to compile.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from capgpu.kernels.cpu.system_calls import HAS_POSIX_THREADS

__all__ = ["allocate", "release"]

#: Bytes of a cache line.
LINE = 64
#: More bytes than any system allocates. A size in bytes that has wrapped around could be small.
TOO_MANY = 2**63 - LINE

#: What a caller reads that runs no tasks; of tasks see `capgpu.kernels.cpu.thread_pool.ThreadPool.run`.
MESSAGE = "expected memory for the temporary array of a kernel, got none. Use smaller batches."

I64 = ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()


@intrinsic
def allocate(typingctx: Any, size: Any, like: Any) -> Any:
    """Return an uninitialized array of `size` elements, of the type of `like`, aligned to a cache line.

    It has no owner: views of it keep no memory alive, and the task has to `release` it. A task makes one such array,
    from which it takes all that it needs: what it holds when it raises is never freed. Raises MemoryError.
    """
    kind = types.Array(like.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size, itemsize = args[0], I64(context.get_abi_sizeof(context.get_data_type(like.dtype)))
        # also of no elements one line: of 0 bytes some libraries return no address
        lines = builder.add(builder.udiv(builder.mul(size, itemsize), I64(LINE)), I64(1))
        fits = builder.icmp_unsigned("<", size, builder.udiv(I64(TOO_MANY), itemsize))
        numbers = [I64(LINE), builder.select(fits, builder.mul(lines, I64(LINE)), I64(TOO_MANY))]
        if not HAS_POSIX_THREADS:  # Windows has no such function; arrays are not aligned there
            numbers = numbers[1:]
        name = "aligned_alloc" if HAS_POSIX_THREADS else "malloc"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(BYTES, [I64] * len(numbers)), name)
        memory = builder.call(function, numbers)
        with builder.if_then(cgutils.is_null(builder, memory), likely=False):
            context.call_conv.return_user_exc(builder, MemoryError, (MESSAGE,))
        array = context.make_array(kind)(context, builder)
        data = builder.bitcast(memory, array.data.type)
        populate_array(array, data, [size], [itemsize], itemsize, meminfo=None)
        return array._getvalue()

    return kind(types.int64, like), generate


@intrinsic
def release(typingctx: Any, array: Any) -> Any:
    """Free the memory of an array that `allocate` returned."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [BYTES]), "free")
        data = context.make_array(array)(context, builder, args[0]).data
        builder.call(function, [builder.bitcast(data, BYTES)])
        return context.get_dummy_value()

    return types.void(array), generate
