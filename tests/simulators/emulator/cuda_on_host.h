// The part of CUDA C++ that the kernels use, given its meaning on the CPU.
//
// A block is an OS thread and a block's threads are fibers on it, so a __shared__ variable is a thread-local one and
// every block of a cooperative launch is alive at once. The compiler takes this file before the kernel's source
// (-include), with CAPGPU_EMULATED defined. What is not here, the kernels may not use: the compiler says so.
//
// Loops that wait for another block must call __nanosleep in every turn: fibers are never interrupted.
#pragma once

#include <math.h>
#include <string.h>

#include "half_types.h"
#include "runtime/interface.h"
#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __constant__ static const
#ifdef EMULATED_ASAN  // which cannot forbid the first half of 8 bytes
#define __shared__ static thread_local __attribute__((aligned(8)))
#else
#define __shared__ static thread_local
#endif
// Dynamic shared memory is aligned to 16 bytes on the device, and here.
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(emulator::dynamic_shared())

#define threadIdx (emulator::here->thread)
#define blockIdx (emulator::here->block)
#define blockDim (emulator::here->block_size)
#define gridDim (emulator::here->grid_size)
static const int warpSize = 32;

// Barriers and votes

#define __syncthreads() emulator::block_barrier(__LINE__)
#define __syncthreads_or(predicate) emulator::block_vote(__LINE__, predicate, emulator::Vote::any)
#define __syncthreads_and(predicate) emulator::block_vote(__LINE__, predicate, emulator::Vote::all)
#define __syncthreads_count(predicate) emulator::block_vote(__LINE__, predicate, emulator::Vote::ballot)

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    emulator::warp_barrier(line, mask);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return emulator::warp_vote(line, mask, predicate, emulator::Vote::ballot);
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return int(emulator::warp_vote(line, mask, predicate, emulator::Vote::any));
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return int(emulator::warp_vote(line, mask, predicate, emulator::Vote::all));
}

// Shuffles

namespace emulator {

template <class T>
inline T exchange(int line, unsigned mask, T value, int source) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 2, 4 or 8 bytes");
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = warp_exchange(line, mask, bits, source);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

inline void check_width(int line, int width) {
    if (width < 1 || width > 32 || (width & (width - 1))) fail(line, "a shuffle's width must be a power of two up to 32");
}

}  // namespace emulator

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
    emulator::check_width(line, width);
    const int segment = int(emulator::lane()) & ~(width - 1);
    return emulator::exchange(line, mask, value, segment + (source & (width - 1)));
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    emulator::check_width(line, width);
    const int self = int(emulator::lane()), source = self - int(delta);
    return emulator::exchange(line, mask, value, source < (self & ~(width - 1)) ? self : source);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    emulator::check_width(line, width);
    const int self = int(emulator::lane()), source = self + int(delta);
    return emulator::exchange(line, mask, value, source > (self | (width - 1)) ? self : source);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, int line = __builtin_LINE()) {
    emulator::check_width(line, width);
    const int self = int(emulator::lane()), source = self ^ bits;
    return emulator::exchange(line, mask, value, source > (self | (width - 1)) ? self : source);
}

// Atomics on integers (relaxed, as on the device), fences, waiting

namespace emulator {

// `update` makes the new value of the old one.
template <class T, class Update>
inline T atomic(T* address, Update update) {
    static_assert(T(1) / T(2) == T(0), "atomics on floating numbers add in an order left to chance");
    before_atomic(address);
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(address, &old, update(old), true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    after_atomic(address, update(old) != old);
    return old;
}

}  // namespace emulator

template <class T>
inline T atomicAdd(T* address, T value) {
    return emulator::atomic(address, [=](T old) { return T(old + value); });
}
template <class T>
inline T atomicSub(T* address, T value) {
    return emulator::atomic(address, [=](T old) { return T(old - value); });
}
template <class T>
inline T atomicOr(T* address, T value) {
    return emulator::atomic(address, [=](T old) { return T(old | value); });
}
template <class T>
inline T atomicAnd(T* address, T value) {
    return emulator::atomic(address, [=](T old) { return T(old & value); });
}
template <class T>
inline T atomicExch(T* address, T value) {
    return emulator::atomic(address, [=](T) { return value; });
}
template <class T>
inline T atomicCAS(T* address, T expected, T value) {
    return emulator::atomic(address, [=](T old) { return old == expected ? value : old; });
}
template <class T>
inline T atomicMax(T* address, T value) {
    return emulator::atomic(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
inline T atomicMin(T* address, T value) {
    return emulator::atomic(address, [=](T old) { return value < old ? value : old; });
}

// ld.acquire, st.release and red.release of PTX, which the kernels reach through inline assembly on the device.
template <class T>
inline T emulated_load_acquire(const T* address) {
    return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}
template <class T>
inline void emulated_store_release(T* address, T value) {
    __atomic_store_n(address, value, __ATOMIC_RELEASE);
    emulator::after_atomic(address, true);
}
template <class T>
inline T emulated_add_release(T* address, T value) {
    const T old = __atomic_fetch_add(address, value, __ATOMIC_RELEASE);
    emulator::after_atomic(address, true);
    return old;
}
// ld.relaxed and st.relaxed: whole numbers, in no order with anything else.
template <class T>
inline T emulated_load_relaxed(const T* address) {
    return __atomic_load_n(address, __ATOMIC_RELAXED);
}
template <class T>
inline void emulated_store_relaxed(T* address, T value) {
    __atomic_store_n(address, value, __ATOMIC_RELAXED);
    emulator::after_atomic(address, true);
}
// cp.async of PTX. A copy may be made at any time until it is waited for: until then nothing but NaN is there, and the
// source is read at the last moment.
inline void emulated_copy_16_bytes(void* to, const void* from, bool there) {
    const int4 none = {-1, -1, -1, -1};
    *static_cast<int4*>(to) = none;
    emulator::issue_copy(to, there ? from : nullptr);
}
inline void emulated_end_copies() { emulator::close_copies(); }
inline void emulated_wait_for_copies(int pending) {
    const int4 zeros = {0, 0, 0, 0};
    void* to;
    const void* from;
    while (emulator::next_copy(pending, &to, &from)) {
        *static_cast<int4*>(to) = from ? *static_cast<const int4*>(from) : zeros;
    }
}

inline void emulated_require_cooperative() { emulator::require_cooperative(); }
inline void emulated_require_shared(long long bytes) { emulator::require_shared(bytes); }

inline void __threadfence() { emulator::fence(); }
inline void __threadfence_block() { emulator::fence(); }
inline void __nanosleep(unsigned) { emulator::relax(); }
#define __trap() emulator::fail(__LINE__, "__trap()")

// Loads and stores that say something to the caches only

template <class T>
inline T __ldg(const T* address) { return *address; }
template <class T>
inline T __ldcg(const T* address) { return *address; }
template <class T>
inline T __ldca(const T* address) { return *address; }
template <class T>
inline T __ldcs(const T* address) { return *address; }
template <class T>
inline T __ldlu(const T* address) { return *address; }
template <class T>
inline void __stcg(T* address, T value) { *address = value; }
template <class T>
inline void __stcs(T* address, T value) { *address = value; }
template <class T>
inline void __stwb(T* address, T value) { *address = value; }

// Bits

inline int __float_as_int(float x) { int y; memcpy(&y, &x, 4); return y; }
inline unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
inline float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
inline float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
inline long long __double_as_longlong(double x) { long long y; memcpy(&y, &x, 8); return y; }
inline double __longlong_as_double(long long x) { double y; memcpy(&y, &x, 8); return y; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

// Arithmetic beyond the C library's

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
