// __half and __nv_bfloat16: stored in 16 bits, converted to and from float with rounding to nearest even.
#pragma once

#include <math.h>
#include <string.h>

namespace emulator {

inline unsigned bits_of(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float float_of(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline unsigned short to_bfloat16(float x) {
    const unsigned bits = bits_of(x);
    if (x != x) return 0x7fff;  // what the device makes of every NaN
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline unsigned short to_half(float x) {
    const unsigned bits = bits_of(x), sign = (bits >> 16) & 0x8000u;
    if (x != x) return 0x7fff;
    const float size = fabsf(x);
    if (size >= 65520.0f) return (unsigned short)(sign | 0x7c00u);  // rounds to beyond 65504, the largest half
    if (size < 0x1p-14f) {  // subnormal: multiples of 2^-24
        return (unsigned short)(sign | (unsigned)nearbyintf(size * 0x1p24f));
    }
    const unsigned rounded = (bits & 0x7fffffffu) + 0xfffu + ((bits >> 13) & 1u);
    return (unsigned short)(sign | ((rounded - (112u << 23)) >> 13));
}

inline float from_half(unsigned short half) {
    const unsigned sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
    if (exponent == 31u) return float_of(sign | 0x7f800000u | (fraction << 13));
    if (exponent == 0u) return (sign ? -1.0f : 1.0f) * float(fraction) * 0x1p-24f;
    return float_of(sign | ((exponent + 112u) << 23) | (fraction << 13));
}

}  // namespace emulator

struct alignas(2) __half {
    unsigned short bits;
    __half() = default;
    __half(float x) : bits(emulator::to_half(x)) {}
    operator float() const { return emulator::from_half(bits); }
};

struct alignas(2) __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) : bits(emulator::to_bfloat16(x)) {}
    operator float() const { return emulator::float_of(unsigned(bits) << 16); }
};

inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float __half2float(__half x) { return float(x); }
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return float(x); }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { __half x; x.bits = bits; return x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { __nv_bfloat16 x; x.bits = bits; return x; }
