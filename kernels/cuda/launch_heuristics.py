"""The algorithm and the launch configuration of a recurrence on the current device.

persistent
    One cooperative launch for all steps; each block keeps its columns of the recurrent weights in shared memory.
step
    One launch a step, the gates in the product's epilogue; it can be captured in a CUDA graph.
matmul
    One cuBLAS product a step and elementwise operations: the reference's code.

The heuristic, used unless `capgpu tune` has stored a measurement for the shape, is the algorithm with the smallest
estimated time of a step (`capgpu.kernels.cuda.cost`) among those that fit the device; *persistent* only for two steps
or more, since it loads the weights first. Whether a configuration fits (one block per multiprocessor, all resident at
once) is computed from the device's limits and the driver's occupancy.

With compute capability 8.0 and newer the persistent kernels use tensor cores. Products of half types are exact in the
float32 of the sums. A float32 is split into two TF32 numbers, so that three products are as precise as one in float32
(`SPLIT`), on devices where they take less time. With ``CAPGPU_TENSOR_CORES=1`` it is rounded to TF32 instead
(`ROUNDED`), which has 10 fraction bits, not 23. ``CAPGPU_TENSOR_CORES=0`` disables tensor cores for every type.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from capgpu.errors import InvalidValueError
from capgpu.kernels.cuda import compile, cost, tuning_cache
from capgpu.kernels.cuda.constants import (
    DEPTH,
    GATES,
    PACK_BYTES,
    WARP,
    WARPS,
    large_shared,
    left_rows,
    real_size,
    stages,
    tile_rows,
)
from capgpu.kernels.cuda.kernel_registry import TENSOR_CORES, UNITS

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

#: Kinds of products: by multiply-adds; by tensor cores with factors unchanged or rounded to TF32; by tensor cores with
#: factors split into two TF32 numbers. The values are those of the macro TENSOR_CORES.
PLAIN, ROUNDED, SPLIT = 0, 1, 2
_SUFFIXES = {PLAIN: "", **{value: suffix for suffix, value in TENSOR_CORES.items()}}

ALGORITHMS = ("persistent", "step", "matmul")


@dataclass(frozen=True)
class Pass:
    """One direction of one cell: the shape of its product and its kernels' variants.

    Attributes
    ----------
    gates : int
        Gates of the cell.
    has_state : bool
        Whether each unit has a number carried from step to step: the state c, or the part of h beside the product.
    backward : bool
        Whether the weights are transposed.
    units : tuple of int
        Hidden units per block in each variant of the persistent kernels.
    step_units : int
        Hidden units per block in the step kernels.
    launches : int
        Launches of a step of the matmul algorithm: one product, and the elementwise operations of
        `capgpu.kernels.reference.recurrence`, counted by hand.
    """

    gates: int
    has_state: bool
    backward: bool
    units: tuple[int, ...]
    step_units: int
    launches: int

    def columns(self, units: int) -> int:
        """Return the number of columns of the product that a block computes."""
        return units if self.backward else self.gates * units

    def depth(self, H: int) -> int:
        """Return the number of terms of each sum of the product."""
        return self.gates * H if self.backward else H


PASSES = {
    "lstm_forward": Pass(GATES["lstm"], True, False, *UNITS["lstm_forward"], 14),
    "lstm_backward": Pass(GATES["lstm"], True, True, *UNITS["lstm_backward"], 33),
    "gru_forward": Pass(GATES["gru"], True, False, *UNITS["gru_forward"], 16),
    "gru_backward": Pass(GATES["gru"], True, True, *UNITS["gru_backward"], 22),
    "rnn_forward": Pass(GATES["rnn"], False, False, *UNITS["rnn_forward"], 3),
    "rnn_backward": Pass(GATES["rnn"], False, True, *UNITS["rnn_backward"], 7),
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
        Number of blocks, and of threads per block (for step kernels the grid depends on the step: `step_grid`).
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
    config = _chosen.get(key)
    if config is None:
        config = _chosen[key] = _select(name, dtype, H, N, T)
    return config


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
    configs = [*_resident(name, dtype, H, N), _step(name, dtype, H, N), _matmul(name, dtype, H, N)]
    return [candidate for candidate in configs if _fits(candidate, name, dtype)]


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
    configs = []
    for units in PASSES[name].units if limits.cooperative else ():
        # rows of different groups do not synchronize, so all numbers of groups that fit are considered
        for groups in range(1, min(N, limits.multiprocessors // -(-H // units)) + 1):
            configs.append(persistent(name, dtype, H, N, units, groups))
    best: dict[int, LaunchConfig] = {}
    for candidate in sorted(configs, key=lambda candidate: (candidate.step_us, candidate.grid)):
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
    pass_info, size, blocks, rows = PASSES[name], real_size(dtype), -(-H // units), -(-N // groups)
    tensor_cores = tensor_cores_used(dtype)
    tile = tile_rows(size, True, pass_info.backward, units, pass_info.gates, tensor_cores > PLAIN, _large_shared())
    passes = {PLAIN: 0, ROUNDED: 1, SPLIT: 3}[tensor_cores]
    step = cost.Step(rows, pass_info.depth(H), pass_info.columns(units), size, tile, passes)
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
    """Return how the persistent recurrences of a type may use tensor cores, by environment variable and type.

    Parameters
    ----------
    dtype : str
        Storage type.

    Returns
    -------
    int
        `PLAIN` (no tensor cores) with ``CAPGPU_TENSOR_CORES=0`` and always for float64. Otherwise `ROUNDED` for half
        types, whose products are exact, and for float32 if the variable is ``1``; `SPLIT` for float32 if it is unset
        or empty.

    Raises
    ------
    ValueError
        If ``CAPGPU_TENSOR_CORES`` has any other value.
    """
    setting = os.environ.get("CAPGPU_TENSOR_CORES", "")
    if setting not in ("", "0", "1"):
        raise InvalidValueError(f"CAPGPU_TENSOR_CORES: expected 1, 0 or unset, got {setting!r}.")
    size = real_size(dtype)
    if size == 8 or setting == "0":
        return PLAIN
    return SPLIT if size == 4 and setting == "" else ROUNDED


def tensor_cores_used(dtype: str) -> int:
    """Return how the persistent recurrences of a type use tensor cores on the current device.

    This is `tensor_cores_wanted` from compute capability 8.0 on, and `PLAIN` before, without such instructions. Factors
    are split only if three TF32 products take less time than one in float32, unlike with 8.6, 8.9 and 12.0.
    """
    capability, requested = compile.device_limits().compute_capability, tensor_cores_wanted(dtype)
    rates = cost.rates(capability)
    if capability < (8, 0) or (requested == SPLIT and rates.tf32 <= 3 * rates.single):
        return PLAIN
    return requested


def _large_shared() -> bool:
    return large_shared(compile.device_limits().compute_capability)


def _machine() -> cost.Machine:
    limits = compile.device_limits()
    return cost.Machine(limits.compute_capability, limits.multiprocessors, limits.clock_hz)


def _step(name: str, dtype: str, H: int, N: int) -> LaunchConfig:
    pass_info, size = PASSES[name], real_size(dtype)
    units, tile = (
        pass_info.step_units,
        tile_rows(size, False, pass_info.backward, pass_info.step_units, pass_info.gates),
    )
    step = cost.Step(min(N, tile), pass_info.depth(H), pass_info.columns(units), size, tile)
    return LaunchConfig(
        algorithm="step",
        units=units,
        block=WARP * WARPS[False],
        shared=_shared_bytes(name, size, units, H, 0, "step"),
        step_us=cost.step_us(_machine(), step, step_grid(name, dtype, H, N)),
    )


def _matmul(name: str, dtype: str, H: int, N: int) -> LaunchConfig:
    pass_info = PASSES[name]
    step = cost.Step(N, pass_info.depth(H), pass_info.columns(H), real_size(dtype))
    return LaunchConfig("matmul", step_us=cost.matmul_us(_machine(), step, pass_info.launches))


def step_grid(name: str, dtype: str, H: int, rows: int) -> int:
    """Return the number of blocks of one launch of the step kernels, each for a tile of rows and some units."""
    pass_info = PASSES[name]
    return -(-H // pass_info.step_units) * -(
        -rows // tile_rows(real_size(dtype), False, pass_info.backward, pass_info.step_units, pass_info.gates)
    )


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
        Hidden units per block, and in total.
    rows : int
        Rows of the batch per block (persistent kernels).
    algorithm : str
        ``"persistent"`` or ``"step"``.
    tensor_cores : bool
        Whether tensor cores compute the products.

    Returns
    -------
    int
        Bytes: the warps' buffers, resident weights, and the cell's carried states.
    """
    pass_info, resident = PASSES[name], algorithm == "persistent"
    columns, tile = (
        pass_info.columns(units),
        tile_rows(size, resident, pass_info.backward, units, pass_info.gates, tensor_cores, _large_shared()),
    )
    pack, acc, right_elements = PACK_BYTES // size, max(size, 4), DEPTH * columns
    left_bytes = left_rows(size, resident, tile, _large_shared()) * (DEPTH + pack) * size
    stage = left_bytes + (0 if resident else stages(size, resident) * right_elements * size)
    warps = WARPS[resident] * max(stage, tile * columns * acc)
    if not resident:
        return warps
    carried = rows * units * acc if pass_info.has_state else 0
    return warps + -(-pass_info.depth(H) // DEPTH) * right_elements * size + carried
