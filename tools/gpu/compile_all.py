"""The stage ``compile``: every kernel and variant through CuPy, NVRTC and the driver, in several processes.

    python -m tools.gpu.compile_all --out FILE.csv [--processes 14] [--kernels NAME,...] [--dtypes NAME,...]

The compiled kernels stay in CuPy's cache for the later stages. Exit status: the number of failures, at most 100.
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

from capgpu.kernels.cuda.constants import GATES
from capgpu.kernels.cuda.kernel_registry import ENTRIES, REALS, REGISTRY, variants_of

__all__ = ["Line", "Variant", "groups", "load", "main"]

#: Bytes of dynamic shared memory for which the occupancy of cooperative kernels is queried: about what S1 needs.
_DYNAMIC_SHARED = 160 * 1024
#: Errors that are printed, the others stand in the file only; characters of an error that are kept.
_ERRORS_PRINTED, _MAX_ERROR_CHARACTERS = 3, 3000


class Variant(NamedTuple):
    """A kernel, its storage type and its macros."""

    kernel: str
    dtype: str
    defines: tuple[tuple[str, int], ...]


class Line(NamedTuple):
    """The driver's attributes of a compiled variant; after a failure, empty except for `error`."""

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
    """Group the variants by module, which is compiled once; the recurrences come first, as they take longest."""
    variants_of_module: dict[tuple[Any, ...], list[Variant]] = {}
    kernel_names, dtype_names = set(kernels), set(dtypes)
    for entry in ENTRIES:
        for dtype, defines in variants_of(entry):
            if entry.name in kernel_names and dtype in dtype_names:
                key = (entry.file, dtype, defines, entry.cooperative)
                variants_of_module.setdefault(key, []).append(Variant(entry.name, dtype, defines))
    recurrences = tuple(f"{cell}.cu" for cell in GATES)
    return [
        variants for key, variants in sorted(variants_of_module.items(), key=lambda item: item[0][0] not in recurrences)
    ]


def load(variants: Sequence[Variant]) -> list[Line]:
    """Compile and load the variants of one module, and query the driver's attributes of each."""
    from capgpu.kernels.cuda import compile

    lines = []
    for name, dtype, defines in variants:
        defines_text, started = " ".join(f"{key}={value}" for key, value in defines), time.perf_counter()
        try:
            kernel = compile.kernel(name, dtype, **dict(defines))
            attributes = kernel.attributes
            blocks = kernel.max_blocks_per_multiprocessor(kernel.block, _DYNAMIC_SHARED if kernel.cooperative else 0)
        except Exception as error:  # any failure to compile or load is a result of this stage
            message = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]
            lines.append(Line(name, dtype, defines_text, round(time.perf_counter() - started, 2), error=message))
            continue
        resources = (attributes[key] for key in ("num_regs", "local_size_bytes", "shared_size_bytes", "binary_version"))
        lines.append(Line(name, dtype, defines_text, round(time.perf_counter() - started, 2), *resources, blocks))
    return lines


def _load_modules(modules: list[list[Variant]], processes: int) -> Iterable[list[Line]]:
    if processes == 0:
        yield from map(load, modules)
        return
    # spawned: CUDA does not survive a fork
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(load, variants) for variants in modules]):
            yield future.result()


def main(argv: Sequence[str] | None = None) -> int:
    """Compile every variant and write the driver's attributes; return the number of failures, at most 100."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu.compile_all", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    parser.add_argument(
        "--processes", type=int, default=min(14, os.cpu_count() or 1), help="0: compile in this process"
    )
    parser.add_argument("--kernels", default=",".join(REGISTRY))
    parser.add_argument("--dtypes", default=",".join(REALS))
    args = parser.parse_args(argv)
    kernels, dtypes = args.kernels.split(","), args.dtypes.split(",")
    for name in (*kernels, *dtypes):
        if name not in REGISTRY and name not in REALS:
            parser.error(f"expected kernels of the registry and dtypes, got {name!r}")
    modules = groups(kernels, dtypes)
    started, n_lines, n_failed = time.perf_counter(), 0, 0
    spilled: list[str] = []
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Line._fields)
        for module_lines in _load_modules(modules, args.processes):
            for line in module_lines:
                writer.writerow(line)
                n_lines, n_failed = n_lines + 1, n_failed + bool(line.error)
                if line.error and n_failed <= _ERRORS_PRINTED:
                    print("FAILED", *line[:3], line.error[:1500], flush=True)
                if line.local_bytes and line.local_bytes > 0:
                    spilled.append(f"{line.kernel} {line.dtype} {line.defines}: {line.local_bytes} bytes")
            file.flush()  # a run that is killed keeps the lines written so far
    for spill in spilled:
        print("local memory:", spill)
    seconds = time.perf_counter() - started
    print(f"{n_lines} kernels, {n_failed} failed, {len(spilled)} with local memory, {seconds:.0f} s")
    return min(n_failed, 100)


if __name__ == "__main__":
    sys.exit(main())
