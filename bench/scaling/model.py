"""A model on paper of a training step by several ranks: computation, bytes, latency, and what of it overlaps.

    python -m bench.scaling.model [--results bench/results]

Every figure that it prints is an estimate, but for those called measured in the first table.

A step of n captions (t words in all, u of them different) on a rank, in the order of the computation, with the
operations of its products:

    h0, input, recurrence, scores    2 (n D H + u W G + t H G + t H V)
    scores, backward                 4 t H V      then the sum of W_vocab's gradient starts:   H V values
    recurrence, Wh, backward         4 t H G      then that of Wh:                             H G
    Wx, words                        4 u W G      then that of Wx:                             W G
    W_proj                           2 n D H      then those of W_embed, W_proj, and the rest: U W, D H

G is 4 H for an LSTM, and U the number of different words in the minibatch of all ranks: like u their expectation for
words by Zipf's law; all V where they are more than three quarters. Each time step reads Wh, and each step prepares all
parameters, whatever the captions: every rank does both. The sums run one after another beside the computation. One of b
bytes by R ranks takes

    2 (R - 1) / R  b / bandwidth  +  2 log2(R) latency

The update follows, which every rank makes of all parameters. A part of the time of the sums is taken from the
computation, where cores copy what is sent. On a device, a step takes at least as long as its launches: ranks make them
one by one, one process alone as CUDA graphs.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.workloads import UNK, Size, caption_lengths, describe_size, parse_size

__all__ = ["Machine", "Network", "Step", "step"]

#: The sizes of the tables: two of the benchmark, and a larger one.
SIZES = (parse_size("S1"), parse_size("S3"), replace(parse_size("S3:N=256,V=30000,H=1024"), name="L"))
#: The part of W_embed's rows above which all are sent, as in `capgpu.training.distributed`.
_SPARSE = 0.75


@dataclass(frozen=True)
class Machine:
    """What a rank computes on.

    Attributes
    ----------
    name : str
        For tables.
    rate : float
        Operations a second.
    seconds, seconds_a_time_step : float
        Which a step, and each of its T time steps, takes besides.
    preparation_bandwidth : float
        Bytes of parameters a second that a step prepares: it packs them, and clears the memory of their gradients.
    update_bandwidth : float
        Bytes a second of the update.
    launching : float
        Seconds that the host needs to launch a step kernel by kernel.
    """

    name: str
    rate: float
    seconds: float
    seconds_a_time_step: float
    update_bandwidth: float
    launching: float = 0.0
    preparation_bandwidth: float = math.inf

    def slower(self, factor: float) -> Machine:
        """Return a machine on which everything takes `factor` times as long."""
        return replace(
            self,
            rate=self.rate / factor,
            seconds=self.seconds * factor,
            seconds_a_time_step=self.seconds_a_time_step * factor,
            update_bandwidth=self.update_bandwidth / factor,
            preparation_bandwidth=self.preparation_bandwidth / factor,
        )


@dataclass(frozen=True)
class Network:
    """Bytes per second of a rank in each direction, seconds of a message, and the cores' part in sending."""

    name: str
    bandwidth: float
    latency: float
    taken: float


@dataclass(frozen=True)
class Step:
    """Seconds of a step, of its parts, and its bytes of gradients."""

    total: float
    computation: float
    sums: float
    exposed: float
    update: float
    n_bytes: int


@functools.cache
def words_per_caption(size: Size) -> float:
    """Return the mean number of words of a caption that are computed."""
    return float(caption_lengths(np.random.default_rng(0), 20000, size.T).mean() - 1)


@functools.cache
def distinct_words(vocabulary: int, words: float) -> float:
    """Return the expected number of different words among so many, by Zipf's law."""
    weights = 1.0 / np.arange(1, vocabulary - UNK)
    return float((1.0 - (1.0 - weights / weights.sum()) ** words).sum()) + 1


def parameters(size: Size, gates: int) -> int:
    """Return the number of parameters."""
    recurrent = (size.W + size.H + 1) * gates
    return recurrent + (size.W + size.H + 1) * size.V + (size.D + 1) * size.H


def step(
    size: Size,
    captions: float,
    ranks: int,
    machine: Machine,
    network: Network | None = None,
    *,
    cell: str = "lstm",
    gradient_bytes: int = 4,
    accumulated: int = 1,
) -> Step:
    """Return the estimate of a step.

    Parameters
    ----------
    size : Size
        Extents; N is not read.
    captions : float
        Captions of the minibatch of all ranks.
    ranks : int
        R.
    machine, network
        Of each rank; the network may be None for one rank.
    cell : {"lstm", "rnn"}
        The cell.
    gradient_bytes : int
        Of a value of a gradient that is sent: 2 for bfloat16.
    accumulated : int
        Parts of a minibatch that a rank computes one after another; the sums begin with the last.
    """
    D, W, H, V = size.D, size.W, size.H, size.V
    G = H * (4 if cell == "lstm" else 1)
    n = captions / ranks / accumulated
    t = n * words_per_caption(size)
    u = distinct_words(V, t)
    phases: list[tuple[float, list[float]]] = [
        (2 * (n * D * H + u * W * G + t * H * G + t * H * V) + 4 * t * H * V, [H * V]),
        (4 * t * H * G, [H * G]),
        (4 * u * W * G, [W * G]),
        (2 * n * D * H, []),
    ]
    distinct = distinct_words(V, captions * words_per_caption(size))
    rest = (W + H + 1) * G + (W + H + 1) * V + (D + 1) * H - H * V - W * G - H * G - V * W
    last = [(distinct if distinct <= _SPARSE * V else V) * W, rest]
    fixed = machine.seconds + size.T * machine.seconds_a_time_step
    fixed += 4 * parameters(size, G) / machine.preparation_bandwidth
    operations = sum(phase[0] for phase in phases)
    one = fixed + operations / machine.rate
    computation = one * accumulated
    update = 28 * parameters(size, G) / machine.update_bandwidth
    if ranks == 1:
        return Step(computation + update, computation, 0.0, 0.0, update, 0)
    assert network is not None
    now = computation - one
    done = sums = 0.0
    n_bytes = 0
    for phase_operations, values in [*phases, (0.0, last)]:
        share = phase_operations / operations
        now += one * share
        for count in values:
            n_bytes += int(count * gradient_bytes)
            seconds = 2 * (ranks - 1) / ranks * count * gradient_bytes / network.bandwidth
            seconds += 2 * math.ceil(math.log2(ranks)) * network.latency
            # what cores send they do not compute
            now += network.taken * seconds
            done = max(done, now - network.taken * seconds) + seconds
            sums += seconds
    end = max(now, done)
    total = max(end + update, machine.launching * accumulated)
    return Step(total, computation, sums, end - computation, update, n_bytes)


#: One core of the machine of bench/results. Processor times of losses of 8 to 256 captions at S1, of 8 to 128 at S3,
#: grow by 0.92 and 3.2 ms a caption from 8.9 and 22.9 ms for none: 16 and 20 time steps of 0.37 ms (Wh, 4 MB, is read
#: twice), and 10 and 54 MB of parameters at 3.5 GB/s. Updates took 4.4 and 20.3 ms. Its speed in a measurement is
#: that of the step of one rank beside it.
CORE = Machine("one core of a Xeon", 90e9, 0.0, 0.37e-3, 17e9, preparation_bandwidth=3.5e9)
#: A guess: eight cores of a laptop at 50 GFLOP/s each.
LAPTOP = Machine("a laptop, 400 GFLOP/s", 400e9, 0.5e-3, 0.0, 40e9)
#: From two measured steps (bench/cuda/results/h100/times.md, with CUDA graphs): S1 0.436 ms, S3 1.598 ms.
H100_STEPS = (("S1", 0.436e-3), ("S3", 1.598e-3))
H100_UPDATES = 2.5e12
#: Elapsed time of S1 without graphs in the same table.
H100_LAUNCHING = 1.15e-3

#: Of MPICH through shared memory: cores copy every byte, beside nothing else. Sums of 10 MB by two ranks took 3.4 ms of
#: processor time of each alone, and 6.7 ms inside of steps, whose gradients are in no cache.
SHARED_MEMORY = Network("shared memory", 1.5e9, 20e-6, 1.0)
#: A sum of 11 MB by two ranks took 112 ms, and one of 10 MB 22 ms of processor time of each rank; the process that
#: imitates the link took 43 ms of the two cores.
SHAPED = Network("1 Gb/s, 1 ms", 100e6, 1.2e-3, 0.4)
#: Goodput of TCP over Ethernet, and the processing of messages.
OFFICE = Network("1 Gb/s, 0.3 ms", 117e6, 0.4e-3, 0.1)
#: Assumptions from data sheets: NCCL reaches about 80% of the link; 6 and 10 us a message.
NVLINK = Network("NVLink, 450 GB/s", 360e9, 6e-6, 0.05)
INFINIBAND = Network("200 Gb/s", 20e9, 10e-6, 0.05)
#: How much longer the two cores take at once than one alone, for the memory they share: of two processes, losses of 64
#: captions at S3 took 251 ms of processor time instead of 207, and of 32 at S1 42 instead of 37.
_AT_ONCE = 1.2


def h100() -> Machine:
    """Return the H100 whose two measured steps this model repeats."""
    rows, times = [], []
    for name, seconds in H100_STEPS:
        size = parse_size(name)
        unit = step(size, size.N, 1, Machine("", 1.0, 0.0, 0.0, H100_UPDATES))
        rows.append([unit.computation, size.T])
        times.append(seconds - unit.update)
    inverse_rate, a_time_step = np.linalg.solve(np.array(rows), np.array(times))
    return Machine("H100", 1 / inverse_rate, 0.0, a_time_step, H100_UPDATES, H100_LAUNCHING)


def table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(heading)} |", "|" + " ---: |" * len(heading)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]) + "\n"


def check(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the measured steps of several ranks beside the model's, whose core is as fast as one rank measured it."""
    yield (
        "A core is as fast as one rank of one thread, alone, found it in the same run; two cores at once take "
        f"{_AT_ONCE:g} times as long.\n"
    )
    rows = []
    n_cores = 2
    ours = [record for record in records if record["library"] == "ours" and record["threads"] == 1]
    for alone in (record for record in ours if record["ranks"] == 1):
        size, batch = parse_size(alone["size"]), alone["batch"]
        core = CORE.slower(alone["ms"] / 1e3 / step(size, batch, 1, CORE, cell=alone["cell"]).total)
        for record in ours:
            if record["ranks"] == 1 or any(record[key] != alone[key] for key in ("where", "size", "batch", "cell")):
                continue
            # more ranks than cores take turns
            turns = 1.0 if record["where"] == "network" else max(1.0, record["ranks"] / n_cores)
            network = SHAPED if record["where"] == "network" else SHARED_MEMORY
            network = replace(network, bandwidth=network.bandwidth / turns)
            machine = core.slower(_AT_ONCE * turns)
            found = step(size, batch, record["ranks"], machine, network, cell=record["cell"])
            ms = found.total * 1e3
            job = [record[key] for key in ("where", "size", "batch", "ranks")]
            rows.append([*job, f"{alone['ms']:.1f}", f"{record['ms']:.1f}", f"{ms:.1f}", f"{ms / record['ms']:.2f}"])
    heading = ("where", "size", "batch", "ranks", "one rank measured, ms", "measured, ms", "estimate, ms")
    yield table((*heading, "estimate / measured"), rows)


def scaling(machine: Machine, network: Network, counts: Sequence[int], batches: Sequence[int]) -> Iterator[str]:
    """Yield tables of steps by ranks: with so many captions in all, and with so many a rank."""
    for size in SIZES:
        rows = []
        for batch in batches:
            captions = batch or size.N
            alone = step(size, captions, 1, machine)
            alone_in_parts = step(size, 4 * captions, 1, machine, accumulated=4)
            for ranks in counts:
                found = step(size, captions, ranks, machine, network)
                half = step(size, captions, ranks, machine, network, gradient_bytes=2)
                weak = step(size, captions * ranks, ranks, machine, network)
                parts = step(size, 4 * captions * ranks, ranks, machine, network, accumulated=4)
                speed_ups = (
                    *(alone.total / other.total for other in (found, half)),
                    *(ranks * alone.total / weak.total, ranks * alone_in_parts.total / parts.total),
                )
                times = (_milliseconds(seconds) for seconds in (found.total, found.exposed))
                rows.append([captions, ranks, *times, *(f"{speed_up:.2f}" for speed_up in speed_ups)])
        megabytes = step(size, size.N, 2, machine, network).n_bytes / 1e6
        yield f"{size.name}: {megabytes:.0f} MB of gradients a step.\n"
        heading = ("captions", "ranks", "ms a step", "exposed ms", "speed-up", "with bfloat16 gradients")
        yield table((*heading, "speed-up, so many captions a rank", "and 4 such parts accumulated"), rows)


def _milliseconds(seconds: float) -> str:
    """Return three digits of a time in ms."""
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.3g}"


def ends(machine: Machine, networks: Sequence[Network], most: int) -> Iterator[str]:
    """Yield where scaling ends: captions a rank from which ranks are worth four fifths of themselves."""
    rows = []
    for network in networks:
        for size in SIZES:
            for ranks in (2, most):
                needed = [_needed(size, ranks, machine, network, width) for width in (4, 2)]
                widest = max(
                    (r for r in range(1, 1025) if _efficiency(size, 1024 / r, r, machine, network) >= 0.5), default=1
                )
                rows.append((network.name, size.name, ranks, *needed, widest))
    heading = ("network", "size", "ranks", "captions a rank for 80%", "with bfloat16 gradients")
    yield table((*heading, "most ranks at 50% for 1,024 captions"), rows)


def _efficiency(size: Size, captions: float, ranks: int, machine: Machine, network: Network, width: int = 4) -> float:
    """Return the speed-up by ranks, of so many captions each, divided by their number."""
    alone = step(size, captions * ranks, 1, machine).total
    return alone / ranks / step(size, captions * ranks, ranks, machine, network, gradient_bytes=width).total


def _needed(size: Size, ranks: int, machine: Machine, network: Network, width: int) -> str:
    for captions in (2**k for k in range(17)):
        if _efficiency(size, captions, ranks, machine, network, width) >= 0.8:
            return f"{captions:,}"
    return "more than 65,536"


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--results", type=Path, default=Path("bench/results"), help="folder of measured steps")
    options = parser.parse_args()
    records: list[dict[str, Any]] = []
    for file in sorted(options.results.glob("scaling-*.json")):
        records += json.loads(file.read_text())
    print("# Training by several ranks: a model on paper\n")
    print("`python -m bench.scaling.model`. All figures are estimates but those called measured.\n")
    if records:
        print("## Checked against measurements\n")
        print(*check(records), sep="\n")
    for size in SIZES:
        print(f"- {describe_size(size, every=True)}: {size.name}")
    print()
    device = h100()
    print("## 8 GPUs with NVLink\n")
    speed = f"{device.rate / 1e12:.1f} TFLOP/s and {device.seconds_a_time_step * 1e6:.0f} us a time step"
    print(f"{device.name}: {speed}, from its steps of S1 and S3 in float32.")
    print(f"Ranks make no graph of a step: it takes {device.launching * 1e3:g} ms to launch.\n")
    print(*scaling(device, NVLINK, (2, 4, 8), (0, 1024)), sep="\n")
    print("## 64 GPUs over 200 Gb/s\n")
    print(*scaling(device, INFINIBAND, (8, 16, 64), (1024, 8192)), sep="\n")
    print(f"## 2 to 16 laptops over 1 Gb/s\n\n{LAPTOP.name}, {OFFICE.name}.\n")
    print(*scaling(LAPTOP, OFFICE, (2, 4, 8, 16), (0, 1024)), sep="\n")
    print("## Where scaling ends\n")
    print(*ends(device, (NVLINK, INFINIBAND), 8), sep="\n")
    print(*ends(LAPTOP, (OFFICE,), 16), sep="\n")


if __name__ == "__main__":
    main()
