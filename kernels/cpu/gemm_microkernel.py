"""The innermost matrix product: one tile of C stays in vector registers while k runs.

C (m x n) += A (m x k) B (k x n) with m <= ROWS and n = two vectors. B comes as a packed panel, [k][n], so that its
loads are contiguous; A is read where it lies, one broadcast element at a time, in either orientation. The loop is
written as LLVM IR, because no loop vectorizer keeps a tile of sums in registers; LLVM maps the vector type to
AVX-512, AVX2 or NEON. Each element of C is one chain of multiply-adds in rising k: its bits depend neither on the
tile's height nor on how the matrix is shared among threads.

One step of k, with two vectors b0, b1 of the panel and ROWS rows of A::

                    b0       b1          2 loads
                 +--------+--------+
    a[0] ... a[0]|  sum   |  sum   |     ROWS loads, each broadcast to a vector
    a[1] ... a[1]|  sum   |  sum   |     2 ROWS multiply-adds, no two of which depend on each other
       ...       |  ...   |  ...   |
                 +--------+--------+

=========  =========  ====  ==================================================
Unit       Registers  ROWS  Sums, and what is left for b0, b1 and a broadcast
=========  =========  ====  ==================================================
AVX-512    32         12    24, 8
NEON       32         12    24, 8
AVX, SSE   16         6     12, 4
=========  =========  ====  ==================================================

A taller tile would spill sums to memory at every step. A shorter one has fewer independent chains than a multiply-add
takes cycles times those started in a cycle (4 x 2 on most processors): below a height of 4 the units wait.

The loops, one for each height, are compiled once for each orientation and element type, and called by a symbol (see
`capgpu.kernels.cpu.symbols`): linked into all callers, they took more than half of the time of compilation.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from capgpu.kernels.cpu.compile import ACCUMULATORS, VECTOR_BYTES, compiled
from capgpu.kernels.cpu.symbols import called_by_symbol, provide

__all__ = ["PANEL_BYTES", "ROWS", "tile"]

VECTORS = 2
#: Greatest height of a tile.
ROWS = ACCUMULATORS // VECTORS
#: Bytes of one row of a packed panel of B: ``PANEL_BYTES // itemsize`` columns.
PANEL_BYTES = VECTORS * VECTOR_BYTES
UNROLL = 4

#: Rows of a panel between those in use and those that are prefetched.
AHEAD = 64

I64 = ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()


class _Tile:
    """Emits the loop for one height, orientation of A and element type."""

    def __init__(self, builder: Any, element: Any, height: int, transposed: bool) -> None:
        self.builder = builder
        self.element = element
        self.height = height
        self.transposed = transposed
        itemsize = 4 if isinstance(element, ir.FloatType) else 8
        self.lanes = VECTOR_BYTES // itemsize
        self.vector = ir.VectorType(element, self.lanes)
        name = f"llvm.fmuladd.v{self.lanes}f{8 * itemsize}"
        self.multiply_add = builder.module.declare_intrinsic(name, (), ir.FunctionType(self.vector, [self.vector] * 3))

    def emit(self, a: Any, lda: Any, b: Any, c: Any, ldc: Any, k: Any, accumulate: Any) -> None:
        builder = self.builder
        a, b, c = (builder.inttoptr(p, self.element.as_pointer()) for p in (a, b, c))
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        sums = [zero] * (self.height * VECTORS)
        self._prefetch_result(c, ldc)
        main = builder.and_(k, I64(-UNROLL))
        a, b, sums = self._loop(a, lda, b, sums, main, UNROLL)
        _, _, sums = self._loop(a, lda, b, sums, builder.sub(k, main), 1)
        with builder.if_else(builder.icmp_signed("!=", accumulate, I64(0))) as (add, store):
            with add:
                self._write(c, ldc, sums, True)
            with store:
                self._write(c, ldc, sums, False)

    def _loop(self, a: Any, lda: Any, b: Any, sums: list[Any], count: Any, unroll: int) -> tuple[Any, Any, list[Any]]:
        builder = self.builder
        entry = builder.block
        loop = builder.append_basic_block("tile.loop")
        exit_block = builder.append_basic_block("tile.after")
        builder.cbranch(builder.icmp_signed(">", count, I64(0)), loop, exit_block)
        builder.position_at_end(loop)
        counter, pa, pb = builder.phi(I64), builder.phi(a.type), builder.phi(b.type)
        running = [builder.phi(self.vector) for _ in sums]
        updated = list(running)
        if unroll > 1:
            self._prefetch(builder.gep(pb, [I64(AHEAD * VECTORS * self.lanes)]), unroll)
        for u in range(unroll):
            columns = [self._load(builder.gep(pb, [I64((u * VECTORS + v) * self.lanes)])) for v in range(VECTORS)]
            for r in range(self.height):
                row, step = (u, r) if self.transposed else (r, u)
                value = builder.load(builder.gep(builder.gep(pa, [builder.mul(lda, I64(row))]), [I64(step)]))
                broadcast = self._broadcast(value)
                for v in range(VECTORS):
                    index = r * VECTORS + v
                    updated[index] = builder.call(self.multiply_add, [broadcast, columns[v], updated[index]])
        following = builder.add(counter, I64(unroll))
        stride = builder.mul(lda, I64(unroll)) if self.transposed else I64(unroll)
        next_a = builder.gep(pa, [stride])
        next_b = builder.gep(pb, [I64(unroll * VECTORS * self.lanes)])
        builder.cbranch(builder.icmp_signed("<", following, count), loop, exit_block)
        for phi, first, later in zip(
            [counter, pa, pb, *running], [I64(0), a, b, *sums], [following, next_a, next_b, *updated], strict=True
        ):
            phi.add_incoming(first, entry)
            phi.add_incoming(later, loop)
        builder.position_at_end(exit_block)
        results = []
        for first, later in zip([a, b, *sums], [next_a, next_b, *updated], strict=True):
            phi = builder.phi(first.type)
            phi.add_incoming(first, entry)
            phi.add_incoming(later, loop)
            results.append(phi)
        return results[0], results[1], results[2:]

    def _prefetch(self, pointer: Any, rows: int) -> None:
        """Prefetch later rows of the panel: the processor's own prefetching stops at every page."""
        self._fetch(pointer, rows * PANEL_BYTES, write=False)

    def _fetch(self, pointer: Any, size: int, write: bool) -> None:
        builder, number = self.builder, ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [BYTES, number, number, number])
        fetch = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
        address = builder.bitcast(pointer, BYTES)
        for line in range(0, size, 64):
            builder.call(fetch, [builder.gep(address, [I64(line)]), number(int(write)), number(3), number(1)])

    def _prefetch_result(self, c: Any, ldc: Any) -> None:
        """Prefetch the tile's lines of C for writing, while the sums are computed."""
        for r in range(self.height):
            self._fetch(self.builder.gep(c, [self.builder.mul(ldc, I64(r))]), PANEL_BYTES, write=True)

    def _write(self, c: Any, ldc: Any, sums: list[Any], add: bool) -> None:
        builder = self.builder
        for r in range(self.height):
            row = builder.gep(c, [builder.mul(ldc, I64(r))])
            for v in range(VECTORS):
                target = builder.gep(row, [I64(v * self.lanes)])
                value = sums[r * VECTORS + v]
                if add:
                    value = builder.fadd(self._load(target), value)
                pointer = builder.bitcast(target, self.vector.as_pointer())
                builder.store(value, pointer, align=self._alignment())

    def _load(self, pointer: Any) -> Any:
        vector = self.builder.bitcast(pointer, self.vector.as_pointer())
        return self.builder.load(vector, align=self._alignment())

    def _alignment(self) -> int:
        return VECTOR_BYTES // self.lanes

    def _broadcast(self, value: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.IntType(32)(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, lanes)


def _emitter(transposed: bool, single: bool) -> Any:
    """Make the intrinsic for one orientation of A and element type; the height is picked at run time."""

    @intrinsic
    def emit(typingctx: Any, a: Any, lda: Any, b: Any, c: Any, ldc: Any, k: Any, height: Any, accumulate: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a, lda, b, c, ldc, k, height, accumulate = args
            element = ir.FloatType() if single else ir.DoubleType()
            done = builder.append_basic_block("tile.done")
            switch = builder.switch(height, done)
            for rows in range(1, ROWS + 1):
                block = builder.append_basic_block(f"tile.{rows}")
                switch.add_case(I64(rows), block)
                builder.position_at_end(block)
                _Tile(builder, element, rows, transposed).emit(a, lda, b, c, ldc, k, accumulate)
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return emit


_emit_plain_float32, _emit_plain_float64 = _emitter(False, True), _emitter(False, False)
_emit_transposed_float32, _emit_transposed_float64 = _emitter(True, True), _emitter(True, False)


def _plain_float32(a: int, lda: int, b: int, c: int, ldc: int, k: int, height: int, accumulate: int) -> None:
    _emit_plain_float32(a, lda, b, c, ldc, k, height, accumulate)


def _plain_float64(a: int, lda: int, b: int, c: int, ldc: int, k: int, height: int, accumulate: int) -> None:
    _emit_plain_float64(a, lda, b, c, ldc, k, height, accumulate)


def _transposed_float32(a: int, lda: int, b: int, c: int, ldc: int, k: int, height: int, accumulate: int) -> None:
    _emit_transposed_float32(a, lda, b, c, ldc, k, height, accumulate)


def _transposed_float64(a: int, lda: int, b: int, c: int, ldc: int, k: int, height: int, accumulate: int) -> None:
    _emit_transposed_float64(a, lda, b, c, ldc, k, height, accumulate)


_SIGNATURE = types.void(*[types.int64] * 8)
_SYMBOLS = {
    (transposed, dtype): called_by_symbol(function, _SIGNATURE)
    for transposed, dtype, function in (
        (False, "float32", _plain_float32),
        (False, "float64", _plain_float64),
        (True, "float32", _transposed_float32),
        (True, "float64", _transposed_float64),
    )
}


def _caller(transposed: bool) -> Any:
    """Make the intrinsic that calls the loops of one orientation by their symbol."""

    @intrinsic
    def call(
        typingctx: Any, like: Any, a: Any, lda: Any, b: Any, c: Any, ldc: Any, k: Any, height: Any, accumulate: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            symbol = _SYMBOLS[transposed, signature.args[0].dtype.name]
            provide(symbol)
            declared = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [I64] * 8), symbol)
            builder.call(declared, args[1:])
            return context.get_dummy_value()

        return types.void(like, *[types.int64] * 8), generate

    return call


_tile_plain, _tile_transposed = _caller(False), _caller(True)


@compiled()
def tile(
    like: Any, a: int, lda: int, b: int, c: int, ldc: int, k: int, height: int, transposed: bool, accumulate: int
) -> None:
    """Compute one tile of ``C = A B`` or ``C += A B``.

    Parameters
    ----------
    like : array
        Any array of the element type.
    a : int
        Address of the tile's first element of A.
    lda : int
        Elements between rows of A as it lies in memory.
    b : int
        Address of a packed panel, ``[k][PANEL_BYTES // itemsize]``.
    c, ldc : int
        Address of the tile in C, and elements between its rows. The whole panel width is written.
    k : int
        Length of the sums.
    height : int
        Rows of the tile, 1 to `ROWS`.
    transposed : bool
        False: A lies as (m, k). True: A lies as (k, m).
    accumulate : int
        0 stores, anything else adds to C.
    """
    if transposed:
        _tile_transposed(like, a, lda, b, c, ldc, k, height, accumulate)
    else:
        _tile_plain(like, a, lda, b, c, ldc, k, height, accumulate)
