"""Device times of the softmax's variants, alone and behind the product that makes the scores; of sums of columns, too.

    python -m tools.gpu.time_softmax [--tiny]

Prints a table, and of each variant the largest distance to the two-pass kernel's gradient.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from capgpu.kernels.cuda import embedding
from capgpu.kernels.cuda.catalogue import compiler_options
from capgpu.kernels.cuda.constants import WARP
from capgpu.kernels.cuda.module import source
from capgpu.kernels.cuda.stopwatch import device_time
from capgpu.kernels.cuda.workspace import workspace

#: Rows, classes; hidden units of the product before.
SHAPES = ((1215, 10000), (1215, 9999), (950, 1000), (5000, 32000))
HIDDEN = 512


@dataclass(frozen=True)
class Variant:
    """One way to compile a kernel of softmax.cu, and to launch it."""

    name: str
    kernel: str
    macros: tuple[tuple[str, int], ...] = ()
    warps: int = 1

    def threads(self, V: int, itemsize: int) -> int:
        """Return the threads of a block for rows of V scores."""
        if self.kernel == "softmax_blocks":
            return 256
        held, pack = dict(self.macros)["HELD"], 16 // itemsize
        return max(-(-(V // pack) // (held // pack * WARP)), self.warps) * WARP


def held(count: int, threads: int, blocks: int, warps: int) -> Variant:
    """Return the variant in registers: scores a thread, bounds of the launch, fewest warps."""
    macros = (("HELD", count), ("ROW_THREADS", threads), ("ROW_BLOCKS", blocks))
    return Variant(f"{count} held, {threads} x {blocks}, {warps} warps or more", "softmax_registers", macros, warps)


VARIANTS = (Variant("two passes", "softmax_blocks"), held(32, 1024, 1, 2), held(24, 640, 2, 2), held(32, 1024, 1, 4))


def compiled(variant: Variant, dtype: str) -> Any:
    """Compile a variant for the current device."""
    import cupy

    given = dict(variant.macros)
    options = [o for o in compiler_options("softmax.cu", dtype) if o[2:].partition("=")[0] not in given]
    options += [f"-D{name}={value}" for name, value in given.items()]
    module = cupy.RawModule(code=source("softmax.cu"), options=tuple(options), backend="nvrtc")
    return module.get_function(variant.kernel)


def softmaxes(shapes: Sequence[tuple[int, int]], hidden: int, dtypes: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield a row of the table for each dtype, shape and variant that holds the row."""
    import cupy

    random = np.random.default_rng(0)
    for dtype in dtypes:
        kernels = {variant: compiled(variant, dtype) for variant in VARIANTS}
        for M, V in shapes:
            exact = random.standard_normal((M, hidden)), random.standard_normal((hidden, V)) / hidden**0.5
            left, right = (cupy.asarray(array.astype(dtype)) for array in exact)
            scores, losses = cupy.empty((M, V), dtype), cupy.empty(M, np.float32)
            bias = cupy.asarray(random.standard_normal(V).astype(dtype))
            targets = cupy.asarray(random.integers(0, V, M).astype(np.int32))
            numbers = np.int32(M), np.int32(V), np.float32(1.0), np.float32(0.0)
            itemsize = scores.dtype.itemsize
            want: Any = None

            def project(left: Any = left, right: Any = right, scores: Any = scores) -> None:
                cupy.matmul(left, right, out=scores)

            product = _ms(project)
            for variant, kernel in kernels.items():
                threads = variant.threads(V, itemsize)
                if threads > dict(variant.macros).get("ROW_THREADS", 256):
                    continue

                def run(
                    kernel: Any = kernel,
                    threads: int = threads,
                    args: Any = (scores, bias, targets, losses, *numbers),
                    M: int = M,
                ) -> None:
                    kernel((M,), (threads,), args)

                def both(run: Callable[[], None] = run, project: Callable[[], None] = project) -> None:
                    project()
                    run()

                both()
                got = cupy.asnumpy(scores[:64]).astype(np.float64), cupy.asnumpy(losses).astype(np.float64)
                want = want or got
                args = scores, np.uint64(0), targets, losses, *numbers
                plain = _ms(lambda run=run, args=args: run(args=args))
                off = max(float(abs(a - b).max() / abs(b).max()) for a, b in zip(got, want, strict=True))
                alone, behind = _ms(run), _ms(both) - product
                rate = 2 * scores.nbytes / alone / 1e9
                yield (
                    dtype,
                    M,
                    V,
                    variant.name,
                    threads,
                    f"{alone:.4f}",
                    f"{rate:.2f}",
                    f"{behind:.4f}",
                    f"{plain:.4f}",
                    f"{off:.1e}",
                )


def column_sums(groups: Sequence[Sequence[tuple[int, int]]]) -> Iterator[tuple[Any, ...]]:
    """Yield a row of the table for each group of matrices and number of rows that a block adds up."""
    import cupy

    kept = embedding.SLICE
    for shapes in groups:
        matrices = [(cupy.ones(shape, np.float32), cupy.empty(shape[1], np.float32)) for shape in shapes]
        for embedding.SLICE in (128, 64):
            ms = _ms(lambda matrices=matrices: embedding.sum_columns(workspace(), matrices))
            yield "float32", shapes, "", f"column sums, slices of {embedding.SLICE}", "", f"{ms:.4f}"
    embedding.SLICE = kept


def _ms(run: Callable[[], None]) -> float:
    return device_time(run, 7, 10).milliseconds


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu.time_softmax", description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing, to see it run")
    tiny = parser.parse_args(argv).tiny
    print("| dtype | M | V | variant | threads | ms | TB/s | behind the product | without bias | off |")
    print("| --- " * 10 + "|")
    groups = [[(1215, 10000)], [(1215, 10000), (700, 2048), (128, 512)], [(950, 1000), (420, 2048), (64, 512)]]
    for row in column_sums([[(300, 40)]] if tiny else groups):
        print("|", " | ".join(map(str, row)), "|", flush=True)
    for row in softmaxes([(5, 1100)] if tiny else SHAPES, 4 if tiny else HIDDEN, ("float32", "float16")):
        print("|", " | ".join(map(str, row)), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
