"""Functions that compiled code calls by a symbol: compiled once, not linked into every caller.

Numba links the code of each function into all functions that call it, directly or not, and optimizes it again in each.
A function that is registered here is compiled for one signature into a library of its own; callers hold an external
symbol. The symbol must have an address before LLVM links a caller, whether that was just compiled or loaded from disk:
an unresolved symbol ends the process.

::

    caller's library                 process's symbols                    a library of its own
    call capgpu_gemm_... ----------> llvm.add_symbol(name, address) ----> machine code, kept alive by `_addresses`
         declared, not defined       `provide`, while the caller is emitted;
                                     `code_cache`, before a caller from disk is linked
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from capgpu.kernels.cpu.code_cache import compiled_callback, symbols
from capgpu.kernels.loading import undisturbed

__all__ = ["address_of", "by_symbol", "call_address", "called_by_symbol", "provide"]


def by_symbol(function: Callable[..., Any], *signatures: Any) -> Any:
    """Make an intrinsic, ``call((argument, ...))``, through which compiled code calls a function by its symbol.

    Parameters
    ----------
    function : callable
        As for `called_by_symbol`.
    *signatures : numba.core.typing.Signature
        Those that are compiled when they are needed; numbers are converted to the types that one of them names.

    Returns
    -------
    intrinsic
        For compiled code. It takes a tuple.
    """
    symbols = [called_by_symbol(function, signature, f"_{k}") for k, signature in enumerate(signatures)]

    @intrinsic
    def call(typingctx: Any, arguments: Any) -> Any:
        argument_types = tuple(arguments)
        for symbol, target in zip(symbols, signatures, strict=True):
            pairs = zip(argument_types, target.args, strict=True)
            if all(typingctx.can_convert(source, required) is not None for source, required in pairs):
                return target.return_type(arguments), functools.partial(_emit_call, symbol, target, argument_types)
        return None

    return call


def _emit_call(
    symbol: str, target: Any, argument_types: Any, context: Any, builder: Any, signature: Any, args: Any
) -> Any:
    provide(symbol)
    result_type, *parameter_types = (context.get_value_type(t) for t in (target.return_type, *target.args))
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result_type, parameter_types), symbol)
    values = [
        context.cast(builder, builder.extract_value(args[0], position), source, required)
        for position, (source, required) in enumerate(zip(argument_types, target.args, strict=True))
    ]
    return builder.call(function, values)


def called_by_symbol(function: Callable[..., Any], signature: Any, suffix: str = "") -> str:
    """Register a function that compiled code calls by a symbol.

    Parameters
    ----------
    function : callable
        Python code that Numba compiles, at the top level of a module; it must not raise.
    signature : numba.core.typing.Signature
        Types of its arguments and of its result.
    suffix : str, optional
        Of the symbol: another one for each signature of a function.

    Returns
    -------
    str
        The symbol: call `provide` with it before emitting a call.
    """
    symbol = f"capgpu_{function.__module__.rpartition('.')[2]}_{function.__name__}{suffix}"
    symbols[symbol] = functools.partial(_make, symbol, function, signature)
    return symbol


def provide(symbol: str) -> None:
    """Define a registered symbol, if it is not: compile the function, or load it from disk."""
    if symbol not in _addresses:
        symbols[symbol]()


def address_of(symbol: str) -> int:
    """Return the address of a registered symbol: for callers that get the function as an argument."""
    if symbol not in _addresses:
        undisturbed(provide, symbol)
    address: int = _addresses[symbol].address
    return address


@intrinsic
def call_address(typingctx: Any, address: Any, arguments: Any) -> Any:
    """Call a function by its address, with a tuple of integers: one that is chosen while the program runs."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = [
            context.cast(builder, builder.extract_value(args[1], position), source, types.int64)
            for position, source in enumerate(arguments)
        ]
        function = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(values))
        builder.call(builder.inttoptr(args[0], function.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), generate


#: The functions that have been compiled or loaded: their code lives as long as these objects.
_addresses: dict[str, Any] = {}


def _make(symbol: str, function: Callable[..., Any], signature: Any) -> None:
    if symbol not in _addresses:
        callback = compiled_callback(function, signature)
        llvm.add_symbol(symbol, callback.address)
        _addresses[symbol] = callback
