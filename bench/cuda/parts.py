"""The cost model of a part of a training step: operations, bytes, launches and barriers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.cuda.devices import BARRIER_US, LAUNCH_US, Device
from bench.workloads import Workload, batch_sizes, describe

__all__ = ["FLOAT", "Extents", "Part", "extents", "product", "total"]

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Extents:
    """The extents that decide the cost of a step.

    Attributes
    ----------
    N, D, W, H, V : int
        Numbers of captions, features, word vector components, hidden units and words.
    G : int
        Gates: 4H for the LSTM, 3H for the GRU, H for the RNN.
    B : int
        Biases: G, but 4H for the GRU.
    T : int
        Steps of the padded captions.
    steps : int
        Steps to the last word of the longest caption.
    M : int
        Input words without padding.
    U : int
        Distinct input words.
    P, tensors : int
        Number of parameters, and of the arrays that hold them.
    """

    N: int
    D: int
    W: int
    H: int
    G: int
    B: int
    V: int
    T: int
    steps: int
    M: int
    U: int
    P: int
    tensors: int

    @property
    def cell(self) -> str:
        """The cell's name."""
        return {4: "lstm", 3: "gru", 1: "rnn"}[self.G // self.H]


def extents(work: Workload) -> Extents:
    """Return the extents of a workload."""
    size, sizes = work.size, batch_sizes(work.targets)
    return Extents(
        N=size.N,
        D=size.D,
        W=size.W,
        H=size.H,
        G=int(work.params["Wh"].shape[1]),
        B=int(work.params["b"].shape[0]),
        V=size.V,
        T=size.T,
        steps=len(sizes),
        M=sum(sizes),
        U=int(describe(work)["distinct_words"]),
        P=int(sum(np.prod(array.shape) for array in work.params.values())),
        tensors=len(work.params),
    )


@dataclass(frozen=True)
class Part:
    """One part of a step.

    Attributes
    ----------
    name : str
        Label.
    flops : float
        Operations; a multiply-add is two, a special function one.
    bytes : float
        Bytes read and written if nothing stays on the chip between launches.
    launches, barriers : int
        Number of kernel launches, and of grid-wide barriers inside them.
    kernel : str
        Name of the launch in `device_calls.counting`: a kernel, ``matmul``, ``copy`` or ``memset``; empty if it has
        none.
    """

    name: str
    flops: float
    bytes: float
    launches: int = 1
    barriers: int = 0
    kernel: str = ""

    def fixed_us(self) -> float:
        """Return the microseconds of launches and barriers."""
        return self.launches * LAUNCH_US + self.barriers * BARRIER_US

    def cold_us(self, device: Device) -> float:
        """Return the least microseconds if every launch reads device memory."""
        return max(device.arithmetic_us(self.flops), device.memory_us(self.bytes)) + self.fixed_us()

    def warm_us(self, device: Device) -> float:
        """Return the least microseconds if all operands are in the L2 cache and reading them is free."""
        return device.arithmetic_us(self.flops) + self.fixed_us()


def product(name: str, rows: int, inner: int, columns: int, times: int = 1) -> Part:
    """Return a matrix product (rows, inner) x (inner, columns), done `times` times."""
    moved = FLOAT * (rows * inner + inner * columns + rows * columns)
    return Part(name, 2.0 * rows * inner * columns * times, moved * times, launches=times, kernel="matmul")


def total(parts: list[Part]) -> Part:
    """Return the sums of all counts. The step's floor is not that of this sum but the sum of the parts' floors."""
    return Part(
        "sum",
        sum(part.flops for part in parts),
        sum(part.bytes for part in parts),
        sum(part.launches for part in parts),
        sum(part.barriers for part in parts),
    )
