"""The kernels: few operations, at the level at which fusing pays.

The class `capgpu.kernels.reference.Kernels` defines the contract: every operation with its types, its documentation
(shapes, meaning, what may be overwritten) and one plain implementation. A target (``cpu``, ``cuda``) is a subclass that
replaces operations by fused ones with the same results. `kernels_for` is the one place that decides which of them
serves an array.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

from capgpu.array_libraries import compiler_problem
from capgpu.backend import Array, host_choice, is_device_array, is_host_array, kernels_setting
from capgpu.dtypes import is_bfloat16
from capgpu.kernels.contract import (
    AttentionStates,
    CaptionBatch,
    DecodingWeights,
    Dropout,
    LossOptions,
    Precision,
    RowGroups,
    States,
    check_precision,
    split_biases,
)
from capgpu.kernels.half import kernels_in_float32
from capgpu.kernels.loading import undisturbed
from capgpu.kernels.reserve import IMPORTING, require_memory
from capgpu.kernels.rounded import with_rounded_products

if TYPE_CHECKING:
    from capgpu.kernels.reference import Kernels

__all__ = [
    "COMPILED_FROM",
    "AttentionStates",
    "CaptionBatch",
    "DecodingWeights",
    "Dropout",
    "LossOptions",
    "Precision",
    "RowGroups",
    "States",
    "check_precision",
    "compile_seconds",
    "host_kernels",
    "kernels_for",
    "split_biases",
]

#: Elements from which float64 arrays on the host are served by compiled kernels. Compiling those of an LSTM takes 13 s
#: of processor time on a machine that has not done it yet; an LSTM layer of this size takes the reference 10 ms
#: (N 64, T 16, D 64, H 64, forward and backward), so that thousands of calls would have to follow to gain that back.
COMPILED_FROM = 2**16


def kernels_for(array: Array, precision: Precision = "float32") -> Kernels:
    """Choose the kernels that serve an array, by where it lives, its dtype and the settings.

    Parameters
    ----------
    array : array
        A floating array of the call (all arrays of one call share library and dtype).
    precision : {"float32", "bf16"}
        How products read their factors; ``"bf16"`` is for float32 arrays.

    Returns
    -------
    Kernels
        The fused kernels of the array's target where they serve its dtype, otherwise the reference. On the
        host the fused kernels are the ``cpu`` backend's, unless the backend in force is ``numpy``. float32 arrays on
        the host always have compiled kernels; float64 arrays have them from `COMPILED_FROM` elements on. What has no
        kernels for bfloat16 computes in float32 and rounds the results.

    Raises
    ------
    ValueError
        For an unknown precision.
    TypeError
        For ``"bf16"`` where the array's dtype is not float32.
    """
    if precision != "float32":
        check_precision(precision, array.dtype)
        return with_rounded_products(kernels_for(array))
    dtype = array.dtype
    bfloat16 = is_bfloat16(dtype)
    if is_host_array(array):
        if bfloat16:
            return kernels_in_float32(host_kernels())
        compiled = dtype.char == "f" or (dtype.char == "d" and array.size >= COMPILED_FROM)
        if compiled and dtype.isnative:
            return host_kernels()
    elif is_device_array(array) and (bfloat16 or dtype.char in "fde") and kernels_setting() == "fused":
        from capgpu.kernels.cuda import KERNELS as cuda

        return cuda
    from capgpu.kernels.reference import KERNELS as reference

    return kernels_in_float32(reference) if bfloat16 else reference


def host_kernels() -> Kernels:
    """Choose the kernels that work on host memory, whatever the backend of the model's arrays.

    Returns
    -------
    Kernels
        The ``cpu`` backend's, unless the backend in force is ``numpy``, the setting is ``reference``, or Numba cannot
        compile here. No device is opened to find out.
    """
    if kernels_setting() == "fused":
        backend = host_choice()
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
    return compiler_problem() is None
