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

from capgpu.kernels.cpu.code_cache import compiled_callback, symbols

__all__ = ["called_by_symbol", "provide"]


def called_by_symbol(function: Callable[..., None], signature: Any) -> str:
    """Register a function that compiled code calls by a symbol.

    Parameters
    ----------
    function : callable
        Python code that Numba compiles, at the top level of a module; it must not raise.
    signature : numba.core.typing.Signature
        Types of its arguments, numbers; it returns nothing.

    Returns
    -------
    str
        The symbol: call `provide` with it before emitting a call.
    """
    symbol = f"capgpu_{function.__module__.rpartition('.')[2]}_{function.__name__}"
    symbols[symbol] = functools.partial(_make, symbol, function, signature)
    return symbol


def provide(symbol: str) -> None:
    """Give a registered symbol its address: compile the function, or load it, unless that has been done."""
    if symbol not in _addresses:
        symbols[symbol]()


#: The functions that have been compiled or loaded: their code lives as long as these objects.
_addresses: dict[str, Any] = {}


def _make(symbol: str, function: Callable[..., None], signature: Any) -> None:
    if symbol not in _addresses:
        made = compiled_callback(function, signature)
        llvm.add_symbol(symbol, made.address)
        _addresses[symbol] = made
