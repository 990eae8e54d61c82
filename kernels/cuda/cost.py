"""Estimated times of a recurrence's steps, by which `launch_heuristics` chooses where nothing was measured.

The work of a step is counted exactly: multiply-adds, bytes through the L2 cache, bytes through shared memory, launches.
The throughput of a device is taken from the sources below. What none of them states was fitted to the persistent
kernels on an H100 SXM at 1.98 GHz (`tools/gpu/time_recurrences.py`: H = 512, 64 and 128 sequences, every
configuration, all ways to multiply). **Other devices were not measured.** tests/kernels/cuda/test_cost.py holds the
times and compares.

- Multiply-adds of float32 and float64 a clock and multiprocessor: CUDA C++ Programming Guide, "Arithmetic
  Instructions", throughput of native instructions by compute capability.
- Multiply-adds of the tensor cores a clock and multiprocessor, dense, sums in float32: from the data sheets' peaks,
  divided by multiprocessors, boost clock and 2. A100 156 TFLOP/s TF32 and 312 half; H100 SXM 494 and 989; RTX 3090 35.6
  and 71; RTX 4090 82.6 and 165; RTX 5090 104.8 and 209.5. For compute capability 10.0, whose peaks need instructions
  that these kernels do not use, those of 9.0 are assumed.
- Shared memory: 128 bytes a clock and multiprocessor, 32 banks of 4.
- Fitted: 1.85 us from one step to the next, whatever is computed: storing, waiting for the numbers of the step before,
  adding up the warps' sums, the gates.
- Fitted: 11 bytes a clock and multiprocessor from the L2 cache while all load, with what a block has under way (32 KB
  at most). Of a tile of matrix instructions, rows that do not exist take 0.82 of the time of others.
- Fitted: 256 multiply-adds of TF32, or 512 of half types, a clock and multiprocessor by ``mma.sync``, a quarter of the
  peak; assumed: no more than half of the peak of other devices. Fitted: 0.7 of the peak for the other products.
- Fitted: loading, reading shared memory and multiplying overlap, but for a quarter of the two shorter ones.
- Assumed: 0.8 of the peak for cuBLAS; 4 us of the host for a launch through CuPy, which a step of one short kernel
  waits for (without the host, the H100 took 2 to 4 us for each kernel of the matmul algorithm).
"""

from __future__ import annotations

from dataclasses import dataclass

from capgpu.kernels.cuda.constants import LANE_ROWS, WARPS

__all__ = ["HOST_LAUNCH_US", "STEP_US", "Machine", "Rates", "Step", "matmul_us", "persistent_us", "rates", "step_us"]

#: Microseconds from one step of the persistent kernels to the next, besides the product.
STEP_US = 1.85
#: Microseconds of the host for one launch.
HOST_LAUNCH_US = 4.0

_L2_BYTES = 11
_SHARED_BYTES = 128
_OF_TENSOR_PEAK = 0.5
_MOST_TF32 = 256
_OF_PEAK = 0.7
_OF_CUBLAS = 0.8
_NOT_HIDDEN = 0.25
_EMPTY = 0.82
#: Clock of a device that does not report one.
_CLOCK_HZ = 1.5e9


@dataclass(frozen=True)
class Rates:
    """Multiply-adds of a multiprocessor in a clock.

    Attributes
    ----------
    single, double : int
        Without tensor cores.
    tf32, half : int
        With them, the kernels' or cuBLAS's; 0 where there are none.
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
    """Return the rates of a compute capability, those of the next older one where it is not known."""
    return _RATES[max((known for known in _RATES if known <= capability), default=min(_RATES))]


@dataclass(frozen=True)
class Machine:
    """A device, as far as estimates need it.

    Attributes
    ----------
    capability : tuple of int
        Major and minor.
    multiprocessors : int
        Their number.
    clock_hz : float
        Of the multiprocessors; 0 where unknown.
    """

    capability: tuple[int, int]
    multiprocessors: int
    clock_hz: float

    def microseconds(self, clocks: float) -> float:
        """Convert clocks to microseconds."""
        return clocks / (self.clock_hz or _CLOCK_HZ) * 1e6


@dataclass(frozen=True)
class Step:
    """The product of a step, as one block or one cuBLAS call sees it.

    Attributes
    ----------
    rows, depth, columns : int
        Extents of the product.
    size : int
        Bytes of a stored number.
    tile : int
        Rows that a block multiplies at once.
    matrix_products : int
        How many products by matrix instructions make it; none where multiply-adds compute it.
    """

    rows: int
    depth: int
    columns: int
    size: int
    tile: int = 1
    matrix_products: int = 0


def persistent_us(machine: Machine, step: Step) -> float:
    """Estimate a step of the persistent kernels: a block's clocks, and the latency."""
    empty = sum(_tiles(step)) - step.rows if step.matrix_products else 0
    fetched = (step.rows + _EMPTY * empty) * step.depth * step.size / _L2_BYTES
    return STEP_US + machine.microseconds(_block_clocks(machine, step, fetched, WARPS[True]))


def step_us(machine: Machine, step: Step, blocks: int) -> float:
    """Estimate a step of the step kernels, of so many equal blocks of one tile: a launch, and its rounds of blocks."""
    fetched = (step.rows + step.columns) * step.depth * step.size / _L2_BYTES
    rounds = -(-blocks // machine.multiprocessors)
    return HOST_LAUNCH_US + machine.microseconds(rounds * _block_clocks(machine, step, fetched, WARPS[False]))


def matmul_us(machine: Machine, step: Step, launches: int) -> float:
    """Estimate a step of the matmul algorithm: cuBLAS on the whole device, and all launches."""
    rate = rates(machine.capability)
    peak = rate.half if step.size == 2 else rate.double if step.size == 8 else rate.single
    computed = step.rows * step.depth * step.columns / (peak * _OF_CUBLAS)
    read = (step.rows + step.columns) * step.depth * step.size / _L2_BYTES
    return launches * HOST_LAUNCH_US + machine.microseconds(max(computed, read) / machine.multiprocessors)


def _block_clocks(machine: Machine, step: Step, fetched: float, warps: int) -> float:
    """Count a block's clocks: fetching, loading from shared memory and multiplying at once, then the partial sums."""
    rate = rates(machine.capability)
    computed = loaded = stored = 0.0
    for rows in _tiles(step):
        products = rows * step.depth * step.columns
        if step.matrix_products:
            reached = min(_MOST_TF32, rate.tf32 * _OF_TENSOR_PEAK) * (2 if step.size == 2 else 1)
            computed += step.matrix_products * products / reached
            loaded += (rows + step.columns) * step.depth * step.size / _SHARED_BYTES
        else:
            # simt_mma.cuh: for 4 terms a lane loads `height` + 4 quads fours, for 16 `height` quads multiply-adds
            height, quads = rows // LANE_ROWS, 1 if step.columns < 64 else 2
            fours = products / (16 * height * quads) * (height + 4 * quads)
            converted = 4 * fours if step.size == 2 else 0
            computed += (products + converted) / ((rate.double if step.size == 8 else rate.single) * _OF_PEAK)
            loaded += 4 * step.size * fours / _SHARED_BYTES
        stored += 2 * warps * rows * step.columns * max(step.size, 4) / _SHARED_BYTES
    longest = max(fetched, computed, loaded)
    return longest + _NOT_HIDDEN * (fetched + computed + loaded - longest) + stored


def _tiles(step: Step) -> list[int]:
    """Return the rows that each tile computes: rounded up to what lanes or matrix instructions take."""
    whole, remainder = divmod(step.rows, step.tile)
    tiles = [step.tile] * whole
    if remainder:
        height = 1 << (-(-remainder // LANE_ROWS) - 1).bit_length()
        tiles.append(LANE_ROWS * (max(4, height) if step.matrix_products else height))
    return tiles
