"""The contract of the kernels: few operations, at the level at which fusing pays.

Every operation has one plain definition in `capgpu.kernels.reference`, which is also its documentation: shapes,
meaning, what may be overwritten. A target (``cpu``, ``cuda``) replaces single operations by fused ones that must
give the same results. `kernels_for` is the one place that decides which implementation serves an array.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from capgpu.backend import (
    Array,
    compilation_disabled,
    current_backend,
    has_interpreter_lock,
    is_host_array,
    kernels_setting,
)
from capgpu.dtypes import is_bfloat16
from capgpu.kernels.half import kernels_in_float32
from capgpu.kernels.loading import undisturbed
from capgpu.kernels.reserve import IMPORTING, require_memory

__all__ = [
    "COMPILED_FROM",
    "OPERATIONS",
    "Dropout",
    "Kernels",
    "LossOptions",
    "compile_seconds",
    "host_kernels",
    "kernels_for",
]

#: Elements from which float64 arrays on the host are served by compiled kernels. Compiling those of an LSTM takes 13 s
#: of processor time on a machine that has not done it yet; an LSTM layer of this size takes the reference 10 ms
#: (N 64, T 16, D 64, H 64, forward and backward), so that thousands of calls would have to follow to gain that back.
COMPILED_FROM = 2**16


@dataclass(frozen=True)
class Dropout:
    """Inverted dropout of one array: its mask is ``capgpu.random.dropout_mask(key, rate, array.shape, array)``.

    Attributes
    ----------
    key : int
        Decides the mask, on every target alike.
    rate : float
        Probability of an element to be dropped, in ``(0, 1)``.
    """

    key: int
    rate: float


@dataclass(frozen=True)
class LossOptions:
    """How a captioner's training loss is computed.

    Attributes
    ----------
    feature_dropout : Dropout, optional
        Applied to the features, shape (N, D).
    output_dropout : Dropout, optional
        Applied to the packed hidden states, shape (M, H), before the vocabulary projection.
    smoothing : float
        Part of each true word's probability that is spread evenly over the vocabulary, in ``[0, 1)``.
    tied : bool
        Whether ``W_vocab`` is ``W_embed`` transposed, so that the gradient of ``W_embed`` is the sum of both uses.
    """

    feature_dropout: Dropout | None = None
    output_dropout: Dropout | None = None
    smoothing: float = 0.0
    tied: bool = False


@dataclass(frozen=True)
class Kernels:
    """One implementation of every operation of the contract.

    Attributes
    ----------
    name : str
        ``"reference"``, or the target whose fused kernels are in.
    pack_captions : callable
        The layout of a minibatch of captions; host integers on every backend.
    matmul : callable
        Matrix product with optional transposes and bias.
    lstm_forward, lstm_backward, rnn_forward, rnn_backward : callable
        The whole recurrence over a packed sequence.
    decode_step : callable
        One step of decoding: cell and vocabulary projection.
    top_words : callable
        The most probable words of rows of scores, and their log-probabilities.
    softmax_cross_entropy, linear_cross_entropy : callable
        Loss and gradient from scores, and from hidden states through the vocabulary projection; the latter with
        smoothed labels and dropout.
    take_rows : callable
        Rows of a matrix, with dropout.
    embedding_gradient, column_sums : callable
        Rows summed by token, and all of them, in a fixed order.
    adam_update, momentum_update, gradient_norm : callable
        Update rules over all parameters at once, and the joint norm of their gradients.
    caption_gradients : callable
        The model's whole pass in one call, for batches so small that calls are all the cost.
    greedy_captions : callable
        Greedy decoding in one call.
    """

    name: str
    pack_captions: Callable[..., Any]
    matmul: Callable[..., Any]
    lstm_forward: Callable[..., Any]
    lstm_backward: Callable[..., Any]
    rnn_forward: Callable[..., Any]
    rnn_backward: Callable[..., Any]
    decode_step: Callable[..., Any]
    top_words: Callable[..., Any]
    softmax_cross_entropy: Callable[..., Any]
    linear_cross_entropy: Callable[..., Any]
    take_rows: Callable[..., Any]
    embedding_gradient: Callable[..., Any]
    column_sums: Callable[..., Any]
    adam_update: Callable[..., Any]
    momentum_update: Callable[..., Any]
    gradient_norm: Callable[..., Any]
    caption_gradients: Callable[..., Any]
    greedy_captions: Callable[..., Any]


OPERATIONS = tuple(name for name in Kernels.__dataclass_fields__ if name != "name")


def kernels_for(array: Array) -> Kernels:
    """Choose the kernels that serve an array, by where it lives, its dtype and the settings.

    Parameters
    ----------
    array : array
        A floating array of the call (all arrays of one call share library and dtype).

    Returns
    -------
    Kernels
        The fused kernels of the array's target where they serve its dtype, otherwise the reference. On the
        host the fused kernels are the ``cpu`` backend's, unless the backend in force is ``numpy``. float32 arrays on
        the host always have compiled kernels; float64 arrays have them from `COMPILED_FROM` elements on. What has no
        kernels for bfloat16 computes in float32 and rounds the results.
    """
    dtype = array.dtype
    bfloat16 = is_bfloat16(dtype)
    if is_host_array(array):
        if bfloat16:
            return kernels_in_float32(host_kernels())
        compiled = dtype.char == "f" or (dtype.char == "d" and array.size >= COMPILED_FROM)
        if compiled and dtype.isnative:
            return host_kernels()
    elif type(array).__module__ == "cupy" and (bfloat16 or dtype.char in "fde") and kernels_setting() == "fused":
        from capgpu.kernels.cuda import KERNELS as cuda

        return cuda
    from capgpu.kernels.reference import KERNELS as reference

    return kernels_in_float32(reference) if bfloat16 else reference


def host_kernels() -> Kernels:
    """Choose the kernels that work on host memory, whatever the backend of the model's arrays.

    Returns
    -------
    Kernels
        The ``cpu`` backend's, unless the backend in force is ``numpy``, the setting is ``reference``, or Numba is
        not installed or told not to compile.
    """
    if kernels_setting() == "fused":
        backend = current_backend().name
        if backend == "cpu" or (backend == "cuda" and _numba_usable()):
            return _compiled_kernels()
    from capgpu.kernels.reference import KERNELS as reference

    return reference


def _compiled_kernels() -> Kernels:
    """Return the ``cpu`` backend's kernels."""
    global _compiled
    if _compiled is None:
        _compiled = undisturbed(_import_compiled_kernels)
    return _compiled


def _import_compiled_kernels() -> Kernels:
    if "capgpu.kernels.cpu" not in sys.modules:
        require_memory(IMPORTING, "import Numba")
    from capgpu.kernels.cpu import KERNELS as fused

    return fused


#: The ``cpu`` backend's kernels once they have been imported.
_compiled: Kernels | None = None


def compile_seconds() -> float:
    """Return the time that this process has spent on compiling kernels for the host.

    Returns
    -------
    float
        Seconds; code that is loaded from disk does not count.
    """
    loaded = sys.modules.get("capgpu.kernels.cpu.compile_notice")
    notice = getattr(loaded, "notice", None)  # None while it is imported
    return 0.0 if notice is None else float(notice.seconds)


@functools.cache
def _numba_usable() -> bool:
    return find_spec("numba") is not None and has_interpreter_lock() and not compilation_disabled()
