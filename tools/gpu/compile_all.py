"""The stage ``compile``: every kernel and variant through CuPy, NVRTC and the driver, in several processes.

    python -m tools.gpu.compile_all --out FILE.csv [--processes 14] [--kernels NAME,...] [--dtypes NAME,...]

Leaves everything in CuPy's cache, so that no later stage compiles one of these kernels. Exit status: how many failed,
at most 100.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from capgpu.kernels.cuda.kernel_registry import ENTRIES, REALS, REGISTRY, variants_of

__all__ = ["Line", "Variant", "groups", "load", "main"]

#: Dynamic shared memory for which the occupancy of a cooperative kernel is asked: what S1 needs, roughly.
_SHARED = 160 * 1024
_SHOWN, _MOST_WORDS = 3, 3000


class Variant(NamedTuple):
    """A kernel, its storage type and its macros."""

    kernel: str
    dtype: str
    defines: tuple[tuple[str, int], ...]


class Line(NamedTuple):
    """What the driver says of a variant; empty but for the error where it failed."""

    kernel: str
    dtype: str
    defines: str
    seconds: float
    registers: Any = ""
    local_bytes: Any = ""
    static_shared: Any = ""
    architecture: Any = ""
    blocks: Any = ""
    error: str = ""


def groups(kernels: Iterable[str], dtypes: Iterable[str]) -> list[list[Variant]]:
    """List the variants, those of one module together: it is compiled once. The largest modules come first."""
    found: dict[tuple[Any, ...], list[Variant]] = {}
    wanted, types = set(kernels), set(dtypes)
    for entry in ENTRIES:
        for dtype, defines in variants_of(entry):
            if entry.name in wanted and dtype in types:
                key = (entry.file, dtype, defines, entry.cooperative)
                found.setdefault(key, []).append(Variant(entry.name, dtype, defines))
    recurrences = ("lstm.cu", "rnn.cu")
    return [variants for key, variants in sorted(found.items(), key=lambda item: item[0][0] not in recurrences)]


def load(variants: Sequence[Variant]) -> list[Line]:
    """Compile and load the variants of one module, and ask the driver about each."""
    from capgpu.kernels.cuda import compile

    lines = []
    for name, dtype, defines in variants:
        words, began = " ".join(f"{key}={value}" for key, value in defines), time.perf_counter()
        try:
            kernel = compile.kernel(name, dtype, **dict(defines))
            found = kernel.attributes
            blocks = kernel.max_blocks_per_multiprocessor(kernel.block, _SHARED if kernel.cooperative else 0)
        except Exception as failure:  # whatever it is, it is what this stage is for
            error = f"{type(failure).__name__}: {failure}"[:_MOST_WORDS]
            lines.append(Line(name, dtype, words, round(time.perf_counter() - began, 2), error=error))
            continue
        resources = (found[key] for key in ("num_regs", "local_size_bytes", "shared_size_bytes", "binary_version"))
        lines.append(Line(name, dtype, words, round(time.perf_counter() - began, 2), *resources, blocks))
    return lines


def _loaded(wanted: list[list[Variant]], processes: int) -> Iterable[list[Line]]:
    if processes == 0:
        yield from map(load, wanted)
        return
    # spawned: CUDA does not survive a fork
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(load, variants) for variants in wanted]):
            yield future.result()


def main(argv: Sequence[str] | None = None) -> int:
    """Compile everything and write what the driver says; return how many failed, at most 100."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu.compile_all", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    parser.add_argument("--processes", type=int, default=min(14, os.cpu_count() or 1), help="0: in this one")
    parser.add_argument("--kernels", default=",".join(REGISTRY))
    parser.add_argument("--dtypes", default=",".join(REALS))
    args = parser.parse_args(argv)
    kernels, dtypes = args.kernels.split(","), args.dtypes.split(",")
    for name in (*kernels, *dtypes):
        if name not in REGISTRY and name not in REALS:
            parser.error(f"expected kernels of the registry and dtypes, got {name!r}")
    wanted = groups(kernels, dtypes)
    began, lines, failed = time.perf_counter(), 0, 0
    local: list[str] = []
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Line._fields)
        for module_lines in _loaded(wanted, args.processes):
            for line in module_lines:
                writer.writerow(line)
                lines, failed = lines + 1, failed + bool(line.error)
                if line.error and failed <= _SHOWN:
                    print("FAILED", *line[:3], line.error[:1500], flush=True)
                if line.local_bytes and line.local_bytes > 0:
                    local.append(f"{line.kernel} {line.dtype} {line.defines}: {line.local_bytes} bytes")
            file.flush()  # a run that is cut off has what was compiled
    for words in local:
        print("local memory:", words)
    seconds = time.perf_counter() - began
    print(f"{lines} kernels, {failed} failed, {len(local)} with local memory, {seconds:.0f} s")
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())
