"""Exponential, sigmoid and tanh that vectorize: polynomials in straight-line code, one version a precision.

And sums of two products, of which the compiler would join either with the sum: see `multiply_add`.

In float32 the relative error of each is below 3e-7, the derivatives' smoothness is kept, and no argument overflows.
In float64 the C library's functions serve: exactness matters there, not speed.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import float32, int32, types
from numba.extending import intrinsic, overload

from capgpu.kernels.cpu.compile import FUSES

__all__ = ["exponential", "hyperbolic_tangent", "maximum", "multiply_add", "sigmoid"]

# a product and a sum become one multiply-add; no other freedom, or the rounding below would be optimized away
CONTRACT = {"fastmath": {"contract"}}

LOG2_E = float32(1.4426950408889634)
# ln 2 in two parts, the first short enough for n * LN2_HIGH to be exact
LN2_HIGH = float32(0.693359375)
LN2_LOW = float32(-2.12194440e-4)
# adding 1.5 * 2**23 rounds to the nearest whole number, which then sits in the low bits
ROUND = float32(12582912.0)
ROUND_BITS = int32(0x4B400000)

# e**r = 1 + r + r**2 (P2 + P3 r + ... + P6 r**4) for |r| <= ln(2) / 2, relative error 4e-9 before rounding
P2, P3, P4 = float32(4.999999305e-01), float32(1.666651479e-01), float32(4.166845675e-02)
P5, P6 = float32(8.369418897e-03), float32(1.381314680e-03)
# tanh a = a + a**3 (T0 + T1 a**2 + ... + T4 a**8) for |a| <= 0.64, relative error 6e-9 before rounding
T0, T1, T2 = float32(-3.333327222e-01), float32(1.333115550e-01), float32(-5.371428426e-02)
T3, T4 = float32(2.055219326e-02), float32(-5.604360831e-03)


@intrinsic
def _bits(typingctx: Any, value: Any) -> Any:
    """Read a float32 as the int32 of the same bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _from_bits(typingctx: Any, value: Any) -> Any:
    """Read an int32 as the float32 of the same bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """Return the greater of two numbers of one type, NaN if either is: unlike ``max``, a loop of it vectorizes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        name = f"llvm.maximum.{'f32' if isinstance(kind, ir.FloatType) else 'f64'}"
        return builder.call(builder.module.declare_intrinsic(name, (), ir.FunctionType(kind, [kind, kind])), args)

    return a(a, a), generate


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c for numbers of one type, in one rounding where the processor can.

    For ``a * b + d * e``: joined by the compiler, it would be the one product in one place of a program and the other
    in another, or in the next process, and the last bits with them.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not FUSES:
            return builder.fadd(builder.fmul(args[0], args[1]), args[2])
        kind = args[0].type
        name = f"llvm.fma.{'f32' if isinstance(kind, ir.FloatType) else 'f64'}"
        return builder.call(builder.module.declare_intrinsic(name, (), ir.FunctionType(kind, [kind] * 3)), args)

    return a(a, a, a), generate


def exponential(x: Any) -> Any:
    """Return e**x; in float32 it is 0 below -87 and stays at e**88 above."""
    return math.exp(x)


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e**-x)."""
    return 1 / (1 + math.exp(-x))


def hyperbolic_tangent(x: Any) -> Any:
    """Return tanh x."""
    return math.tanh(x)


@overload(exponential, jit_options=CONTRACT)
def _exponential(x: Any) -> Any:
    if x == types.float32:

        def single(x: Any) -> Any:
            # comparisons in this direction let NaN through
            y = float32(-87.0) if x < float32(-87.0) else x
            y = float32(88.0) if y > float32(88.0) else y
            shifted = y * LOG2_E + ROUND
            n = shifted - ROUND
            r = y - n * LN2_HIGH - n * LN2_LOW
            p = P6
            p = p * r + P5
            p = p * r + P4
            p = p * r + P3
            p = p * r + P2
            p = p * r + float32(1.0)
            p = p * r + float32(1.0)
            value = p * _from_bits(int32((_bits(shifted) - ROUND_BITS + int32(127)) << int32(23)))
            return float32(0.0) if x < float32(-87.0) else value

        return single

    def double(x: Any) -> Any:
        return math.exp(x)

    return double


@overload(sigmoid, jit_options=CONTRACT)
def _sigmoid(x: Any) -> Any:
    if x == types.float32:

        def single(x: Any) -> Any:
            value = float32(1.0) / (float32(1.0) + exponential(-x))
            # a gate at -infinity is 0, not e**-88: times an infinite state it must be NaN, as everywhere else
            return float32(0.0) if x < float32(-88.0) else value

        return single

    def double(x: Any) -> Any:
        return 1.0 / (1.0 + math.exp(-x))

    return double


@overload(hyperbolic_tangent, jit_options=CONTRACT)
def _hyperbolic_tangent(x: Any) -> Any:
    if x == types.float32:

        def single(x: Any) -> Any:
            a = abs(x)
            a = float32(10.0) if a > float32(10.0) else a
            far = float32(1.0) - float32(2.0) / (exponential(a + a) + float32(1.0))
            s = a * a
            p = T4
            p = p * s + T3
            p = p * s + T2
            p = p * s + T1
            p = p * s + T0
            near = a + a * s * p
            value = near if a < float32(0.625) else far
            return value if x >= float32(0.0) else -value

        return single

    def double(x: Any) -> Any:
        return math.tanh(x)

    return double
