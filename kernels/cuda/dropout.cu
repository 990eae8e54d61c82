// Inverted dropout whose mask is a pure function of a key and of each element's position.
//
// Mathematics, for element i of an array, with the words `first` and `second` of the key and all arithmetic on 32 bits:
//     hash(b):  b = (b ^ b >> 16) * 0x7feb352d;  b = (b ^ b >> 15) * 0x846ca68b;  b ^ b >> 16       ("lowbias32")
//     mask[i] = hash(hash(i ^ first) ^ second) >= threshold ? factor : 0
//     out[i]  = in[i] * mask[i]
// With `rows`, the mask of element (row, column) is mask[rows[row] * width + column]: the rows of captions that have been
// padded have the mask that they have without padding. Numbers of added rows, which nothing reads, may be any.
// This is the mask of capgpu.random.dropout_mask bit by bit, and the product is rounded once, likewise. A NaN stays a NaN
// where the mask is 0. The backward pass computes the mask again: some ten integer operations an element cost less than
// reading it back.
//
// Memory: `in` is read once and `out` written once, contiguous; they may be the same array. 16 bytes at a time where
// both begin at multiples of 16 bytes.
// Launch: blocks of THREADS threads, PACK neighbouring elements a thread. Nothing is saved.

#ifndef THREADS
#error "capgpu.kernels.cuda.constants gives THREADS"
#endif

__device__ __forceinline__ unsigned hash32(unsigned bits) {
    bits = (bits ^ (bits >> 16)) * 0x7feb352du;
    bits = (bits ^ (bits >> 15)) * 0x846ca68bu;
    return bits ^ (bits >> 16);
}

extern "C" __global__ void __launch_bounds__(THREADS) dropout(
    const real* in,  // [count]
    real* out,       // [count]
    unsigned count, unsigned first, unsigned second, unsigned threshold, acc factor,
    const unsigned* key,  // [2] first and second, or null where they come by value
    const int* rows,      // [count / width] row of the mask for each row, or null where it is the row itself
    unsigned width) {
    if (key != nullptr) {
        first = key[0];
        second = key[1];
    }
    const long long start = ((long long)blockIdx.x * THREADS + threadIdx.x) * PACK;
    auto dropped = [&](real x, unsigned i) {
        if (rows != nullptr) {
            const unsigned row = i / width;
            i = (unsigned)rows[row] * width + (i - row * width);
        }
        const bool kept = hash32(hash32(i ^ first) ^ second) >= threshold;
        return to_real(to_acc(x) * (kept ? factor : acc(0)));
    };
    if (start + PACK <= count && aligned16(in, 0) && aligned16(out, 0)) {
        Pack pack = load_pack(in + start);
#pragma unroll
        for (int p = 0; p < PACK; ++p) pack.at[p] = dropped(pack.at[p], (unsigned)start + p);
        store_pack(out + start, pack);
    } else {
#pragma unroll 1  // the few elements behind the packs, or arrays that are not aligned
        for (long long i = start; i < start + PACK && i < count; ++i) out[i] = dropped(in[i], (unsigned)i);
    }
}
