"""Estimated times of a recurrence's steps, by which `launch_heuristics` chooses if no measurement is stored.

The work of a step is counted exactly: multiply-adds, bytes through the L2 cache, bytes through shared memory, launches.
The throughput of a device is taken from the sources below. Parameters that they do not state were fitted to the
persistent kernels on an H100 SXM at 1.98 GHz (`tools/gpu/time_recurrences.py`: H = 512, 64 and 128 sequences, every
configuration, all kinds of products). **Other devices were not measured.** tests/kernels/cuda/test_cost.py contains
the measured times and compares them with the estimates.

- Multiply-adds of float32 and float64 a clock and multiprocessor: CUDA C++ Programming Guide, "Arithmetic
  Instructions", throughput of native instructions by compute capability.
- Multiply-adds of the tensor cores a clock and multiprocessor, dense, sums in float32: from the data sheets' peaks,
  divided by multiprocessors, boost clock and 2. A100 156 TFLOP/s TF32 and 312 half; H100 SXM 494 and 989; RTX 3090 35.6
  and 71; RTX 4090 82.6 and 165; RTX 5090 104.8 and 209.5. For compute capability 10.0, whose peaks need instructions
  that these kernels do not use, those of 9.0 are assumed.
- Shared memory: 128 bytes a clock and multiprocessor, 32 banks of 4.
- Fitted: a latency of 1.85 us per step: storing, waiting for the previous step's states, adding the warps' sums, the
  gates.
- Fitted: 11 bytes a clock and multiprocessor from the L2 cache while all multiprocessors load, with the loads that a
  block has in flight (at most 32 KB). Empty rows of a tile of matrix instructions take 0.82 of the time of others.
- Fitted: 256 multiply-adds of TF32, or 512 of half types, a clock and multiprocessor by ``mma.sync``, a quarter of the
  peak; assumed: no more than half of the peak of other devices. Fitted: 0.7 of the peak for the other products.
- Fitted: L2 loads, shared-memory loads and arithmetic overlap, except for a quarter of the two shorter ones.
- Assumed: 0.8 of the peak for cuBLAS; 4 us of the host for a launch through CuPy, which limits steps of one short
  kernel (without the host, the H100 took 2 to 4 us for each kernel of the matmul algorithm).
"""

from __future__ import annotations

from dataclasses import dataclass

from capgpu.kernels.cuda.constants import LANE_ROWS, WARPS

__all__ = ["HOST_LAUNCH_US", "STEP_US", "Machine", "Rates", "Step", "matmul_us", "persistent_us", "rates", "step_us"]

#: Latency of a step of the persistent kernels besides the product, in microseconds.
STEP_US = 1.85
#: Microseconds of the host for one launch.
HOST_LAUNCH_US = 4.0

#: Bytes per clock and multiprocessor from the L2 cache and from shared memory.
_L2_BYTES = 11
_SHARED_BYTES = 128
#: Attained fractions of the peak rates: tensor cores, multiply-adds, cuBLAS.
_TENSOR_CORE_EFFICIENCY = 0.5
_SIMT_EFFICIENCY = 0.7
_CUBLAS_EFFICIENCY = 0.8
#: Maximum TF32 multiply-adds per clock and multiprocessor by ``mma.sync``.
_MAX_TF32 = 256
#: Fraction of the shorter of load and arithmetic times that is not overlapped.
_NOT_OVERLAPPED = 0.25
#: Relative L2 time of empty rows in tiles of matrix instructions.
_EMPTY_ROW_COST = 0.82
#: Clock of a device that does not report one.
_CLOCK_HZ = 1.5e9


@dataclass(frozen=True)
class Rates:
    """Multiply-adds per clock and multiprocessor.

    Attributes
    ----------
    single, double : int
        Without tensor cores.
    tf32, half : int
        With tensor cores; 0 if the device has none for the type.
    """

    single: int
    double: int
    tf32: int
    half: int


_RATES = {
    (7, 5): Rates(64, 2, 0, 512),
    (8, 0): Rates(64, 32, 512, 1024),
    (8, 6): Rates(128, 2, 128, 256),
    (9, 0): Rates(128, 64, 1024, 2048),
    (10, 0): Rates(128, 64, 1024, 2048),
    (12, 0): Rates(128, 2, 128, 256),
}


def rates(capability: tuple[int, int]) -> Rates:
    """Return the rates of a compute capability, or of the next older one that is listed."""
    return _RATES[max((known for known in _RATES if known <= capability), default=min(_RATES))]


@dataclass(frozen=True)
class Machine:
    """The properties of a device on which estimates depend.

    Attributes
    ----------
    capability : tuple of int
        Major and minor.
    multiprocessors : int
        Number of multiprocessors.
    clock_hz : float
        Clock of the multiprocessors; 0 if unknown.
    """

    capability: tuple[int, int]
    multiprocessors: int
    clock_hz: float

    def microseconds(self, clocks: float) -> float:
        """Convert clocks to microseconds."""
        return clocks / (self.clock_hz or _CLOCK_HZ) * 1e6


@dataclass(frozen=True)
class Step:
    """The product of a step in one block or one cuBLAS call.

    Attributes
    ----------
    rows, depth, columns : int
        Extents of the product.
    size : int
        Bytes of a stored number.
    tile : int
        Rows that a block multiplies at once.
    matrix_products : int
        Number of products by matrix instructions that compute it (3 for split factors); 0 for multiply-adds.
    """

    rows: int
    depth: int
    columns: int
    size: int
    tile: int = 1
    matrix_products: int = 0


def persistent_us(machine: Machine, step: Step) -> float:
    """Estimate a step of the persistent kernels: a block's clocks plus the latency."""
    empty_rows = sum(_tiles(step)) - step.rows if step.matrix_products else 0
    l2_clocks = (step.rows + _EMPTY_ROW_COST * empty_rows) * step.depth * step.size / _L2_BYTES
    return STEP_US + machine.microseconds(_block_clocks(machine, step, l2_clocks, WARPS[True]))


def step_us(machine: Machine, step: Step, blocks: int) -> float:
    """Estimate a step of the step kernels with `blocks` equal blocks of one tile: a launch plus its waves of blocks."""
    l2_clocks = (step.rows + step.columns) * step.depth * step.size / _L2_BYTES
    waves = -(-blocks // machine.multiprocessors)
    return HOST_LAUNCH_US + machine.microseconds(waves * _block_clocks(machine, step, l2_clocks, WARPS[False]))


def matmul_us(machine: Machine, step: Step, launches: int) -> float:
    """Estimate a step of the matmul algorithm: cuBLAS on the whole device plus all launches."""
    rate = rates(machine.capability)
    peak = rate.half if step.size == 2 else rate.double if step.size == 8 else rate.single
    arithmetic_clocks = step.rows * step.depth * step.columns / (peak * _CUBLAS_EFFICIENCY)
    l2_clocks = (step.rows + step.columns) * step.depth * step.size / _L2_BYTES
    return launches * HOST_LAUNCH_US + machine.microseconds(max(arithmetic_clocks, l2_clocks) / machine.multiprocessors)


def _block_clocks(machine: Machine, step: Step, l2_clocks: float, warps: int) -> float:
    """Count a block's clocks: overlapping L2 loads, shared-memory loads and arithmetic, then the partial sums."""
    rate = rates(machine.capability)
    arithmetic_clocks = shared_load_clocks = partial_sum_clocks = 0.0
    for rows in _tiles(step):
        products = rows * step.depth * step.columns
        if step.matrix_products:
            multiply_adds_per_clock = min(_MAX_TF32, rate.tf32 * _TENSOR_CORE_EFFICIENCY) * (2 if step.size == 2 else 1)
            arithmetic_clocks += step.matrix_products * products / multiply_adds_per_clock
            shared_load_clocks += (rows + step.columns) * step.depth * step.size / _SHARED_BYTES
        else:
            # simt_mma.cuh: per 4 terms a lane makes height + 4 quads vector loads for 16 height quads multiply-adds
            height, quads = rows // LANE_ROWS, 3 if step.columns % 3 == 0 else 1 if step.columns < 64 else 2
            vector_loads = products / (16 * height * quads) * (height + 4 * quads)
            conversions = 4 * vector_loads if step.size == 2 else 0
            arithmetic_clocks += (products + conversions) / (
                (rate.double if step.size == 8 else rate.single) * _SIMT_EFFICIENCY
            )
            shared_load_clocks += 4 * step.size * vector_loads / _SHARED_BYTES
        partial_sum_clocks += 2 * warps * rows * step.columns * max(step.size, 4) / _SHARED_BYTES
    longest = max(l2_clocks, arithmetic_clocks, shared_load_clocks)
    return (
        longest + _NOT_OVERLAPPED * (l2_clocks + arithmetic_clocks + shared_load_clocks - longest) + partial_sum_clocks
    )


def _tiles(step: Step) -> list[int]:
    """Return the rows that each tile computes, rounded up to the granularity of lanes or matrix instructions."""
    whole, remainder = divmod(step.rows, step.tile)
    tiles = [step.tile] * whole
    if remainder:
        height = 1 << (-(-remainder // LANE_ROWS) - 1).bit_length()
        tiles.append(LANE_ROWS * (max(4, height) if step.matrix_products else height))
    return tiles
