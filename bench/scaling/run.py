"""Training by one, two and four ranks, on this machine and over a shaped network, beside PyTorch's DDP over gloo.

    python -m bench.scaling.run local --sizes S1 --out DIR      ranks on this machine
    python -m bench.scaling.run network --out DIR               two hosts, one core each, joined by 1 Gb/s with 1 ms

Every row is a job of its own, started anew in each round; rounds take the jobs in turn, and a row is the median of its
rounds. Times are those of a step with its minibatch, in ms. The network needs root (`bench.scaling.shaped_network`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.machine import describe
from bench.scaling.shaped_network import HOSTS, Link, shaped_network
from bench.workloads import parse_size

_SECONDS = 240


@dataclass(frozen=True)
class Job:
    """One job: a library, its ranks, threads of each rank, and whether each rank has a host of its own."""

    library: str
    ranks: int
    threads: int
    network: bool = False

    def name(self) -> str:
        """Return the name in tables."""
        library = {"ours": "capgpu", "ddp": "PyTorch DDP, gloo"}[self.library]
        ranks = f"{self.ranks} rank{'s' if self.ranks > 1 else ''}"
        return f"{library}, {ranks} of {self.threads} thread{'s' if self.threads > 1 else ''}"


LOCAL = (
    Job("ours", 1, 2),
    Job("ours", 2, 1),
    Job("ddp", 1, 2),
    Job("ddp", 2, 1),
    Job("ours", 1, 1),
    Job("ours", 4, 1),
)
NETWORK = (Job("ours", 1, 1, True), Job("ours", 2, 1, True), Job("ddp", 1, 1, True), Job("ddp", 2, 1, True))


def find_mpiexec() -> str:
    """Return the mpiexec of this Python's environment, or that of the path."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise SystemExit("expected mpiexec, got none: install the extra mpi")
    return found


def run_job(job: Job, arguments: list[str], launcher: Path | None) -> dict[str, float]:
    """Run a job once, and return its times."""
    worker = [sys.executable, "-m", "bench.scaling.worker", job.library, *arguments]
    environment = {**os.environ, "CAPGPU_THREADS": str(job.threads), "OPENBLAS_NUM_THREADS": "1"}
    if launcher is None:
        command = worker if job.ranks == 1 else [find_mpiexec(), "-n", str(job.ranks), *worker]
    else:
        # by TCP, although both hosts are one machine
        environment |= {"UCX_TLS": "tcp,self", "MASTER_ADDR": HOSTS[0], "GLOO_SOCKET_IFNAME": "link0"}
        hosts = ",".join(HOSTS[: job.ranks])
        mpi = [find_mpiexec(), "-iface", "link0", "-launcher", "ssh", "-launcher-exec", str(launcher), "-hosts", hosts]
        inside = worker if job.ranks == 1 else [*mpi, "-n", str(job.ranks), "-ppn", "1", *worker]
        command = [str(launcher), HOSTS[0], *inside]
    result = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_SECONDS,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    times: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return times


def table(times: dict[Job, list[float]]) -> list[str]:
    """Return a table in Markdown; ratios are to the first row."""
    lines = ["| job | ms a step | of the first | rounds |", "| --- | ---: | ---: | --- |"]
    base = statistics.median(next(iter(times.values())))
    for job, values in times.items():
        median = statistics.median(values)
        rounds = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {job.name()} | {median:.1f} | {median / base:.2f} | {rounds} |")
    return lines


def main() -> None:
    """Run the jobs in rounds, and print the tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("where", choices=("local", "network"))
    parser.add_argument("--sizes", nargs="+", default=["S1"])
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--batch", type=int, help="captions in a minibatch of all ranks  [default: as the size; 1024]")
    parser.add_argument("--steps", type=int, help="timed steps of each job  [default: 24; over the network 8]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1000, help="Mb/s of the network in each direction")
    parser.add_argument("--delay", type=float, default=1, help="ms of the network in each direction")
    parser.add_argument("--out", type=Path, help="folder that gets scaling-WHERE-SIZES.md and .json")
    options = parser.parse_args()
    network = options.where == "network"
    batch = options.batch or (1024 if network else None)
    steps = options.steps or (8 if network else 24)
    jobs = NETWORK if network else LOCAL
    lines: list[str] = []
    records: list[dict[str, object]] = []
    for size in options.sizes:
        arguments = [size, "--cell", options.cell, "--steps", str(steps), "--warmup", "3" if network else "6"]
        arguments += [] if batch is None else ["--batch", str(batch)]
        times: dict[Job, list[float]] = {job: [] for job in jobs}
        with ExitStack() as stack:
            launcher = None
            if network:
                link = Link(options.rate * 1e6, options.delay / 1e3)
                launcher = stack.enter_context(shaped_network(link))
            for _ in range(options.rounds):
                for job in jobs:
                    times[job].append(run_job(job, arguments, launcher)["median"])
                    print(f"{size} {job.name()}: {times[job][-1]:.1f} ms", file=sys.stderr, flush=True)
        what = f", {options.rate:g} Mb/s with {options.delay:g} ms between two hosts of one core" if network else ""
        records += [
            {"where": options.where, "size": size, "cell": options.cell, "batch": batch or parse_size(size).N}
            | {"library": job.library, "ranks": job.ranks, "threads": job.threads, "ms": statistics.median(values)}
            for job, values in times.items()
        ]
        lines += [
            f"## {size}, {options.cell}, minibatches of {batch or parse_size(size).N} captions{what}",
            "",
            *table(times),
            "",
        ]
    text = "\n".join(lines)
    print(text)
    if options.out is not None:
        conditions = describe({}, None) | {"command": " ".join(["python -m bench.scaling.run", *sys.argv[1:]])}
        lines = [f"- {key}: {value}" for key, value in conditions.items() if key != "threads"]
        header = [f"# Training by several ranks ({options.where})", "", *lines, ""]
        options.out.mkdir(parents=True, exist_ok=True)
        stem = "-".join(["scaling", options.where, *options.sizes])
        (options.out / f"{stem}.md").write_text("\n".join([*header, text]))
        # read by bench.scaling.model
        (options.out / f"{stem}.json").write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
