"""The web server under load: ``python -m bench.serve --run runs/demo``.

Starts ``capgpu serve`` and captions JPEG pictures of 640 x 640 pixels made from a split of the run: one client that
sends the next picture when it has the captions of the last (one by one), and 50 such clients at the same time, with
dynamic batching and, on a server with ``--batch-size 1``, without. They take turns, and share the machine's cores.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.metadata
import io
import json
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

import capgpu
from bench.machine import describe
from bench.process import ROOT, wait_until_quiet
from bench.report import table, write_atomically

_SIDE = 640
_PICTURES = 40


@dataclass
class Load:
    """What clients measured: seconds of each request, the pictures in its batch, and errors."""

    seconds: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wall: float = 0.0

    def add(self, other: Load) -> None:
        self.seconds += other.seconds
        self.batches += other.batches
        self.errors += other.errors
        self.wall += other.wall

    def quantile(self, fraction: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(int(fraction * len(ordered)), len(ordered) - 1)]

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.wall


@contextlib.contextmanager
def server(run: Path, *options: str) -> Iterator[int]:
    """Serve a run inside a ``with`` block; yields the port."""
    command = [sys.executable, "-m", "capgpu", "serve", "--run", str(run), "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        announced = re.search(r":(\d+)/", process.stdout.readline())
        if announced is None:
            raise SystemExit("the server did not start")
        yield int(announced[1])
    finally:
        process.terminate()
        process.wait()


def pictures(port: int) -> list[bytes]:
    """Make the pictures that are sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    page: dict[str, object] = {"state": "computing"}
    while page["state"] == "computing":
        connection.request("GET", f"/api/gallery?order=index&limit={_PICTURES}")
        page = json.loads(connection.getresponse().read())
        time.sleep(0.1)
    made = []
    for item in page["items"]:  # type: ignore[attr-defined]
        connection.request("GET", item["picture"])
        content = io.BytesIO(connection.getresponse().read())
        large = Image.open(content).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        large.save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def measure(port: int, files: list[bytes], clients: int, requests: int) -> Load:
    """Let clients send pictures at the same time, each the next one when it has the captions of the last."""
    load, lock, start = Load(), threading.Lock(), threading.Barrier(clients + 1)

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        start.wait()
        for i in range(requests):
            begun = time.perf_counter()
            try:
                body = files[(number * 7 + i) % len(files)]
                connection.request("POST", "/api/captions?beam=3", body, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                content = json.loads(answer.read())
                if answer.status != 200 or not content["captions"]:
                    raise RuntimeError(f"{answer.status} {content}")
            except Exception as error:  # every failure counts
                with lock:
                    load.errors.append(repr(error))
                connection.close()
                continue
            with lock:
                load.seconds.append(time.perf_counter() - begun)
                load.batches.append(content["timing"]["batch"])

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    load.wall = time.perf_counter() - begun
    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=5, help="of each of the clients, in a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "serve.md")
    args = parser.parse_args()
    loads: dict[str, Load] = {}
    quiet = 0
    with server(args.run) as together, server(args.run, "--batch-size", "1") as alone:
        files = pictures(together)
        for port in (together, alone):
            measure(port, files, 4, 5)  # warm
        for _ in range(args.rounds):
            for clients, port, name in (
                (1, together, "1 client: one by one"),
                (args.clients, together, f"{args.clients} clients, in batches of up to 32"),
                (args.clients, alone, f"{args.clients} clients, one picture a call"),
            ):
                quiet += wait_until_quiet(2.0)
                requests = args.requests * (4 if clients == 1 else 1)
                loads.setdefault(name, Load()).add(measure(port, files, clients, requests))
    rows = []
    for name, load in loads.items():
        row = [name, str(len(load.seconds) + len(load.errors)), str(len(load.errors))]
        if load.seconds:
            mean = sum(load.batches) / len(load.batches)
            quantiles = [f"{1000 * load.quantile(fraction):.0f}" for fraction in (0.5, 0.99)]
            row += [*quantiles, f"{load.rate:.1f}", f"{mean:.1f}"]
        rows.append(row)
        print(*row, sep=", ", flush=True)
        for error in sorted(set(load.errors))[:5]:
            print("   ", error, flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("starlette", "uvicorn", "onnxruntime", "numba")}
    machine = describe({"capgpu": capgpu.__version__, **versions}, None)
    machine["command"] = f"`python -m bench.serve {shlex.join(sys.argv[1:])}`".replace(str(args.run), args.run.name)
    header = ["", "requests", "errors", "p50, ms", "p99, ms", "captions/s", "pictures in a call, mean"]
    text = [
        "# The web server under load",
        "",
        "Written by `python -m bench.serve`.",
        "",
        *table(["", ""], [[name, value] for name, value in machine.items()]),
        f"JPEG pictures of {_SIDE} x {_SIDE} pixels, a beam of 3 (three captions with the probability of each word), "
        "on the backend in force. A client sends its next picture when it has the captions of the last. Clients and "
        f"servers share the cores; the rows take turns. The cores were idle before {quiet} of {3 * args.rounds} turns.",
        "",
        *table(header, rows),
    ]
    write_atomically(args.out, ("\n".join(text).rstrip() + "\n").encode())
    print(args.out)
    if any(load.errors for load in loads.values()):
        raise SystemExit("some requests failed")


if __name__ == "__main__":
    main()
