"""Functions that compiled code calls by a symbol: compiled once, not linked into every caller.

Numba links the code of each function into all functions that call it, directly or not, and optimizes it again in each.
A function that is registered here is compiled for one signature into a library of its own; callers hold an external
symbol. The symbol must have an address before LLVM links a caller, whether that was just compiled or loaded from disk:
an unresolved symbol ends the process.
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
    """Return what compiled code calls in the place of a function: ``call((argument, ...))``.

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
        given = tuple(arguments)
        for symbol, called in zip(symbols, signatures, strict=True):
            if all(typingctx.can_convert(*kinds) is not None for kinds in zip(given, called.args, strict=True)):
                return called.return_type(arguments), functools.partial(_emit_call, symbol, called, given)
        return None

    return call


def _emit_call(symbol: str, called: Any, given: Any, context: Any, builder: Any, signature: Any, args: Any) -> Any:
    provide(symbol)
    kinds = [context.get_value_type(kind) for kind in (called.return_type, *called.args)]
    declared = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kinds[0], kinds[1:]), symbol)
    values = [
        context.cast(builder, builder.extract_value(args[0], position), kind, wanted)
        for position, (kind, wanted) in enumerate(zip(given, called.args, strict=True))
    ]
    return builder.call(declared, values)


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
    """Give a registered symbol its address: compile the function, or load it, unless that has been done."""
    if symbol not in _addresses:
        symbols[symbol]()


def address_of(symbol: str) -> int:
    """Return the address of a registered symbol: for callers that are handed the function to call."""
    if symbol not in _addresses:
        undisturbed(provide, symbol)
    address: int = _addresses[symbol].address
    return address


@intrinsic
def call_address(typingctx: Any, address: Any, arguments: Any) -> Any:
    """Call a function by its address, with a tuple of integers: one that is chosen while the program runs."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = ir.IntType(64)
        values = [
            context.cast(builder, builder.extract_value(args[1], position), kind, types.int64)
            for position, kind in enumerate(arguments)
        ]
        function = ir.FunctionType(ir.VoidType(), [number] * len(values))
        builder.call(builder.inttoptr(args[0], function.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), generate


#: The functions that have been compiled or loaded: their code lives as long as these objects.
_addresses: dict[str, Any] = {}


def _make(symbol: str, function: Callable[..., Any], signature: Any) -> None:
    if symbol not in _addresses:
        made = compiled_callback(function, signature)
        llvm.add_symbol(symbol, made.address)
        _addresses[symbol] = made
