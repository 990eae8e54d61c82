// CUDA's vector types. Their alignment is the device's, so the compiler's alignment check sees a bad vector access.
#pragma once

#define VECTOR_TYPES(T, scalar)                                                                \
    struct alignas(2 * sizeof(scalar)) T##2 { scalar x, y; };                                  \
    struct T##3 { scalar x, y, z; };                                                           \
    struct alignas(4 * sizeof(scalar) > 16 ? 16 : 4 * sizeof(scalar)) T##4 { scalar x, y, z, w; }; \
    inline T##2 make_##T##2(scalar x, scalar y) { return {x, y}; }                             \
    inline T##3 make_##T##3(scalar x, scalar y, scalar z) { return {x, y, z}; }                \
    inline T##4 make_##T##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

VECTOR_TYPES(char, signed char)
VECTOR_TYPES(uchar, unsigned char)
VECTOR_TYPES(short, short)
VECTOR_TYPES(ushort, unsigned short)
VECTOR_TYPES(int, int)
VECTOR_TYPES(uint, unsigned)
VECTOR_TYPES(float, float)
VECTOR_TYPES(longlong, long long)
VECTOR_TYPES(ulonglong, unsigned long long)
VECTOR_TYPES(double, double)
#undef VECTOR_TYPES

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
