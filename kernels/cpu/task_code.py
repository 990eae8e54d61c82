"""The machine code of a parallel kernel's tasks: one function pointer and one block of arguments for all threads.

A task is called through a C function ``status = code(index, count, slot, arguments)``, so that workers need no type of
the kernel. An exception in a task becomes its status: it cannot cross from a worker's stack to the launcher's.

For one job of a kernel::

    launcher's stack                 job slot     any thread that runs a task
    +-----------------------------+
    | tuple of arguments,         | <--- DATA     status = capgpu.task(index, count, slot, DATA):
    | arrays without their owners |               loads the tuple and calls the kernel's native code;
    +-----------------------------+      CODE     1 if that raised, otherwise 0
    machine code: capgpu.task        <----+

The tuple is read through a pointer, so that a job costs two words in the slot whatever its arguments. It is valid until
`run_job` returns, which no task outlasts.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["call_task", "describe_job"]

I32, I64 = ir.IntType(32), ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()
TASK = ir.FunctionType(I32, [I64, I64, I64, BYTES])


def describe_job(task: Any, *, barriers: bool = False, operands: type[tuple[Any, ...]] | None = None) -> Any:
    """Make the code that describes a job of a kernel to `run_job`; see `capgpu.kernels.cpu.parallel_job`.

    Parameters
    ----------
    task : compiled function
        ``task(index, count, *arguments)``, or with barriers ``task(index, count, slot, *arguments)``.
    barriers : bool
        Whether tasks call `barrier`.
    operands : type, optional
        A class of named tuples, one of which the task takes in the place of the arguments.

    Returns
    -------
    intrinsic
        ``describe(arguments)``, for compiled code. The arguments are copied to the stack of the function that calls
        it, which must not return before the job is done.
    """

    @intrinsic
    def describe(typingctx: Any, arguments: Any) -> Any:
        leading = (types.int64,) * (3 if barriers else 2)  # index, count, and with barriers the slot
        # the task takes the arguments one by one, or as one named tuple
        task_types = tuple(arguments) if operands is None else (types.BaseTuple.from_types(tuple(arguments), operands),)
        call = types.Dispatcher(task).get_call_type(typingctx, (*leading, *task_types), {})

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values = _without_owners(context, builder, arguments, args[0])
            code = ir.Function(builder.module, TASK, name=builder.module.get_unique_name("capgpu.task"))
            code.linkage = "internal"
            # one body, whichever thread runs it: inlined elsewhere, products and sums would be contracted differently
            code.attributes.add("noinline")
            body = ir.IRBuilder(code.append_basic_block("entry"))
            arguments_pointer = body.bitcast(code.args[3], values.type.as_pointer())
            compile_result = getattr(task, "native_version", task).overloads[tuple(call.args)]
            context.active_code_library.add_linking_library(compile_result.library)
            arguments_tuple = body.load(arguments_pointer, align=8)
            if operands is None:
                passed = [body.extract_value(arguments_tuple, position) for position in range(len(arguments))]
            else:
                passed = [arguments_tuple]
            status, _ = context.call_internal_no_propagate(
                body, compile_result.fndesc, call, [*code.args[: len(leading)], *passed]
            )
            body.ret(body.zext(status.is_error, I32))

            data = cgutils.alloca_once(builder, values.type)
            builder.store(values, data, align=8)
            code_data_barriers = [builder.ptrtoint(code, I64), builder.ptrtoint(data, I64), I64(int(barriers))]
            return context.make_tuple(builder, signature.return_type, code_data_barriers)

        return types.UniTuple(types.int64, 3)(arguments), generate

    return describe


def _without_owners(context: Any, builder: Any, numba_type: Any, value: Any) -> Any:
    """Remove the owner from all arrays in a value: tasks then count no references, by contended atomic operations.

    The launcher's caller holds the arrays until `run_job` has returned.
    """
    if isinstance(numba_type, types.BaseTuple):
        for position, element_type in enumerate(numba_type):
            part = _without_owners(context, builder, element_type, builder.extract_value(value, position))
            value = builder.insert_value(value, part, position)
        return value
    if isinstance(numba_type, types.Array):
        array = context.make_array(numba_type)(context, builder, value)
        array.meminfo = array.meminfo.type(None)
        array.parent = array.parent.type(None)
        return array._getvalue()
    return value


@intrinsic
def call_task(typingctx: Any, code: Any, index: Any, count: Any, slot: Any, data: Any) -> Any:
    """Run a task; return whether it failed."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code, index, count, slot, data = args
        function = builder.inttoptr(code, TASK.as_pointer())
        status = builder.call(function, [index, count, slot, builder.inttoptr(data, BYTES)])
        return builder.zext(builder.icmp_unsigned("!=", status, I32(0)), context.get_value_type(types.boolean))

    return types.boolean(types.int64, types.int64, types.int64, types.int64, types.int64), generate
