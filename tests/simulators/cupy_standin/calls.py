"""The wrapper of every function: converts device arrays, refuses host arrays, calls NumPy, returns device arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from . import bfloat16
from .array import ndarray, to_device, wrap
from .rules import (
    HOST_RESULT,
    KEEPS_LAYOUT,
    NO_PLAIN_SEQUENCES,
    NONDETERMINISTIC,
    OPTIONAL_ARRAYS,
    SYNCHRONISING,
)
from .state import STATE, UndefinedOnDeviceError, refuse_in_capture, synchronised


@np.errstate(all="ignore")
def quietly(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function without NumPy's floating-point warnings, which a device does not give."""
    return function(*args, **kwargs)


def to_host(value: Any) -> Any:
    """Convert an argument for NumPy: device arrays to their memory; host arrays are refused."""
    type_of_value = type(value)
    if type_of_value is ndarray:
        return value._host
    if type_of_value is tuple or type_of_value is list:
        return type_of_value([to_host(entry) for entry in value])
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type_of_value}")
    return value


def _holds_array(value: Any) -> bool:
    type_of_value = type(value)
    return type_of_value is ndarray or (
        (type_of_value is tuple or type_of_value is list) and any(map(_holds_array, value))
    )


def _refuse_plain_sequences(name: str, values: Any) -> None:
    for value in values:
        if type(value) in (list, tuple) and not _holds_array(value):
            raise TypeError(
                f"Unsupported type {type(value)}: cupy.{name}() would copy it to the device unasked; "
                "move it with cupy.asarray()"
            )


def parameters_of(text: str) -> list[inspect.Parameter]:
    """Parse the parameters of an entry in the list of names."""
    parameters = []
    for word in text.split():
        name = word.lstrip("=*")
        if word.startswith("**"):
            parameters.append(inspect.Parameter(name, inspect.Parameter.VAR_KEYWORD))
        elif word.startswith("*"):
            parameters.append(inspect.Parameter(name, inspect.Parameter.VAR_POSITIONAL))
        elif word.startswith("="):
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None))
        else:
            parameters.append(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD))
    return parameters


def wrapped(name: str, parameters: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return CuPy's function `name`, computed by `function` on the host.

    Parameters
    ----------
    name : str
        Name of the function, as in `rules`.
    parameters : str
        CuPy's parameters; anything else is refused.
    function : callable
        The same operation on NumPy arrays, taking CuPy's parameters.
    """
    words = parameters.split()
    positional = [word for word in words if word[0] not in "=*"]
    limit = len(words) + 1000 if any(word[0] == "*" for word in words) else len(positional)
    keywords = {word.lstrip("=") for word in words if word[0] != "*"}
    open_ended = any(word.startswith("**") for word in words)
    out_index = positional.index("out") if "out" in positional else None
    needs_array = name not in OPTIONAL_ARRAYS
    host_result = name in HOST_RESULT
    waits = SYNCHRONISING.get(name)
    varies = NONDETERMINISTIC.get(name)
    no_sequences = name in NO_PLAIN_SEQUENCES
    deliver = wrap if name in KEEPS_LAYOUT else to_device

    def call(*args: Any, **kwargs: Any) -> Any:
        # a contiguous array in another shape is the same memory: no work for the device
        if not (name == "reshape" and args and type(args[0]) is ndarray and args[0].flags.c_contiguous):
            refuse_in_capture(f"cupy.{name}()")
        if len(args) > limit:
            raise TypeError(f"{name}() takes {limit} positional arguments but {len(args)} were given")
        if not (open_ended or kwargs.keys() <= keywords):
            unknown = ", ".join(sorted(kwargs.keys() - keywords))
            raise TypeError(f"{name}() got an unexpected keyword argument: {unknown} (CuPy has none such)")
        host_args = [to_host(value) for value in args]
        host_kwargs = {key: to_host(value) for key, value in kwargs.items()} if kwargs else kwargs
        if needs_array and not (any(map(_holds_array, args)) or any(map(_holds_array, kwargs.values()))):
            given_types = ", ".join(type(value).__name__ for value in args)
            raise TypeError(f"cupy.{name}() wants a cupy.ndarray, given: {given_types or 'nothing'}")
        if no_sequences:
            _refuse_plain_sequences(name, (*args, *kwargs.values()))
        if waits is not None and waits(args, kwargs):
            synchronised(f"cupy.{name}()")
        if varies is not None and varies(args, kwargs):
            STATE.counters.nondeterministic.append(name)
        try:
            if bfloat16.holds_bfloat16((*host_args, *host_kwargs.values())):
                result = quietly(bfloat16.computed, name, function, host_args, host_kwargs)
            else:
                result = quietly(function, *host_args, **host_kwargs)
        except np.exceptions.AxisError:
            raise
        except IndexError as error:
            if "out of bounds" not in str(error):
                raise
            raise UndefinedOnDeviceError(
                f"cupy.{name}(): {error}; a device wraps such an index around in silence"
            ) from error
        if host_result:
            return result
        out = kwargs.get("out")
        if out is None and out_index is not None and len(args) > out_index:
            out = args[out_index]
        if out is not None:
            return out
        if args and type(result) is np.ndarray and host_args[0] is result:
            return args[0]
        return deliver(result)

    call.__name__ = call.__qualname__ = name
    call.__module__ = "cupy"
    call.__signature__ = inspect.Signature(parameters_of(parameters), __validate_parameters__=False)  # type: ignore[attr-defined]
    return call
