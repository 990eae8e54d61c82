"""Which of three ways a recurrence takes on the current device, and with which grid.

persistent
    One cooperative launch for all steps; each block keeps its columns of the recurrent weights in shared memory.
step
    One launch a step, the gates in the product's epilogue; it can be captured in a CUDA graph.
matmul
    One cuBLAS product a step and elementwise operations: the reference's code.

The rule, where `capgpu tune` has stored no measured choice for the shape: *matmul* where a step has more than 2**29
multiply-adds, since such products keep a device busy by themselves; else *persistent* where there are two steps or
more and some variant fits the device; else *step*. Fitting is computed, not assumed: one block a multiprocessor, all of
them on the device at once, by its own limits and the driver's occupancy. Among the variants that fit the one with the
fewest computed cycles a step is taken.

``CAPGPU_TENSOR_CORES=1`` lets the persistent tier multiply with the tensor cores (compute capability 8.0 and newer):
float32 is rounded to TF32 before it is multiplied, 10 bits behind the point instead of 23; half types lose nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from capgpu.kernels.cuda import choices, module
from capgpu.kernels.cuda.constants import (
    DEPTH,
    LANE_ROWS,
    PACK_BYTES,
    WARP,
    WARPS,
    real_size,
    stages,
    tile_rows,
)

__all__ = [
    "PASSES",
    "TIERS",
    "Pass",
    "Plan",
    "candidates",
    "forget",
    "persistent",
    "plan",
    "step_grid",
    "tensor_cores_wanted",
]

TIERS = ("persistent", "step", "matmul")

#: Multiply-adds of a step beyond which one cuBLAS product a step is left alone.
LARGE_STEP = 2**29

# For comparing variants: what a multiprocessor does in a cycle.
_MULTIPLY_ADDS = 128
_L2_BYTES = 48


@dataclass(frozen=True)
class Pass:
    """One direction of one cell, as its kernel sees it.

    Attributes
    ----------
    gates : int
        Gates of the cell.
    backward : bool
        Whether the weights are transposed.
    units : tuple of int
        Hidden units of a block in each variant of the persistent tier.
    step_units : int
        The same in the step tier.
    """

    gates: int
    backward: bool
    units: tuple[int, ...]
    step_units: int

    def columns(self, units: int) -> int:
        """Columns of the product that a block computes."""
        return units if self.backward else self.gates * units

    def depth(self, H: int) -> int:
        """Terms of each sum of the product."""
        return self.gates * H if self.backward else H


PASSES = {
    "lstm_forward": Pass(4, False, (4, 8, 16), 8),
    "lstm_backward": Pass(4, True, (8, 16, 32), 16),
    "rnn_forward": Pass(1, False, (8, 16, 32), 16),
    "rnn_backward": Pass(1, True, (8, 16, 32), 16),
}


@dataclass(frozen=True)
class Plan:
    """How a recurrence is launched.

    Attributes
    ----------
    tier : str
        One of `TIERS`.
    units : int
        Hidden units of a block.
    groups : int
        Groups of blocks among which the rows of the batch are dealt out (persistent tier).
    grid, block : int
        Blocks, and threads of each (of a step the grid depends on its rows: `step_grid`).
    shared : int
        Bytes of dynamic shared memory of a block.
    cycles : float
        Computed cycles of a step, for comparing persistent variants.
    tensor_cores : bool
        Whether the products are the tensor cores' (persistent tier).
    """

    tier: str
    units: int = 0
    groups: int = 0
    grid: int = 0
    block: int = 0
    shared: int = 0
    cycles: float = 0.0
    tensor_cores: bool = False

    def kernel(self, name: str, dtype: str) -> module.Kernel:
        """Return the kernel of a pass in this plan's tier and variant."""
        resident = self.tier == "persistent"
        return module.kernel(
            f"{name}{'_tensor' if self.tensor_cores else '' if resident else '_step'}",
            dtype,
            BACKWARD=int(PASSES[name].backward),
            RESIDENT=int(resident),
            TENSOR_CORES=int(self.tensor_cores),
            UNITS=self.units,
        )


_plans: dict[tuple[int, str, str, int, int, bool, bool], Plan] = {}


def forget() -> None:
    """Forget all plans: the device or the stored choices have changed."""
    _plans.clear()


def plan(name: str, dtype: str, H: int, N: int, T: int) -> Plan:
    """Choose the tier of a recurrence by the stored measurement or the rule.

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
    Plan
        The same object for the same shape on one device.
    """
    import cupy

    key = (cupy.cuda.runtime.getDevice(), name, dtype, H, N, T > 1, tensor_cores_wanted())
    found = _plans.get(key)
    if found is None:
        found = _plans[key] = _choose(name, dtype, H, N, T)
    return found


def _choose(name: str, dtype: str, H: int, N: int, T: int) -> Plan:
    if T > 1:
        stored = choices.lookup(module.device_limits().name, choices.shape_key(name, dtype, H, N))
        if stored is not None:
            for candidate in candidates(name, dtype, H, N):
                if (candidate.tier, candidate.units) == stored:
                    return candidate
    if N * PASSES[name].gates * H * H > LARGE_STEP:
        return Plan("matmul")
    if T > 1:
        for candidate in _resident(name, dtype, H, N):
            if _fits(candidate, name, dtype):
                return candidate
    step = _step(name, dtype, H)
    return step if _fits(step, name, dtype) else Plan("matmul")


def candidates(name: str, dtype: str, H: int, N: int) -> list[Plan]:
    """List every plan that fits the current device: each persistent variant at its best grid, step, matmul.

    Parameters
    ----------
    name, dtype, H, N
        As for `plan`.

    Returns
    -------
    list of Plan
        Persistent ones by rising computed cycles.
    """
    found = [*_resident(name, dtype, H, N), _step(name, dtype, H)]
    return [candidate for candidate in found if _fits(candidate, name, dtype)] + [Plan("matmul")]


def _fits(candidate: Plan, name: str, dtype: str) -> bool:
    """Ask device and driver whether a block of the plan runs at all: one is on every multiprocessor then."""
    if candidate.shared > module.device_limits().shared_per_block:
        return False
    kernel = candidate.kernel(name, dtype)
    return kernel.max_blocks_per_multiprocessor(candidate.block, candidate.shared) > 0


def _resident(name: str, dtype: str, H: int, N: int) -> list[Plan]:
    limits = module.device_limits()
    found = []
    for units in PASSES[name].units if limits.cooperative else ():
        # rows of different groups never wait for each other, so as many groups as there is room for
        for groups in range(1, min(N, limits.multiprocessors // -(-H // units)) + 1):
            found.append(persistent(name, dtype, H, N, units, groups))
    best: dict[int, Plan] = {}
    for candidate in sorted(found, key=lambda candidate: (candidate.cycles, candidate.grid)):
        if candidate.shared <= limits.shared_per_block:
            best.setdefault(candidate.units, candidate)
    return list(best.values())


def persistent(name: str, dtype: str, H: int, N: int, units: int, groups: int) -> Plan:
    """Lay out the persistent tier, whether it fits the device or not.

    Parameters
    ----------
    name, dtype, H, N
        As for `plan`.
    units : int
        Hidden units of a block: a variant of the pass.
    groups : int
        Groups of blocks, at most N.

    Returns
    -------
    Plan
        With the grid and the shared memory that follow.
    """
    size, blocks, rows = real_size(dtype), -(-H // units), -(-N // groups)
    return Plan(
        tier="persistent",
        units=units,
        groups=groups,
        grid=groups * blocks,
        block=WARP * WARPS[True],
        shared=_shared_bytes(name, size, units, H, rows, "persistent"),
        cycles=_cycles(name, size, units, H, rows),
        tensor_cores=_tensor_cores_serve(dtype),
    )


def tensor_cores_wanted() -> bool:
    """Return whether ``CAPGPU_TENSOR_CORES`` asks for the tensor cores in the persistent recurrences.

    Returns
    -------
    bool
        False where it is unset, empty or ``0``; True for ``1``.

    Raises
    ------
    ValueError
        For any other value.
    """
    setting = os.environ.get("CAPGPU_TENSOR_CORES", "0") or "0"
    if setting not in ("0", "1"):
        raise ValueError(f"CAPGPU_TENSOR_CORES={setting!r} is unknown: set it to 1 or 0, or unset it.")
    return setting == "1"


def _tensor_cores_serve(dtype: str) -> bool:
    return dtype != "float64" and tensor_cores_wanted() and module.device_limits().compute_capability >= (8, 0)


def _step(name: str, dtype: str, H: int) -> Plan:
    units = PASSES[name].step_units
    shared = _shared_bytes(name, real_size(dtype), units, H, 0, "step")
    return Plan(tier="step", units=units, block=WARP * WARPS[False], shared=shared)


def step_grid(name: str, dtype: str, H: int, rows: int) -> int:
    """Return the blocks of one launch of the step tier: a tile of rows and the units of a block each."""
    kind = PASSES[name]
    return -(-H // kind.step_units) * -(-rows // tile_rows(real_size(dtype), False, kind.backward, kind.step_units))


def _shared_bytes(name: str, size: int, units: int, H: int, rows: int, tier: str) -> int:
    """Compute the shared memory of a block, by the layout in recurrence.cuh.

    Parameters
    ----------
    name : str
        Key of `PASSES`.
    size : int
        Bytes of a stored number.
    units, H : int
        Hidden units of a block, and in all.
    rows : int
        Rows of the batch that a block works on (persistent tier).
    tier : str
        ``"persistent"`` or ``"step"``.

    Returns
    -------
    int
        Buffers of the warps, slab of the weights, and an LSTM's carried cells.
    """
    kind, resident = PASSES[name], tier == "persistent"
    columns, tile = kind.columns(units), tile_rows(size, resident, kind.backward, units)
    pack, acc, right = PACK_BYTES // size, max(size, 4), DEPTH * columns
    stage = stages(size, resident) * (tile * (DEPTH + pack) + (0 if resident else right)) * size
    warps = WARPS[resident] * max(stage, tile * columns * acc)
    if not resident:
        return warps
    carried = rows * units * acc if kind.gates == 4 else 0
    return warps + -(-kind.depth(H) // DEPTH) * right * size + carried


def _cycles(name: str, size: int, units: int, H: int, rows: int) -> float:
    """Compute what a block's step takes: its multiply-adds, rows rounded up to what lanes take, and its reads of L2."""
    kind = PASSES[name]
    tile = tile_rows(size, True, kind.backward, units)
    whole, left = divmod(rows, tile)
    padded = whole * tile
    if left:
        lanes = -(-left // LANE_ROWS)
        padded += LANE_ROWS << (lanes - 1).bit_length()
    depth = kind.depth(H)
    return padded * depth * kind.columns(units) / _MULTIPLY_ADDS + rows * depth * size / _L2_BYTES
