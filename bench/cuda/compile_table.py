"""Compile every kernel, dtype and variant for every architecture, and write a table of the resources that each uses.

    python -m bench.cuda.compile_table

Needs neither a GPU nor a toolkit: see `bench.cuda.nvrtc`. The table contains a digest of its sources, by which a test
detects that it is stale.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from bench.cuda import nvrtc, resources
from bench.process import ROOT
from bench.report import write_atomically
from capgpu.kernels.cuda.compile import source
from capgpu.kernels.cuda.constants import large_shared
from capgpu.kernels.cuda.kernel_registry import ENTRIES, Entry, compiler_options, variants_of

__all__ = ["ARCHITECTURES", "Job", "Line", "compile_all", "digest", "jobs", "main", "read"]

#: From Turing on, the oldest that CUDA 13 supports: T4, A100, RTX 30, RTX 40, H100, B200, RTX 50.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
RESULTS = ROOT / "bench" / "cuda" / "results"
#: Cache of compiler logs, keyed by source, options, architecture and compiler version, so that only changes compile.
LOG_CACHE = ROOT / "build" / "compiled"
CSV = RESULTS / "compiled.csv"

Defines = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Job:
    """One compilation: a source file, a storage type, a variant, an architecture."""

    file: str
    dtype: str
    defines: Defines
    architecture: int

    @property
    def names(self) -> tuple[str, ...]:
        """The registry's kernels that this compilation contains."""
        return tuple(
            entry.name
            for entry in ENTRIES
            if entry.file == self.file and (self.dtype, self.defines) in variants_of(entry)
        )

    def options(self) -> tuple[str, ...]:
        """Return the compiler's options except for the architecture."""
        return compiler_options(self.file, self.dtype, self.defines, large_shared(divmod(self.architecture, 10)))


@dataclass(frozen=True)
class Line:
    """One line of the table: a kernel's resources on one architecture."""

    kernel: str
    dtype: str
    variant: str
    architecture: int
    block: int
    registers: int
    shared: int
    dynamic_shared: int
    stack: int
    spill_stores: int
    spill_loads: int
    barriers: int
    code_bytes: int


def jobs(architectures: Iterable[int] = ARCHITECTURES) -> list[Job]:
    """List the distinct compilations that the registry requires."""
    distinct = {
        Job(entry.file, dtype, defines, architecture): None
        for architecture in architectures
        for entry in ENTRIES
        for dtype, defines in variants_of(entry)
    }
    return list(distinct)


def _entry(name: str) -> Entry:
    return next(entry for entry in ENTRIES if entry.name == name)


def compile_one(job: Job) -> list[Line]:
    """Compile, or use the cached log, and parse the resources of each kernel.

    Raises
    ------
    nvrtc.CompilationFailedError
        With the log.
    ValueError
        If a kernel of the registry is not in the compiled module, or the log has an unknown format.
    """
    log, size = _compiled(job)
    kernels = resources.parse(log)
    missing = set(job.names) - set(kernels)
    if missing:
        raise ValueError(f"{job.file} as {job.dtype} {dict(job.defines)} has no kernel {', '.join(sorted(missing))}")
    return [
        Line(
            kernel=name,
            dtype=job.dtype,
            variant=" ".join(f"{key}={value}" for key, value in job.defines),
            architecture=job.architecture,
            block=_entry(name).block,
            registers=kernels[name].registers,
            shared=kernels[name].shared,
            dynamic_shared=_entry(name).shared,
            stack=kernels[name].stack,
            spill_stores=kernels[name].spill_stores,
            spill_loads=kernels[name].spill_loads,
            barriers=kernels[name].barriers,
            code_bytes=size,
        )
        for name in job.names
    ]


def _compiled(job: Job) -> tuple[str, int]:
    """Return the compiler's log and the size of the machine code in bytes."""
    compiler = nvrtc.find()
    text, options = source(job.file), job.options()
    key = hashlib.sha256(repr((text, options, job.architecture, compiler.version)).encode()).hexdigest()[:32]
    cached = LOG_CACHE / f"{key}.log"
    if cached.exists():
        size, _, log = cached.read_text(encoding="utf-8").partition("\n")
        return log, int(size)
    compiled = compiler.compile(text, options, job.architecture)
    cached.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(cached, f"{len(compiled.code)}\n{compiled.log}".encode())
    return compiled.log, len(compiled.code)


def compile_all(jobs: Sequence[Job]) -> list[Line]:
    """Compile in one process per processor, since NVRTC compiles one program at a time."""
    processes = max(1, min(len(jobs), len(os.sched_getaffinity(0))))
    # spawned, not forked: the caller may have threads
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return [line for lines in pool.map(compile_one, jobs, chunksize=4) for line in lines]


def digest() -> str:
    """Return a digest of the sources, the options and the list of kernels."""
    sha256 = hashlib.sha256()
    for job in jobs():
        sha256.update(repr((job, job.names, source(job.file), job.options())).encode())
    sha256.update(repr([(entry.name, entry.block, entry.shared) for entry in ENTRIES]).encode())
    return sha256.hexdigest()[:16]


def _header(version: str) -> str:
    return f"NVRTC {version}, sources {digest()}"


def csv_text(lines: Sequence[Line], version: str) -> str:
    """Return the table as CSV, below a comment line with the compiler's version and the digest of the sources."""
    out = io.StringIO()
    out.write(f"# {_header(version)}\n")
    writer = csv.DictWriter(out, list(Line.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    return out.getvalue()


def read(path: Path = CSV) -> tuple[str, list[Line]]:
    """Read a table: the digest of its sources, and its lines."""
    head, _, body = path.read_text(encoding="utf-8").partition("\n")
    numbers = {name for name, field in Line.__dataclass_fields__.items() if field.type == "int"}
    lines = [
        Line(**{name: int(value) if name in numbers else value for name, value in row.items()})  # type: ignore[arg-type]
        for row in csv.DictReader(io.StringIO(body))
    ]
    return head.rpartition(" ")[2], lines


def markdown(lines: Sequence[Line], version: str) -> str:
    """Return a page: a row a kernel, dtype and variant, registers and static shared memory by architecture."""
    with_stack = [line for line in lines if line.stack or line.spill_stores or line.spill_loads]
    kernels = dict.fromkeys((line.kernel, line.dtype, line.variant) for line in lines)
    by_key = {(line.kernel, line.dtype, line.variant, line.architecture): line for line in lines}
    text = [
        "# What the compiler made of every CUDA kernel",
        "",
        f"`make cuda-table`, {_header(version)}: {len(kernels)} kernels (name, dtype, variant) for "
        f"{len(ARCHITECTURES)} architectures, {len(lines)} in all. Compiled, not run: no GPU was there.",
        "",
        f"Kernels with spilt registers, local arrays or any other stack: {len(with_stack)}.",
        "",
        "A cell holds the registers of a thread, from which the number of blocks on a multiprocessor follows. `block`:",
        "threads of a block at most. `shared`: bytes a block, static and the most of the dynamic part. Everything",
        "else (barriers, bytes of code) is in [compiled.csv](compiled.csv).",
        "",
        "| kernel | dtype | variant | block | shared | " + " | ".join(f"sm_{a}" for a in ARCHITECTURES) + " |",
        "| --- | --- | --- | ---: | ---: |" + " ---: |" * len(ARCHITECTURES),
    ]
    for key in kernels:
        row = [by_key[(*key, architecture)] for architecture in ARCHITECTURES]
        shared = f"{max(line.shared for line in row)} + {row[0].dynamic_shared}"
        registers = " | ".join(str(line.registers) for line in row)
        text.append(f"| {key[0]} | {key[1]} | {key[2]} | {row[0].block} | {shared} | {registers} |")
    return "\n".join(text) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda.compile_table", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    out: Path = parser.parse_args(argv).out
    try:
        version = nvrtc.find().version
    except nvrtc.MissingCompilerError as error:
        parser.exit(1, f"{error}\n")
    lines = compile_all(jobs())
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "compiled.csv", csv_text(lines, version).encode())
    write_atomically(out / "compiled.md", markdown(lines, version).encode())
    print(f"{out / 'compiled.md'}: {len(lines)} kernels compiled")


if __name__ == "__main__":
    main()
