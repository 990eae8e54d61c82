"""Update rules over all parameters at once, and the norm of their gradients; the kernels are in optimizer.cu."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial, reduce
from numbers import Real
from operator import or_
from typing import Any

import numpy as np

from capgpu.kernels.cuda.array_checks import NULL, check_device, contiguous, empty, sum_dtype
from capgpu.kernels.cuda.compile import kernel
from capgpu.kernels.cuda.constants import CHUNK, SETTINGS, TENSORS, THREADS
from capgpu.kernels.cuda.workspace import Workspace, workspace

__all__ = ["adam_update", "gradient_norm", "launch_norm", "launch_update", "momentum_update"]


def _layout(dtype: Any) -> Any:
    """Return the dtype of the structure that describes the parameters of a launch."""
    one = np.dtype(
        {
            # of w, g, first, second, out
            "names": ["pointers", "size", "first_block", "aligned", "settings"],
            "formats": [(np.uint64, 5), np.int64, np.int32, np.int32, (dtype, SETTINGS)],
        },
        align=True,
    )
    return np.dtype([("at", one, TENSORS)], align=True)


_LAYOUTS: dict[str, Any] = {"f": _layout(np.float32), "d": _layout(np.float64)}
# the same bytes without fields, since CuPy would let NumPy describe all fields, which takes 40 us
_BYTES = {char: np.dtype((np.void, layout.itemsize)) for char, layout in _LAYOUTS.items()}


@lru_cache(maxsize=64)
def _parts(char: str, sizes: tuple[int, ...]) -> list[tuple[list[int], int, Any]]:
    """Divide parameters among launches; return for each the parameters' indices, its blocks and its structure."""
    nonempty = [index for index, size in enumerate(sizes) if size]
    parts = []
    for start in range(0, len(nonempty), TENSORS):
        indices = nonempty[start : start + TENSORS]
        structure, blocks = np.zeros((), _LAYOUTS[char]), 0
        for slot, index in enumerate(indices):
            structure["at"]["size"][slot] = sizes[index]
            structure["at"]["first_block"][slot] = blocks
            blocks -= -sizes[index] // CHUNK
        parts.append((indices, blocks, structure.reshape(1).view(np.uint64)))
    return parts


def _launches(dtype: Any, columns: Sequence[Sequence[Any] | None], settings: Any) -> Iterator[tuple[int, int, Any]]:
    """Yield the launches over all parameters as (number of parameters, number of blocks, argument structure).

    `columns` has for each pointer of the structure the arrays of all parameters, or None.
    """
    gradients = columns[1]
    assert gradients is not None
    zeros = [0] * len(gradients)
    by_column = [zeros if column is None else [array.data.ptr for array in column] for column in columns]
    by_parameter = list(zip(*by_column, strict=True))
    # all addresses are multiples of 16 if the low bits of their bitwise OR are 0
    aligned = [not reduce(or_, addresses) % 16 for addresses in by_parameter]
    sums = sum_dtype(dtype)
    for indices, blocks, template in _parts(sums.char, tuple([gradient.size for gradient in gradients])):
        words, count = template.copy(), len(indices)
        field = partial(_field, words, _LAYOUTS[sums.char]["at"].base.fields)
        field("pointers", np.uint64)[:count, :5] = [by_parameter[k] for k in indices]
        field("aligned", np.int32)[:count, 0] = [aligned[k] for k in indices]
        field("settings", sums)[:count, :SETTINGS] = settings[indices]
        yield count, blocks, words.view(_BYTES[sums.char])


def _field(words: Any, fields: Any, name: str, dtype: Any) -> Any:
    """Return a view of a structure's words with one row per parameter, which starts at the given field."""
    dtype = np.dtype(dtype)
    return words.view(dtype).reshape(TENSORS, -1)[:, fields[name][1] // dtype.itemsize :]


def _factor(dtype: Any, scale: Any) -> tuple[Any, Any]:
    """Return a scale as the kernels' two arguments: a number, and a zero-dimensional array or NULL."""
    dtype = sum_dtype(dtype)
    if isinstance(scale, Real):
        return dtype.type(scale), NULL
    check_device(scale=scale)
    return dtype.type(1), scale.astype(dtype, copy=False)


def _update(
    rule: str,
    params: Sequence[Any],
    grads: Sequence[Any],
    states: Sequence[Sequence[Any] | None],
    settings: Any,
    scale: Any,
) -> list[Any]:
    """Launch an update rule; return the new parameters. `states` are written in place, `settings` is (P, 8)."""
    dtype = params[0].dtype
    named = {"parameter": params, "gradient": grads, "first state": states[0], "second state": states[1]}
    check_device(**named)
    # all memory is allocated before anything is changed
    out = [empty(w.shape, dtype, "the updated parameters") for w in params]
    columns = ([contiguous(w) for w in params], [contiguous(g) for g in grads], *states, out)
    launch_update(rule, columns, settings, scale)
    return out


def launch_update(rule: str, columns: Sequence[Sequence[Any] | None], settings: Any, scale: Any) -> None:
    """Launch an update rule, once for up to 16 parameters.

    Parameters
    ----------
    rule : str
        ``"adam"`` or ``"momentum"``.
    columns : five sequences of array
        Parameters, gradients, first and second optimizer states (None if the rule has none), and the arrays for the new
        parameters, which may be the parameters themselves. Contiguous, of one dtype.
    settings : array of float, shape (P, 8)
        The rule's settings for each parameter, padded with zeros: on the host, or on the device in the type of sums
        (float64 for float64, else float32), where the kernel reads them when it runs.
    scale : float or array, shape ()
        Factor of all gradients.
    """
    params = columns[0]
    assert params is not None
    dtype = params[0].dtype
    factor, device_factor = _factor(dtype, scale)
    on_host = isinstance(settings, np.ndarray)
    by_value = settings if on_host else np.zeros((len(params), SETTINGS))
    n_launched = 0
    for count, blocks, structure in _launches(dtype, columns, by_value):
        dev_settings = NULL if on_host else settings[n_launched : n_launched + count]
        kernel(rule, dtype)(blocks, THREADS, (structure, np.int32(count), factor, device_factor, dev_settings))
        n_launched += count


def adam_update(
    params: list[Any], grads: list[Any], first: list[Any], second: list[Any], settings: Any, scale: Any
) -> tuple[list[Any], list[Any], list[Any]]:
    """Update all parameters by Adam; see `capgpu.kernels.reference.optimizer.adam_update`.

    One launch for up to 16 parameters. The running means are updated in place.
    """
    first, second = [contiguous(m) for m in first], [contiguous(v) for v in second]
    return _update("adam", params, grads, (first, second), settings, scale), first, second


def momentum_update(
    params: list[Any], grads: list[Any], velocities: list[Any] | None, settings: Any, scale: Any
) -> tuple[list[Any], list[Any] | None]:
    """Update all parameters by gradient descent; see `capgpu.kernels.reference.optimizer.momentum_update`.

    One launch for up to 16 parameters. Velocities are updated in place.
    """
    contiguous_velocities = None if velocities is None else [contiguous(u) for u in velocities]
    padded = np.zeros((len(params), SETTINGS))
    padded[:, :2] = settings
    return _update("momentum", params, grads, (contiguous_velocities, None), padded, scale), contiguous_velocities


def gradient_norm(grads: list[Any], max_norm: float) -> tuple[Any, Any]:
    """Compute the joint norm and its factor; see `capgpu.kernels.reference.optimizer.gradient_norm`.

    Two launches for up to 16 arrays.
    """
    check_device(gradient=grads)
    dtype = grads[0].dtype
    norm, factor = (empty((), sum_dtype(dtype), f"the {what} of the gradients") for what in ("norm", "factor"))
    launch_norm(workspace(), [contiguous(gradient) for gradient in grads], max_norm, norm, factor)
    return norm, factor


def launch_norm(space: Workspace, grads: Sequence[Any], max_norm: float, norm: Any, factor: Any) -> None:
    """Compute the joint norm of gradients, and the factor that clips them; two launches for up to 16 arrays.

    Parameters
    ----------
    space : Workspace
        Workspace for the sums of squares.
    grads : sequence of array
        Contiguous, of one dtype.
    max_norm : float
        The largest norm allowed.
    norm, factor : array, shape ()
        Get the results, as `gradient_norm` returns them.
    """
    dtype = grads[0].dtype
    chunks = sum(-(-gradient.size // CHUNK) for gradient in grads)
    partial = space.take("sums of squares", (chunks,), np.float64)
    n_blocks = 0
    for count, blocks, structure in _launches(dtype, (None, grads, None, None, None), np.zeros((len(grads), SETTINGS))):
        kernel("square_sums", dtype)(
            blocks, THREADS, (structure, np.int32(count), partial[n_blocks : n_blocks + blocks])
        )
        n_blocks += blocks
    limit = sum_dtype(dtype).type(max_norm)
    kernel("root_of_sum", dtype)(1, THREADS, (partial, np.int32(n_blocks), norm, factor, limit))
