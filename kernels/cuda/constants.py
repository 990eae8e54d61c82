"""Constants that launchers and kernels share; defined here only, the compiler receives them as macros.

A source file that is compiled without one of its macros stops at an ``#error``. The shared memory that
`capgpu.kernels.cuda.launch_heuristics` computes is compared with the layout in recurrent_gemm.cuh at each
emulated launch.
"""

from __future__ import annotations

from collections.abc import Mapping

from capgpu.kernels.cells import CELLS

__all__ = [
    "ATTENTION_CELLS",
    "ATTENTION_THREADS",
    "CHUNK",
    "COLUMN_WARPS",
    "COUNTER_STRIDE",
    "DEPTH",
    "GATES",
    "HELD_SCORES",
    "LANE_ROWS",
    "MATRICES",
    "PACK_BYTES",
    "ROW_THREADS",
    "SETTINGS",
    "TENSORS",
    "THREADS",
    "WARP",
    "WARPS",
    "WARP_ROWS",
    "large_shared",
    "left_rows",
    "loads",
    "macros",
    "real_size",
    "stages",
    "tile_rows",
]

#: Threads of a warp, and bytes of the widest load or store, as in hardware.
WARP = 32
PACK_BYTES = 16

#: Threads of a block, unless a kernel has its own number.
THREADS = 256

# softmax.cu: rows (warps) of a block of softmax_warps; maximum of threads of a block of softmax_registers, and the
# scores that a thread holds, a multiple of 8. On an H100, 1215 rows of 10,000 float32 took 44.2 us with 32, 44.6 with
# 24 and 46.2 with 40, behind the product that makes them; read twice 61.9. With 9,999 scores a row: 45.9 and 102.9.
WARP_ROWS = 4
ROW_THREADS = 1024
HELD_SCORES = 32

# attention.cu: threads of a block, a unit each at H = 512; cells of a picture whose gradients a block sums
ATTENTION_THREADS = 512
ATTENTION_CELLS = 8

# embedding.cu: warps of a block, matrices of one launch of column_sums
COLUMN_WARPS = 8
MATRICES = 8

# optimizer.cu: parameters of one launch, elements of a block, numbers that a rule takes for each parameter
TENSORS = 16
CHUNK = 4096
SETTINGS = 8

# recurrent_gemm.cuh: terms of a chunk, rows of a warp's grid of lanes, warps of a block with and without resident
# weights, 32-bit words from one barrier counter to the next (different lines of the cache)
DEPTH = 16
LANE_ROWS = 4
WARPS = {True: 8, False: 4}
COUNTER_STRIDE = 32


#: Gates of each recurrent cell: pre-activations of a unit that take part in its product.
GATES = {name: cell.n_gates for name, cell in CELLS.items()}


def real_size(dtype: str) -> int:
    """Return the bytes of a stored number of a storage type, a key of `kernel_registry.REALS`."""
    return {"float64": 8, "float32": 4}.get(dtype, 2)


def tile_rows(
    size: int,
    resident: bool,
    backward: bool,
    units: int,
    gates: int,
    tensor_cores: bool = False,
    large_shared: bool = True,
) -> int:
    """Return the rows of the batch that a block of a recurrence multiplies at once.

    Small tiles are used for float64, which takes two registers; for multiply-adds of three gates, of which a lane has
    twelve columns (simt_mma.cuh); and where shared memory is scarce: in blocks with the weights of many units, and in
    backward passes, whose rows have up to four times as many elements.

    Parameters
    ----------
    size : int
        Bytes of a stored number.
    resident, backward, units, gates, tensor_cores
        The variant: weights resident in shared memory (persistent kernels), pass, hidden units of a block, gates of the
        cell, products by the tensor cores, which keep fewer numbers in registers.
    large_shared : bool
        Result of `large_shared` for the device.
    """
    three_gates = gates == 3 and not backward and not tensor_cores
    scarce = backward or (units >= 16 and not (tensor_cores and large_shared))
    small_tile = size == 8 or three_gates or (resident and scarce)
    return LANE_ROWS * (4 if small_tile else 8)


def stages(size: int, resident: bool) -> int:
    """Return the number of chunks that a warp prefetches to shared memory: 1 for float64 in step kernels, else 2."""
    return 1 if size == 8 and not resident else 2


def large_shared(capability: tuple[int, int]) -> bool:
    """Return whether a block can use 227 KB of shared memory (compute capability 9.x and 10.x), not 163 KB or less."""
    return capability[0] in (9, 10)


def loads(size: int, large_shared: bool) -> int:
    """Return the 16-byte loads that a thread of the persistent kernels have in flight.

    Loads go through shared memory, where 8 per thread take 40 KB, too much beside 128 KB of weights on an A100.
    float64 needs the registers for its sums.
    """
    return 8 if large_shared and size < 8 else 4


def left_rows(size: int, resident: bool, tile: int, large_shared: bool) -> int:
    """Return the number of rows of chunks of the left factor in a warp's part of shared memory.

    Parameters
    ----------
    size : int
        Bytes of a stored number.
    resident : bool
        Whether the weights are resident (persistent kernels): as many rows as the `loads` of all threads fetch.
        Otherwise the rows of `stages` chunks.
    tile : int
        Rows of a chunk.
    large_shared : bool
        Result of `large_shared` for the device.
    """
    return (
        loads(size, large_shared) * WARP * PACK_BYTES // (DEPTH * size) if resident else stages(size, resident) * tile
    )


def macros(file: str, dtype: str, defines: Mapping[str, int], large_shared: bool = True) -> dict[str, int]:
    """Return the macros that a source file is compiled with, besides its variant's.

    Parameters
    ----------
    file : str
        Name of a ``.cu`` file beside this one.
    dtype : str
        Storage type.
    defines : mapping of str to int
        Macros of the variant.
    large_shared : bool
        Result of `large_shared` for the device.

    Returns
    -------
    dict of str to int
        Value by name.
    """
    common = {"PACK_BYTES": PACK_BYTES}
    if file == "softmax.cu":
        held = 0 if real_size(dtype) == 8 else HELD_SCORES
        return common | {"THREADS": THREADS, "WARP_ROWS": WARP_ROWS, "ROW_THREADS": ROW_THREADS, "HELD": held}
    if file == "attention.cu":
        return common | {"THREADS": ATTENTION_THREADS, "CELLS": ATTENTION_CELLS}
    if file == "embedding.cu":
        return common | {"WARPS": COLUMN_WARPS, "MATRICES": MATRICES}
    if file == "optimizer.cu":
        return common | {"THREADS": THREADS, "TENSORS": TENSORS, "CHUNK": CHUNK, "SETTINGS": SETTINGS}
    if file in ("decode.cu", "dropout.cu"):
        return common | {"THREADS": THREADS}
    if file == "spin.cu":
        return common
    resident, backward, units = (defines[name] for name in ("RESIDENT", "BACKWARD", "UNITS"))
    size = real_size(dtype)
    gates, tensor_cores = GATES[file.removesuffix(".cu")], bool(defines["TENSOR_CORES"])
    tile = tile_rows(size, bool(resident), bool(backward), units, gates, tensor_cores, large_shared)
    return common | {
        "DEPTH": DEPTH,
        "LANE_ROWS": LANE_ROWS,
        "WARPS": WARPS[bool(resident)],
        "TILE_ROWS": tile,
        "STAGES": stages(size, bool(resident)),
        "LOADS": loads(size, large_shared),
        "COUNTER_STRIDE": COUNTER_STRIDE,
    }
