"""Compile every kernel, dtype and variant to machine code for every architecture, and write down what each takes.

    python -m bench.cuda.compile_table

Needs neither a GPU nor a toolkit: see `bench.cuda.nvrtc`. The table names the sources it was made from by their
digest, so that a test can tell when it is stale.
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
from capgpu.kernels.cuda.constants import roomy
from capgpu.kernels.cuda.kernel_registry import ENTRIES, Entry, compiler_options, variants_of

__all__ = ["ARCHITECTURES", "Job", "Line", "compile_all", "digest", "jobs", "main", "read"]

#: From Turing on, which is where CUDA 13 begins: T4, A100, RTX 30, RTX 40, H100, B200, RTX 50.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
RESULTS = ROOT / "bench" / "cuda" / "results"
#: What has been compiled, by source, options, architecture and compiler: the whole takes minutes, a change little.
KEPT = ROOT / "build" / "compiled"
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
        """The kernels of the registry that this compilation makes."""
        return tuple(
            entry.name
            for entry in ENTRIES
            if entry.file == self.file and (self.dtype, self.defines) in variants_of(entry)
        )

    def options(self) -> tuple[str, ...]:
        """Return what the compiler is handed, but for the architecture."""
        return compiler_options(self.file, self.dtype, self.defines, roomy(divmod(self.architecture, 10)))


@dataclass(frozen=True)
class Line:
    """One line of the table: a kernel and what it takes on one architecture."""

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
    """List every compilation that the registry asks for, each once."""
    wanted = {
        Job(entry.file, dtype, defines, architecture): None
        for architecture in architectures
        for entry in ENTRIES
        for dtype, defines in variants_of(entry)
    }
    return list(wanted)


def _entry(name: str) -> Entry:
    return next(entry for entry in ENTRIES if entry.name == name)


def compile_one(job: Job) -> list[Line]:
    """Compile, or remember, and read what the assembler says of each kernel.

    Raises
    ------
    nvrtc.CompilationFailedError
        With the log.
    ValueError
        Where a kernel of the registry is not in the compiled module, or the log has an unknown form.
    """
    log, size = _compiled(job)
    found = resources.parse(log)
    missing = set(job.names) - set(found)
    if missing:
        raise ValueError(f"{job.file} as {job.dtype} {dict(job.defines)} has no kernel {', '.join(sorted(missing))}")
    return [
        Line(
            kernel=name,
            dtype=job.dtype,
            variant=" ".join(f"{key}={value}" for key, value in job.defines),
            architecture=job.architecture,
            block=_entry(name).block,
            registers=found[name].registers,
            shared=found[name].shared,
            dynamic_shared=_entry(name).shared,
            stack=found[name].stack,
            spill_stores=found[name].spill_stores,
            spill_loads=found[name].spill_loads,
            barriers=found[name].barriers,
            code_bytes=size,
        )
        for name in job.names
    ]


def _compiled(job: Job) -> tuple[str, int]:
    """Return the compiler's log and the bytes of machine code."""
    compiler = nvrtc.find()
    text, options = source(job.file), job.options()
    key = hashlib.sha256(repr((text, options, job.architecture, compiler.version)).encode()).hexdigest()[:32]
    kept = KEPT / f"{key}.log"
    if kept.exists():
        size, _, log = kept.read_text(encoding="utf-8").partition("\n")
        return log, int(size)
    compiled = compiler.compile(text, options, job.architecture)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, f"{len(compiled.code)}\n{compiled.log}".encode())
    return compiled.log, len(compiled.code)


def compile_all(wanted: Sequence[Job]) -> list[Line]:
    """Compile in as many processes as there are processors: the compiler works on one program at a time."""
    processes = max(1, min(len(wanted), len(os.sched_getaffinity(0))))
    # spawned, not forked: the caller may hold threads
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return [line for lines in pool.map(compile_one, wanted, chunksize=4) for line in lines]


def digest() -> str:
    """Return what tells the sources, the options and the list of kernels from any other."""
    text = hashlib.sha256()
    for job in jobs():
        text.update(repr((job, job.names, source(job.file), job.options())).encode())
    text.update(repr([(entry.name, entry.block, entry.shared) for entry in ENTRIES]).encode())
    return text.hexdigest()[:16]


def _header(version: str) -> str:
    return f"NVRTC {version}, sources {digest()}"


def csv_text(lines: Sequence[Line], version: str) -> str:
    """Return the table as CSV, below one line that says what it was made from."""
    out = io.StringIO()
    out.write(f"# {_header(version)}\n")
    writer = csv.DictWriter(out, list(Line.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    return out.getvalue()


def read(path: Path = CSV) -> tuple[str, list[Line]]:
    """Read a table: the digest of what it was made from, and its lines."""
    head, _, body = path.read_text(encoding="utf-8").partition("\n")
    numbers = {name for name, field in Line.__dataclass_fields__.items() if field.type == "int"}
    lines = [
        Line(**{name: int(value) if name in numbers else value for name, value in row.items()})  # type: ignore[arg-type]
        for row in csv.DictReader(io.StringIO(body))
    ]
    return head.rpartition(" ")[2], lines


def markdown(lines: Sequence[Line], version: str) -> str:
    """Return a page: a row a kernel, dtype and variant, registers and static shared memory by architecture."""
    in_memory = [line for line in lines if line.stack or line.spill_stores or line.spill_loads]
    kernels = dict.fromkeys((line.kernel, line.dtype, line.variant) for line in lines)
    by_key = {(line.kernel, line.dtype, line.variant, line.architecture): line for line in lines}
    text = [
        "# What the compiler made of every CUDA kernel",
        "",
        f"`make cuda-table`, {_header(version)}: {len(kernels)} kernels (name, dtype, variant) for "
        f"{len(ARCHITECTURES)} architectures, {len(lines)} in all. Compiled, not run: no GPU was there.",
        "",
        f"Kernels with spilt registers, local arrays or any other stack: {len(in_memory)}.",
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
