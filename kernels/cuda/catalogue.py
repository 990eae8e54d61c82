"""Every kernel as data: where its source is, what it is compiled for, and how it is launched.

Launchers look their kernels up here, and the checks that compile everything for every architecture read the same list.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CATALOGUE", "REALS", "Entry", "compiler_options", "variants_of"]

#: Storage type of each dtype in CUDA C++, the type that sums are kept in, and what tells the preprocessor of it.
REALS = {
    "float32": ("float", "float", ""),
    "float64": ("double", "double", ""),
    "float16": ("__half", "float", "REAL_HALF"),
    "bfloat16": ("__nv_bfloat16", "float", "REAL_BFLOAT16"),
}

FULL = ("float32", "float64")
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
        Threads of a block; the most, where launches differ (``__launch_bounds__`` of the source).
    variants : tuple of mappings
        Macros of each variant, value by name; one empty mapping where there are no variants.
    shared : int
        Bytes of dynamic shared memory of a block; the most, where launches differ.
    cooperative : bool
        Whether all blocks of a launch are on the device at once.
    """

    name: str
    file: str
    dtypes: tuple[str, ...]
    block: int
    variants: tuple[tuple[tuple[str, int], ...], ...] = ((),)
    shared: int = 0
    cooperative: bool = False


_CELLS = ((("LSTM", 0),), (("LSTM", 1),))


def _recurrence(cell: str, backward: bool, tier: str, units: tuple[int, ...]) -> Entry:
    """Describe one direction of a recurrence in one tier: persistent blocks keep as much as the device lets them."""
    resident, tensor = tier != "_step", tier == "_tensor"
    macros = (("BACKWARD", int(backward)), ("RESIDENT", int(resident)), ("TENSOR_CORES", int(tensor)))
    return Entry(
        name=f"{cell}_{'backward' if backward else 'forward'}{tier}",
        file=f"{cell}.cu",
        dtypes=tuple(dtype for dtype in ALL if dtype != "float64") if tensor else ALL,
        block=256 if resident else 128,
        variants=tuple((*macros, ("UNITS", u)) for u in units),
        shared=227 * 1024 if resident else 48 * 1024,
        cooperative=resident,
    )


ENTRIES: tuple[Entry, ...] = (
    _recurrence("lstm", False, "", (4, 8, 16)),
    _recurrence("lstm", True, "", (8, 16, 32)),
    _recurrence("rnn", False, "", (8, 16, 32)),
    _recurrence("rnn", True, "", (8, 16, 32)),
    _recurrence("lstm", False, "_step", (8,)),
    _recurrence("lstm", True, "_step", (16,)),
    _recurrence("rnn", False, "_step", (16,)),
    _recurrence("rnn", True, "_step", (16,)),
    _recurrence("lstm", False, "_tensor", (4, 8, 16)),
    _recurrence("lstm", True, "_tensor", (8, 16, 32)),
    _recurrence("rnn", False, "_tensor", (8, 16, 32)),
    _recurrence("rnn", True, "_tensor", (8, 16, 32)),
    Entry("softmax_warps", "softmax.cu", ALL, 128),
    Entry("softmax_blocks", "softmax.cu", ALL, 256),
    Entry("sum_losses", "softmax.cu", ALL, 256),
    Entry("gather_rows", "embedding.cu", FULL, 256),
    Entry("segment_sums", "embedding.cu", FULL, 256),
    Entry("column_sums", "embedding.cu", FULL, 256),
    Entry("adam", "optimizer.cu", FULL, 256),
    Entry("momentum", "optimizer.cu", FULL, 256),
    Entry("square_sums", "optimizer.cu", FULL, 256),
    Entry("root_of_sum", "optimizer.cu", FULL, 256),
    Entry("decode_cell", "decode.cu", FULL, 256, _CELLS),
    Entry("choose_words", "decode.cu", FULL, 256, _CELLS),
    Entry("spin", "spin.cu", ("float32",), 32),
)

#: The kernels by the name of their entry point.
CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in ENTRIES}


def compiler_options(dtype: str, defines: tuple[tuple[str, int], ...] = ()) -> tuple[str, ...]:
    """Return the options of the compiler for one storage type and variant.

    Parameters
    ----------
    dtype : str
        Key of `REALS`.
    defines : tuple of (str, int)
        Macros of the variant.

    Returns
    -------
    tuple of str
        Options of NVRTC. CuPy adds ``-ftz=true`` (denormal float32 numbers are taken as zero), the architecture,
        and its folders of headers.
    """
    real, acc, told = REALS[dtype]
    macros = [f"-DREAL={real}", f"-DACC={acc}", *([f"-D{told}"] if told else [])]
    return ("-std=c++17", *macros, *(f"-D{name}={value}" for name, value in defines))


def variants_of(entry: Entry) -> list[tuple[str, tuple[tuple[str, int], ...]]]:
    """List every (dtype, macros) that an entry is compiled for."""
    return [(dtype, defines) for dtype in entry.dtypes for defines in entry.variants]
