"""The list of all kernels: source file, dtypes, variants and launch properties.

Launchers look up their kernels here, and the checks that compile everything for every architecture use the same list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from capgpu.kernels.cuda.constants import (
    ATTENTION_THREADS,
    COLUMN_WARPS,
    GATES,
    ROW_THREADS,
    THREADS,
    WARP,
    WARP_ROWS,
    WARPS,
    macros,
)

__all__ = ["REALS", "REGISTRY", "TENSOR_CORES", "UNITS", "Entry", "Units", "compiler_options", "variants_of"]

#: Storage type of each dtype in CUDA C++, the type that sums are kept in, and its preprocessor macro.
REALS = {
    "float32": ("float", "float", ""),
    "float64": ("double", "double", ""),
    "float16": ("__half", "float", "REAL_HALF"),
    "bfloat16": ("__nv_bfloat16", "float", "REAL_BFLOAT16"),
}

ALL = tuple(REALS)


@dataclass(frozen=True)
class Entry:
    """One kernel.

    Attributes
    ----------
    name : str
        Entry point, ``extern "C" __global__``.
    file : str
        Source file beside this one.
    dtypes : tuple of str
        Storage types it is compiled for, keys of `REALS`.
    block : int
        Threads of a block; the maximum if launches differ (``__launch_bounds__`` of the source).
    variants : tuple of mappings
        Macros of each variant, value by name; one empty mapping if there are no variants.
    shared : int
        Bytes of dynamic shared memory of a block; the maximum if launches differ.
    cooperative : bool
        Whether launches are cooperative: all blocks are resident at once.
    """

    name: str
    file: str
    dtypes: tuple[str, ...]
    block: int
    variants: tuple[tuple[tuple[str, int], ...], ...] = ((),)
    shared: int = 0
    cooperative: bool = False


#: Value of the macro TENSOR_CORES by the suffix of a kernel's name: factors unchanged or rounded, or split.
TENSOR_CORES = {"_tensor": 1, "_split": 2}

_CELLS = tuple((("GATES", gates),) for gates in sorted(GATES.values()))


class Units(NamedTuple):
    """Hidden units of a block, in the kernels of one direction of a recurrence.

    Attributes
    ----------
    persistent : tuple of int
        In each variant of the persistent kernels.
    step : int
        In the step kernel.
    """

    persistent: tuple[int, ...]
    step: int


#: The recurrences: those of each cell, forward and backward.
UNITS = {
    "lstm_forward": Units((4, 8, 16), 8),
    "lstm_backward": Units((8, 16, 32), 16),
    "gru_forward": Units((8, 16), 8),
    "gru_backward": Units((8, 16, 32), 16),
    "rnn_forward": Units((8, 16, 32), 16),
    "rnn_backward": Units((8, 16, 32), 16),
}


def _recurrence(name: str, variant: str) -> Entry:
    """Return the entry of one direction of a recurrence in one variant."""
    cell, direction = name.split("_")
    backward, units = direction == "backward", UNITS[name]
    resident = variant != "_step"
    macros = (("BACKWARD", int(backward)), ("RESIDENT", int(resident)), ("TENSOR_CORES", TENSOR_CORES.get(variant, 0)))
    dtypes = {"_tensor": tuple(dtype for dtype in ALL if dtype != "float64"), "_split": ("float32",)}
    return Entry(
        name=f"{name}{variant}",
        file=f"{cell}.cu",
        dtypes=dtypes.get(variant, ALL),
        block=WARP * WARPS[resident],
        variants=tuple((*macros, ("UNITS", u)) for u in (units.persistent if resident else (units.step,))),
        shared=227 * 1024 if resident else 48 * 1024,
        cooperative=resident,
    )


ENTRIES: tuple[Entry, ...] = (
    *(_recurrence(name, variant) for variant in ("", "_step", *TENSOR_CORES) for name in UNITS),
    Entry("softmax_warps", "softmax.cu", ALL, WARP * WARP_ROWS),
    Entry("softmax_registers", "softmax.cu", tuple(dtype for dtype in ALL if dtype != "float64"), ROW_THREADS),
    Entry("softmax_blocks", "softmax.cu", ALL, THREADS),
    Entry("sum_losses", "softmax.cu", ALL, THREADS),
    Entry("attend", "attention.cu", ALL, ATTENTION_THREADS),
    Entry("attention_lstm_forward", "attention.cu", ALL, ATTENTION_THREADS),
    Entry("attention_lstm_backward", "attention.cu", ALL, ATTENTION_THREADS),
    Entry("attention_gradient", "attention.cu", ALL, ATTENTION_THREADS),
    Entry("dropout", "dropout.cu", ALL, THREADS),
    Entry("gather_rows", "embedding.cu", ALL, WARP * COLUMN_WARPS),
    Entry("scatter_rows", "embedding.cu", ALL, WARP * COLUMN_WARPS),
    Entry("add_rows", "embedding.cu", ALL, WARP * COLUMN_WARPS),
    Entry("add_bias", "embedding.cu", ALL, WARP * COLUMN_WARPS),
    Entry("segment_sums", "embedding.cu", ALL, WARP * COLUMN_WARPS),
    Entry("column_sums", "embedding.cu", ALL, WARP * COLUMN_WARPS),
    Entry("adam", "optimizer.cu", ALL, THREADS),
    Entry("momentum", "optimizer.cu", ALL, THREADS),
    Entry("square_sums", "optimizer.cu", ALL, THREADS),
    Entry("root_of_sum", "optimizer.cu", ALL, THREADS),
    Entry("decode_cell", "decode.cu", ALL, THREADS, _CELLS),
    Entry("choose_words", "decode.cu", ALL, THREADS, _CELLS),
    Entry("spin", "spin.cu", ("float32",), WARP),
)

#: The kernels by the name of their entry point.
REGISTRY: dict[str, Entry] = {entry.name: entry for entry in ENTRIES}


def compiler_options(
    file: str, dtype: str, defines: tuple[tuple[str, int], ...] = (), large_shared: bool = True
) -> tuple[str, ...]:
    """Return the options of the compiler for one source file, storage type and variant.

    Parameters
    ----------
    file : str
        Name of a ``.cu`` file beside this one.
    dtype : str
        Key of `REALS`.
    defines : tuple of (str, int)
        Macros of the variant.
    large_shared : bool
        Result of `capgpu.kernels.cuda.constants.large_shared` for the device.

    Returns
    -------
    tuple of str
        Options of NVRTC. CuPy adds ``-ftz=true`` (denormal float32 numbers are taken as zero), the architecture,
        and its folders of headers.
    """
    real, acc, macro = REALS[dtype]
    types = [f"-DREAL={real}", f"-DACC={acc}", *([f"-D{macro}"] if macro else [])]
    numbers = {**dict(defines), **macros(file, dtype, dict(defines), large_shared)}
    return ("-std=c++17", *types, *(f"-D{name}={value}" for name, value in numbers.items()))


def variants_of(entry: Entry) -> list[tuple[str, tuple[tuple[str, int], ...]]]:
    """List every (dtype, macros) that an entry is compiled for."""
    return [(dtype, defines) for dtype in entry.dtypes for defines in entry.variants]
