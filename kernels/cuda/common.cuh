// Definitions that every kernel uses. capgpu.kernels.cuda.compile puts this text before each .cu file.
//
// REAL   storage type of arrays: float, double, __half or __nv_bfloat16 (-DREAL=..., with -DREAL_HALF or
//        -DREAL_BFLOAT16 where it is one of the half types: the preprocessor cannot compare types)
// ACC    type that sums are kept in: double for double, float for all others
// PACK_BYTES, and the numbers that each file asks for: capgpu.kernels.cuda.constants
//
// Two compilers read it: NVRTC for a device, and a host compiler for tests, which defines CAPGPU_EMULATED and has
// included its own definitions of CUDA's names before. All differences between the two are in the first section.

// --- inline PTX, each with its equivalent in plain C++; only a run on a GPU tests the PTX ---------------------------

#ifdef CAPGPU_EMULATED

#define REQUIRE_COOPERATIVE() emulated_require_cooperative()
#define REQUIRE_SHARED(bytes) emulated_require_shared(bytes)
#define SPIN() __nanosleep(0)

__device__ __forceinline__ unsigned load_acquire(const unsigned* address) { return emulated_load_acquire(address); }
__device__ __forceinline__ unsigned fetch_add_release(unsigned* address, unsigned value) {
    return emulated_add_release(address, value);
}

template <class T>
__device__ __forceinline__ T load_relaxed(const T* address) { return emulated_load_relaxed(address); }
template <class T>
__device__ __forceinline__ void store_relaxed(T* address, T value) { emulated_store_relaxed(address, value); }
template <class T>
__device__ __forceinline__ void load_16_bytes_relaxed(unsigned (&words)[4], const T* from, bool wanted) {
    if (!wanted) return;
    T numbers[16 / sizeof(T)];
    for (int k = 0; k < (int)(16 / sizeof(T)); ++k) numbers[k] = emulated_load_relaxed(from + k);
    memcpy(words, numbers, 16);
}

__device__ __forceinline__ void copy_16_bytes(void* to, const void* from, bool in_bounds) {
    emulated_copy_16_bytes(to, from, in_bounds);
}
__device__ __forceinline__ void end_copies() { emulated_end_copies(); }
template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
    emulated_wait_for_copies(PENDING);
}


// The nearest TF32, see below. The filler (exchange.cuh) and poisoned memory must not become a number.
__device__ __forceinline__ unsigned nearest_tf32(unsigned word) { return word == 0xffffffffu ? word : word + 0x1000u; }

// The numbers that a word of a matrix holds, one or two.
#if defined(REAL_HALF)
#define WORD_TERMS 2
__device__ __forceinline__ float word_term(unsigned word, int term) {
    return __half2float(__ushort_as_half((unsigned short)(word >> (16 * term))));
}
#elif defined(REAL_BFLOAT16)
#define WORD_TERMS 2
__device__ __forceinline__ float word_term(unsigned word, int term) {
    return __bfloat162float(__ushort_as_bfloat16((unsigned short)(word >> (16 * term))));
}
#else
#define WORD_TERMS 1
// The matrix instructions ignore what a TF32 does not have.
__device__ __forceinline__ float word_term(unsigned word, int) { return __uint_as_float(word & ~0x1fffu); }
#endif

// ldmatrix: lane 8 m + r gives the address of row r of matrix m; lane 4 g + t receives word t of row g, or TRANSPOSED
// the halves 2 t and 2 t + 1 of column g.
template <bool TRANSPOSED, int COUNT>
__device__ __forceinline__ void load_matrices(unsigned (&words)[COUNT], const void* row) {
    const int lane = threadIdx.x % 32, group = lane / 4, part = lane % 4;
    for (int matrix = 0; matrix < COUNT; ++matrix) {
        if (TRANSPOSED) {
            const unsigned short* low = (const unsigned short*)__shfl_sync(0xffffffffu, row, 8 * matrix + 2 * part);
            const unsigned short* high = (const unsigned short*)__shfl_sync(0xffffffffu, row, 8 * matrix + 2 * part + 1);
            words[matrix] = low[group] | (unsigned)high[group] << 16;
        } else {
            words[matrix] = ((const unsigned*)__shfl_sync(0xffffffffu, row, 8 * matrix + group))[part];
        }
    }
}

__device__ __forceinline__ void multiply_matrices(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const int lane = threadIdx.x % 32, group = lane / 4, part = lane % 4;
    for (int word = 0; word < 8; ++word) {
        const int k = word / 4, from = word % 4;
        const unsigned rows[2] = {__shfl_sync(0xffffffffu, a[2 * k], 4 * group + from),
                                  __shfl_sync(0xffffffffu, a[2 * k + 1], 4 * group + from)};
        const unsigned columns[2] = {__shfl_sync(0xffffffffu, k ? b1 : b0, 8 * part + from),
                                     __shfl_sync(0xffffffffu, k ? b1 : b0, 8 * part + 4 + from)};
        for (int i = 0; i < 4; ++i) {
            for (int term = 0; term < WORD_TERMS; ++term)
                c[i] += word_term(rows[i / 2], term) * word_term(columns[i % 2], term);
        }
    }
}

#else

#define REQUIRE_COOPERATIVE()
#define REQUIRE_SHARED(bytes)
#define SPIN()

#ifdef REAL_HALF
#include <cuda_fp16.h>
#endif
#ifdef REAL_BFLOAT16
#include <cuda_bf16.h>
#endif

// Loads that see everything released before the value they return was written, anywhere on the device.
__device__ __forceinline__ unsigned load_acquire(const unsigned* address) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}

// Adds, after everything this thread has written or seen written (through a barrier) is visible on the device, and
// returns the value before.
__device__ __forceinline__ unsigned fetch_add_release(unsigned* address, unsigned value) {
    unsigned before;
    asm volatile("atom.release.gpu.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(address), "r"(value) : "memory");
    return before;
}

// Loads and stores of numbers, as bits, that other blocks store or load meanwhile: in no order with anything else, but
// whole, and past the multiprocessor's own cache. The loads of 16 bytes are those of their numbers, in any order; what is
// not `wanted` keeps its words. That is a predicate of the instruction: around a branch the compiler would copy the
// words, and wait for each load before the next.
__device__ __forceinline__ unsigned short load_relaxed(const unsigned short* address) {
    unsigned short bits;
    asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(bits) : "l"(address));
    return bits;
}
__device__ __forceinline__ unsigned load_relaxed(const unsigned* address) {
    unsigned bits;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(bits) : "l"(address));
    return bits;
}
__device__ __forceinline__ unsigned long long load_relaxed(const unsigned long long* address) {
    unsigned long long bits;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(bits) : "l"(address));
    return bits;
}
__device__ __forceinline__ void store_relaxed(unsigned short* address, unsigned short bits) {
    asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" : : "l"(address), "h"(bits) : "memory");
}
__device__ __forceinline__ void store_relaxed(unsigned* address, unsigned bits) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" : : "l"(address), "r"(bits) : "memory");
}
__device__ __forceinline__ void store_relaxed(unsigned long long* address, unsigned long long bits) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" : : "l"(address), "l"(bits) : "memory");
}
template <class T>
__device__ __forceinline__ void load_16_bytes_relaxed(unsigned (&words)[4], const T* from, bool wanted) {
    if constexpr (sizeof(T) == 8) {
        unsigned long long first = words[0] | (unsigned long long)words[1] << 32;
        unsigned long long second = words[2] | (unsigned long long)words[3] << 32;
        asm volatile("{ .reg .pred wanted; setp.ne.u32 wanted, %3, 0;\n"
                     "@wanted ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2]; }"
                     : "+l"(first), "+l"(second) : "l"(from), "r"((unsigned)wanted));
        words[0] = (unsigned)first, words[1] = (unsigned)(first >> 32);
        words[2] = (unsigned)second, words[3] = (unsigned)(second >> 32);
    } else {
        asm volatile("{ .reg .pred wanted; setp.ne.u32 wanted, %5, 0;\n"
                     "@wanted ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4]; }"
                     : "+r"(words[0]), "+r"(words[1]), "+r"(words[2]), "+r"(words[3])
                     : "l"(from), "r"((unsigned)wanted));
    }
}

// Copies 16 aligned bytes from global to shared memory, past the multiprocessor's own cache, which is not kept coherent
// with other blocks' writes; zeros where the source is not `in_bounds` (`from` is an address of the same array in any
// case). From sm_80 on the copy is asynchronous: end_copies() closes a batch, wait_for_copies<n>() waits until
// at most n batches of this thread are still under way. Other threads see the bytes after a barrier.
__device__ __forceinline__ void copy_16_bytes(void* to, const void* from, bool in_bounds) {
#if __CUDA_ARCH__ >= 800
    const unsigned address = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 : : "r"(address), "l"(from), "r"(in_bounds ? 16 : 0) : "memory");
#else
    *static_cast<int4*>(to) = in_bounds ? __ldcg(static_cast<const int4*>(from)) : make_int4(0, 0, 0, 0);
#endif
}

__device__ __forceinline__ void end_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" : : "n"(PENDING) : "memory");
#endif
}

#if TENSOR_CORES && __CUDA_ARCH__ >= 800
// The nearest TF32, ties away from zero, of a float32's word: the matrix instructions ignore the 13 bits below. Not
// cvt.rna, which is slow. Only for numbers from bounded_tf32.
__device__ __forceinline__ unsigned nearest_tf32(unsigned word) { return word + 0x1000u; }

// Loads 2 or 4 matrices of 8 rows of 16 bytes from shared memory, 8 x 8 halves or 8 x 4 float32. Lane 8 m + r gives the
// 16-byte aligned address of row r of matrix m (for 2 matrices, lanes from 16 on repeat those below). Lane 4 g + t
// receives the word t of row g; TRANSPOSED (halves only) the halves 2 t and 2 t + 1 of column g, the first in the low
// half of the word.
template <bool TRANSPOSED, int COUNT>
__device__ __forceinline__ void load_matrices(unsigned (&words)[COUNT], const void* row) {
    static_assert(COUNT == 2 || COUNT == 4, "ldmatrix loads 1, 2 or 4 matrices");
    const unsigned address = (unsigned)__cvta_generic_to_shared(row);
    if constexpr (COUNT == 2 && TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(words[0]), "=r"(words[1]) : "r"(address) : "memory");
    } else if constexpr (COUNT == 2) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                     : "=r"(words[0]), "=r"(words[1]) : "r"(address) : "memory");
    } else if constexpr (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory");
    }
}

// c += a b for matrices of 16 x 32 bytes and 32 bytes x 8, distributed over the lanes of a warp as tensor_core_mma.cuh
// describes.
#if defined(REAL_HALF)
#define MATRIX_TYPES "m16n8k16.row.col.f32.f16.f16.f32"
#elif defined(REAL_BFLOAT16)
#define MATRIX_TYPES "m16n8k16.row.col.f32.bf16.bf16.f32"
#else
#define MATRIX_TYPES "m16n8k8.row.col.f32.tf32.tf32.f32"
#endif
__device__ __forceinline__ void multiply_matrices(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned." MATRIX_TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// The launch sets the number of bytes of dynamic shared memory.
#define DYNAMIC_SHARED(type, name)                                    \
    extern __shared__ __align__(16) unsigned char capgpu_dynamic_shared[]; \
    type* name = reinterpret_cast<type*>(capgpu_dynamic_shared)

#endif

// A number that nearest_tf32 may round: a NaN becomes one that rounding up keeps a NaN; an infinity, and what rounding
// would make infinite, becomes the largest TF32.
__device__ __forceinline__ unsigned bounded_tf32(unsigned word) {
    const unsigned size = word & 0x7fffffffu;
    return size > 0x7f800000u ? 0x7fc00000u : size > 0x7f7fe000u ? (word & 0x80000000u) | 0x7f7fe000u : word;
}

// --- numbers --------------------------------------------------------------------------------------------------------

typedef REAL real;
typedef ACC acc;

#define WARP 32
#define ALL_LANES 0xffffffffu

__device__ __forceinline__ float to_acc(float x) { return x; }
__device__ __forceinline__ double to_acc(double x) { return x; }
#ifdef REAL_HALF
__device__ __forceinline__ float to_acc(__half x) { return __half2float(x); }
__device__ __forceinline__ __half to_real(float x) { return __float2half_rn(x); }
#elif defined(REAL_BFLOAT16)
__device__ __forceinline__ float to_acc(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ __nv_bfloat16 to_real(float x) { return __float2bfloat16_rn(x); }
#else
__device__ __forceinline__ real to_real(acc x) { return x; }
#endif

// A number as its bits.
template <int SIZE>
struct BitsOf;
template <>
struct BitsOf<2> {
    typedef unsigned short type;
};
template <>
struct BitsOf<4> {
    typedef unsigned type;
};
template <>
struct BitsOf<8> {
    typedef unsigned long long type;
};
typedef BitsOf<sizeof(real)>::type real_bits;

__device__ __forceinline__ real_bits to_bits(real x) {
    real_bits bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

// CUDA has no INFINITY without headers. The lowest finite number starts a maximum just as well: exp of the distance
// to it is 0.
__device__ __forceinline__ float lowest(float) { return -3.402823466e38f; }
__device__ __forceinline__ double lowest(double) { return -1.7976931348623157e308; }

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float root(float x) { return sqrtf(x); }
__device__ __forceinline__ double root(double x) { return sqrt(x); }
__device__ __forceinline__ double hyperbolic_tangent(double x) { return tanh(x); }
// The form with tanh cannot overflow, whatever the sign.
__device__ __forceinline__ double sigmoid(double x) { return 0.5 * tanh(0.5 * x) + 0.5; }

// In float32 without branches, so that the gates of a cell are computed side by side: within 4 units in the last place, of
// the sigmoid below 1/8 those of 1/8 (tests/kernels/cuda/test_common_header.py). An exponential that overflows gives the limit.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ __forceinline__ float hyperbolic_tangent(float x) {
    const float size = fabsf(x), square = size * size;
    const float far = 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * size));
    // (tanh(x) / x - 1) / x^2 below 0.55: a polynomial in x^2 fitted to the least largest relative error, 1e-9
    float near = -6.2741935e-3f;
    near = near * square + 2.1071644e-2f;
    near = near * square - 5.3852301e-2f;
    near = near * square + 1.3332586e-1f;
    near = near * square - 3.3333316e-1f;
    near = near * square * size + size;
    return copysignf(size < 0.55f ? near : far, x);
}

// --- 16 bytes at a time ---------------------------------------------------------------------------------------------

// PACK numbers: of storage type one load or store instruction of 16 bytes; of type `acc` beside a half type two of them.
// The address must be a multiple of 16: see aligned16.
#ifndef PACK_BYTES
#error "capgpu.kernels.cuda.constants gives PACK_BYTES"
#endif
#define PACK (PACK_BYTES / (int)sizeof(real))
template <class T>
struct alignas(PACK_BYTES) PackOf {
    T at[PACK];
};
typedef PackOf<real> Pack;

template <class T>
__device__ __forceinline__ PackOf<T> load_pack(const T* address) {
    return *reinterpret_cast<const PackOf<T>*>(address);
}

template <class T>
__device__ __forceinline__ void store_pack(T* address, const PackOf<T>& pack) {
    *reinterpret_cast<PackOf<T>*>(address) = pack;
}

// Whether rows that begin at `address`, `stride` elements apart, all begin at a multiple of 16 bytes.
template <class T>
__device__ __forceinline__ bool aligned16(const T* address, long long stride) {
    return reinterpret_cast<unsigned long long>(address) % 16 == 0 && stride * (long long)sizeof(T) % 16 == 0;
}

// --- sums in a fixed order ------------------------------------------------------------------------------------------

// The sum over the lanes of a warp, for every lane of it: a butterfly, the same tree at each run.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

template <class T>
__device__ __forceinline__ T warp_max(T x) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        T other = __shfl_xor_sync(ALL_LANES, x, distance);
        x = other > x ? other : x;
    }
    return x;
}

// The sum over all threads of a block, for every thread of it; blockDim.x is a multiple of WARP, at most 1024.
// `partial` is shared memory for WARP values; it may be used again at once.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* partial) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_sum(x);
    if (lane == 0) partial[warp] = x;
    __syncthreads();  // else a warp adds sums that other warps have not written yet
    x = warp_sum(lane < warps ? partial[lane] : T(0));
    __syncthreads();  // else the next use overwrites sums that other warps still read
    return x;
}
