"""Which library arrays belong to, and the errors where one call gets arrays of several."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from capgpu.errors import InvalidTypeError

__all__ = ["common_namespace", "is_device_array", "is_host_array", "torch_advice"]


def is_host_array(array: object) -> bool:
    """Return whether an array is a NumPy array in host memory."""
    return isinstance(array, np.ndarray)


def is_device_array(array: object) -> bool:
    """Return whether an array is a CuPy array, or of a subclass. Does not import CuPy: without it there is none."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, getattr(cupy, "ndarray", ()))


def common_namespace(arrays: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """Return the common array namespace of arrays of any library; see `capgpu.backend.array_namespace`."""
    import array_api_compat

    if not arrays and not named:
        raise InvalidTypeError("array_namespace: expected at least one array, got none.")
    first_name, first_space, first_type = "", None, None
    for index, array in enumerate((*arrays, *named.values())):
        if type(array) is first_type:
            continue  # of one class, of one library
        name = f"argument {index + 1}" if index < len(arrays) else list(named)[index - len(arrays)]
        if isinstance(array, np.ma.MaskedArray):
            raise InvalidTypeError(
                f"{name}: expected an array without a mask, which would be ignored, got a numpy.ma.MaskedArray. Fill "
                f"it: {name if name.isidentifier() else '...'}.filled(...)."
            )
        if not array_api_compat.is_array_api_obj(array) or isinstance(array, np.generic):
            if array is None:
                raise InvalidTypeError(f"{name}: expected an array, got None.")
            raise InvalidTypeError(
                f"{name}: expected an array, got a {type(array).__module__}.{type(array).__qualname__}. "
                f"Convert: capgpu.asarray({name if name.isidentifier() else '...'})."
            )
        if len(arrays) + len(named) > 1 and array_api_compat.is_torch_array(array):
            _reject_torch_mixture(name, (*arrays, *named.values()))
        space = array_api_compat.array_namespace(array)
        if first_space is None:
            first_name, first_space, first_array, first_type = name, space, array, type(array)
        elif space is not first_space:
            raise InvalidTypeError(_mixture(first_name, first_array, name, array))
    return first_space


def _reject_torch_mixture(name: str, arrays: Sequence[Any]) -> None:
    """Reject a tensor of torch among other arrays, with the conversion."""
    import array_api_compat

    other = next((array for array in arrays if not array_api_compat.is_torch_array(array)), None)
    if other is None or not array_api_compat.is_array_api_obj(other):
        return
    raise InvalidTypeError(torch_advice(name, on_device=is_device_array(other)))


def torch_advice(name: str, *, on_device: bool = False) -> str:
    """Return the message for a tensor of torch where an array is expected.

    Parameters
    ----------
    name : str
        The argument's name.
    on_device : bool
        Whether a CuPy array is expected.

    Returns
    -------
    str
        What was expected, and the conversion.
    """
    value = name if name.isidentifier() else "tensor"
    if on_device:
        return f"{name}: expected a CuPy array, got a torch.Tensor. Pass cupy.from_dlpack({value}.detach().cuda())."
    return f"{name}: expected a NumPy array, got a torch.Tensor. Pass {value}.detach().cpu().numpy()."


def _mixture(first: str, first_array: Any, second: str, second_array: Any) -> str:
    host, device = (first, second) if is_host_array(first_array) else (second, first)

    def call(function: str, name: str) -> str:
        return f"capgpu.{function}({name if name.isidentifier() else '...'})"

    return (
        f"{first} is a {_kind(first_array)} and {second} is a {_kind(second_array)}: arrays of one call must "
        f"live in one place. Move one of them: {call('asarray', host)} takes {host} to the current backend, "
        f"{call('to_numpy', device)} takes {device} to the host."
    )


def _kind(array: Any) -> str:
    kind = type(array)
    root = kind.__module__.split(".")[0]
    return {"numpy": "NumPy array (host)", "cupy": "CuPy array (device)"}.get(root, f"{root}.{kind.__name__}")
