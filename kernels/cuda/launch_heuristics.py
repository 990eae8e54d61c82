"""The algorithm and the launch configuration of a recurrence on the current device.

persistent
    One cooperative launch for all steps; each block keeps its columns of the recurrent weights in shared memory.
step
    One launch a step, the gates in the product's epilogue; it can be captured in a CUDA graph.
matmul
    One cuBLAS product a step and elementwise operations: the reference's code.

The heuristic, used unless `capgpu tune` has stored a measurement for the shape: the algorithm with the least estimated
time of a step (`capgpu.kernels.cuda.cost`) among those that fit the device; *persistent* for two steps or more only,
since it loads the weights first. Whether a configuration fits (one block a multiprocessor, all resident at once) is
computed from the device's limits and the driver's occupancy.

With compute capability 8.0 and newer the persistent kernels multiply with the tensor cores. Products of half types are
exact in the float32 that sums are kept in. A float32 is split into two TF32 numbers, so that three products are as
precise as one of float32 (`SPLIT`), on devices where they take less time; where ``CAPGPU_TENSOR_CORES=1`` asks for it,
it is rounded to one instead (`ROUNDED`): 10 bits behind the point, not 23. ``CAPGPU_TENSOR_CORES=0`` turns the tensor
cores off for every type.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from capgpu.errors import InvalidValueError
from capgpu.kernels.cuda import compile, cost, tuning_cache
from capgpu.kernels.cuda.constants import (
    DEPTH,
    PACK_BYTES,
    WARP,
    WARPS,
    left_lines,
    real_size,
    roomy,
    stages,
    tile_rows,
)
from capgpu.kernels.cuda.kernel_registry import TENSOR_CORES

__all__ = [
    "ALGORITHMS",
    "PASSES",
    "PLAIN",
    "ROUNDED",
    "SPLIT",
    "LaunchConfig",
    "Pass",
    "candidates",
    "choose",
    "forget",
    "persistent",
    "step_grid",
    "tensor_cores_used",
    "tensor_cores_wanted",
]

#: How the products are computed: by multiply-adds; by the tensor cores, of factors as they are or rounded to TF32; of
#: factors split into two TF32 numbers. The values are those of the macro TENSOR_CORES.
PLAIN, ROUNDED, SPLIT = 0, 1, 2
_SUFFIXES = {PLAIN: "", **{value: suffix for suffix, value in TENSOR_CORES.items()}}

ALGORITHMS = ("persistent", "step", "matmul")


@dataclass(frozen=True)
class Pass:
    """One direction of one cell, as its kernel sees it.

    Attributes
    ----------
    gates : int
        Gates of the cell.
    has_state : bool
        Whether the cell carries a state c beside h.
    backward : bool
        Whether the weights are transposed.
    units : tuple of int
        Hidden units of a block in each variant of the persistent kernels.
    step_units : int
        The same in the step kernels.
    launches : int
        Kernels of a step of the matmul algorithm: one product, and the elementwise operations of
        `capgpu.kernels.reference.recurrence`, counted by hand.
    """

    gates: int
    has_state: bool
    backward: bool
    units: tuple[int, ...]
    step_units: int
    launches: int

    def columns(self, units: int) -> int:
        """Columns of the product that a block computes."""
        return units if self.backward else self.gates * units

    def depth(self, H: int) -> int:
        """Terms of each sum of the product."""
        return self.gates * H if self.backward else H


PASSES = {
    "lstm_forward": Pass(4, True, False, (4, 8, 16), 8, 14),
    "lstm_backward": Pass(4, True, True, (8, 16, 32), 16, 33),
    "rnn_forward": Pass(1, False, False, (8, 16, 32), 16, 3),
    "rnn_backward": Pass(1, False, True, (8, 16, 32), 16, 7),
}


@dataclass(frozen=True)
class LaunchConfig:
    """How a recurrence is launched.

    Attributes
    ----------
    algorithm : str
        One of `ALGORITHMS`.
    units : int
        Hidden units of a block.
    groups : int
        Groups of blocks over which the rows of the batch are distributed (persistent kernels).
    grid, block : int
        Blocks, and threads of each (of a step the grid depends on its rows: `step_grid`).
    shared : int
        Bytes of dynamic shared memory of a block.
    step_us : float
        Estimated microseconds of a step of all rows, by which configurations are chosen.
    tensor_cores : int
        `PLAIN`, `ROUNDED` or `SPLIT` (persistent kernels).
    """

    algorithm: str
    units: int = 0
    groups: int = 0
    grid: int = 0
    block: int = 0
    shared: int = 0
    step_us: float = field(default=0.0, compare=False)
    tensor_cores: int = PLAIN

    def kernel(self, name: str, dtype: str) -> compile.Kernel:
        """Return the kernel of a pass in this algorithm and variant."""
        resident = self.algorithm == "persistent"
        return compile.kernel(
            f"{name}{_SUFFIXES[self.tensor_cores] if resident else '_step'}",
            dtype,
            BACKWARD=int(PASSES[name].backward),
            RESIDENT=int(resident),
            TENSOR_CORES=self.tensor_cores,
            UNITS=self.units,
        )


_chosen: dict[tuple[int, str, str, int, int, bool, int], LaunchConfig] = {}


def forget() -> None:
    """Clear the cache of configurations, after the device or the stored measurements have changed."""
    _chosen.clear()


def choose(name: str, dtype: str, H: int, N: int, T: int) -> LaunchConfig:
    """Choose the configuration of a recurrence by the stored measurement or the heuristic.

    Parameters
    ----------
    name : str
        Key of `PASSES`.
    dtype : str
        Storage type.
    H, N, T : int
        Hidden units, sequences, steps.

    Returns
    -------
    LaunchConfig
        The same object for the same shape on one device.
    """
    import cupy

    key = (cupy.cuda.runtime.getDevice(), name, dtype, H, N, T > 1, tensor_cores_wanted(dtype))
    found = _chosen.get(key)
    if found is None:
        found = _chosen[key] = _select(name, dtype, H, N, T)
    return found


def _select(name: str, dtype: str, H: int, N: int, T: int) -> LaunchConfig:
    if T > 1:
        stored = tuning_cache.lookup(compile.device_limits().name, tuning_cache.shape_key(name, dtype, H, N))
        if stored is not None:
            for candidate in candidates(name, dtype, H, N):
                if (candidate.algorithm, candidate.units) == stored:
                    return candidate
    configs = [*(_resident(name, dtype, H, N) if T > 1 else []), _step(name, dtype, H, N), _matmul(name, dtype, H, N)]
    # lazily: whether a configuration fits is known only after compiling it
    return next(config for config in sorted(configs, key=lambda config: config.step_us) if _fits(config, name, dtype))


def candidates(name: str, dtype: str, H: int, N: int) -> list[LaunchConfig]:
    """List every configuration that fits the current device: each persistent variant at its best grid, step, matmul.

    Parameters
    ----------
    name, dtype, H, N
        As for `choose`.

    Returns
    -------
    list of LaunchConfig
        Persistent ones by rising estimated time.
    """
    found = [*_resident(name, dtype, H, N), _step(name, dtype, H, N), _matmul(name, dtype, H, N)]
    return [candidate for candidate in found if _fits(candidate, name, dtype)]


def _fits(candidate: LaunchConfig, name: str, dtype: str) -> bool:
    """Return whether at least one block of a configuration fits a multiprocessor, by device limits and driver."""
    if candidate.algorithm == "matmul":
        return True
    if candidate.shared > compile.device_limits().shared_per_block:
        return False
    kernel = candidate.kernel(name, dtype)
    return kernel.max_blocks_per_multiprocessor(candidate.block, candidate.shared) > 0


def _resident(name: str, dtype: str, H: int, N: int) -> list[LaunchConfig]:
    limits = compile.device_limits()
    found = []
    for units in PASSES[name].units if limits.cooperative else ():
        # rows of different groups never wait for each other, so as many groups as fit
        for groups in range(1, min(N, limits.multiprocessors // -(-H // units)) + 1):
            found.append(persistent(name, dtype, H, N, units, groups))
    best: dict[int, LaunchConfig] = {}
    for candidate in sorted(found, key=lambda candidate: (candidate.step_us, candidate.grid)):
        if candidate.shared <= limits.shared_per_block:
            best.setdefault(candidate.units, candidate)
    return list(best.values())


def persistent(name: str, dtype: str, H: int, N: int, units: int, groups: int) -> LaunchConfig:
    """Return the configuration of the persistent kernels, whether it fits the device or not.

    Parameters
    ----------
    name, dtype, H, N
        As for `choose`.
    units : int
        Hidden units of a block: a variant of the pass.
    groups : int
        Groups of blocks, at most N.

    Returns
    -------
    LaunchConfig
        With the grid and the shared memory that follow.
    """
    kind, size, blocks, rows = PASSES[name], real_size(dtype), -(-H // units), -(-N // groups)
    tensor_cores = tensor_cores_used(dtype)
    tile = tile_rows(size, True, kind.backward, units, tensor_cores > PLAIN, _roomy())
    passes = {PLAIN: 0, ROUNDED: 1, SPLIT: 3}[tensor_cores]
    step = cost.Step(rows, kind.depth(H), kind.columns(units), size, tile, passes)
    return LaunchConfig(
        algorithm="persistent",
        units=units,
        groups=groups,
        grid=groups * blocks,
        block=WARP * WARPS[True],
        shared=_shared_bytes(name, size, units, H, rows, "persistent", tensor_cores > PLAIN),
        step_us=cost.persistent_us(_machine(), step),
        tensor_cores=tensor_cores,
    )


def tensor_cores_wanted(dtype: str) -> int:
    """Return how the persistent recurrences of a type may use the tensor cores.

    Parameters
    ----------
    dtype : str
        Storage type.

    Returns
    -------
    int
        `PLAIN`: not at all, as ``CAPGPU_TENSOR_CORES=0`` says, and always for float64, which they have no products of.
        Otherwise `ROUNDED` for half types (they are exact), and for float32 where the setting is ``1``; `SPLIT` for
        float32 where it is unset or empty.

    Raises
    ------
    ValueError
        For any other value of ``CAPGPU_TENSOR_CORES``.
    """
    setting = os.environ.get("CAPGPU_TENSOR_CORES", "")
    if setting not in ("", "0", "1"):
        raise InvalidValueError(f"CAPGPU_TENSOR_CORES={setting!r} is unknown: set it to 1 or 0, or unset it.")
    size = real_size(dtype)
    if size == 8 or setting == "0":
        return PLAIN
    return SPLIT if size == 4 and setting == "" else ROUNDED


def tensor_cores_used(dtype: str) -> int:
    """Return how the persistent recurrences of a type use the tensor cores of the current device.

    As `tensor_cores_wanted` says, from compute capability 8.0 on, where such instructions exist. Numbers are split
    where three products of TF32 take less time than one of float32, which they do not with 8.6, 8.9 and 12.0.
    """
    capability, wanted = compile.device_limits().compute_capability, tensor_cores_wanted(dtype)
    rates = cost.rates(capability)
    if capability < (8, 0) or (wanted == SPLIT and rates.tf32 <= 3 * rates.single):
        return PLAIN
    return wanted


def _roomy() -> bool:
    return roomy(compile.device_limits().compute_capability)


def _machine() -> cost.Machine:
    limits = compile.device_limits()
    return cost.Machine(limits.compute_capability, limits.multiprocessors, limits.clock_hz)


def _step(name: str, dtype: str, H: int, N: int) -> LaunchConfig:
    kind, size = PASSES[name], real_size(dtype)
    units, tile = kind.step_units, tile_rows(size, False, kind.backward, kind.step_units)
    step = cost.Step(min(N, tile), kind.depth(H), kind.columns(units), size, tile)
    return LaunchConfig(
        algorithm="step",
        units=units,
        block=WARP * WARPS[False],
        shared=_shared_bytes(name, size, units, H, 0, "step"),
        step_us=cost.step_us(_machine(), step, step_grid(name, dtype, H, N)),
    )


def _matmul(name: str, dtype: str, H: int, N: int) -> LaunchConfig:
    kind = PASSES[name]
    step = cost.Step(N, kind.depth(H), kind.columns(H), real_size(dtype))
    return LaunchConfig("matmul", step_us=cost.matmul_us(_machine(), step, kind.launches))


def step_grid(name: str, dtype: str, H: int, rows: int) -> int:
    """Return the blocks of one launch of the step kernels: a tile of rows and the units of a block each."""
    kind = PASSES[name]
    return -(-H // kind.step_units) * -(-rows // tile_rows(real_size(dtype), False, kind.backward, kind.step_units))


def _shared_bytes(
    name: str, size: int, units: int, H: int, rows: int, algorithm: str, tensor_cores: bool = False
) -> int:
    """Compute the shared memory of a block, by the layout in recurrent_gemm.cuh.

    Parameters
    ----------
    name : str
        Key of `PASSES`.
    size : int
        Bytes of a stored number.
    units, H : int
        Hidden units of a block, and in all.
    rows : int
        Rows of the batch that a block works on (persistent kernels).
    algorithm : str
        ``"persistent"`` or ``"step"``.
    tensor_cores : bool
        Whether the products are the tensor cores'.

    Returns
    -------
    int
        Buffers of the warps, resident weights, and the cell's carried states.
    """
    kind, resident = PASSES[name], algorithm == "persistent"
    columns, tile = kind.columns(units), tile_rows(size, resident, kind.backward, units, tensor_cores, _roomy())
    pack, acc, right = PACK_BYTES // size, max(size, 4), DEPTH * columns
    left_bytes = left_lines(size, resident, tile, _roomy()) * (DEPTH + pack) * size
    stage = left_bytes + (0 if resident else stages(size, resident) * right * size)
    warps = WARPS[resident] * max(stage, tile * columns * acc)
    if not resident:
        return warps
    carried = rows * units * acc if kind.has_state else 0
    return warps + -(-kind.depth(H) // DEPTH) * right * size + carried
