// Softmax cross-entropy of rows of scores, and its gradient in the scores' place.
//
// Mathematics, for a row x (scores plus, optionally, a bias of V numbers) with the true class y and the factor k:
//     m = max x,  s = sum exp(x - m)
//     loss        = log s + m - x[y]
//     gradient[j] = k (exp(x[j] - m) / s - [j == y])
// With label smoothing e, the true distribution is (1 - e) on y plus e / V on every class:
//     loss        = log s - (1 - e) (x[y] - m) - e / V sum (x - m)
//     gradient[j] = k (exp(x[j] - m) / s - (1 - e) [j == y] - e / V)
// Two passes over the row. The first carries m and s along together ("online": when a larger m turns up, s is scaled
// by exp(old m - new m)); the second writes the gradient over the scores
// and sums what the loss subtracts from log s. That sum is of x - m, not of x: scores far from 0 would cancel.
//
// Memory: scores [M, V], row-major without gaps, read twice and written once. Rows are read 16 bytes at a time where
// every row begins at a multiple of 16 bytes; float64 number by number, which a warp does in whole lines just as well and
// without the registers that two exponentials of float64 at once take. losses [M], each row's loss without the factor.
// A row whose target is negative is left out: its scores are not read, its gradient and its loss are 0.
// A target of V or more gives a loss that is not a number: no such row passes unnoticed.
//
// Launch: softmax_warps, a warp a row, for small V; softmax_blocks, a block a row. Then sum_losses, one block.
// Nothing is saved. Sums are kept in ACC; the order of all additions is fixed.

#if !defined(THREADS) || !defined(WARP_ROWS)
#error "capgpu.kernels.cuda.constants gives THREADS and WARP_ROWS"
#endif

// Maximum and sum of exponentials of the numbers seen so far.
struct Online {
    acc top, sum;
};

__device__ __forceinline__ void see(Online& seen, acc x) {
    const acc above = x - seen.top;
    const acc smaller = exponential(above > acc(0) ? -above : above);  // one exponential, whichever of the two is larger
    if (above > acc(0)) {
        seen.sum = seen.sum * smaller + acc(1);
        seen.top = x;
    } else {
        seen.sum += smaller;
    }
}

__device__ __forceinline__ void merge(Online& seen, acc top, acc sum) {
    const acc above = top - seen.top;
    const acc smaller = exponential(above > acc(0) ? -above : above);
    if (above > acc(0)) {
        seen.sum = seen.sum * smaller + sum;
        seen.top = top;
    } else {
        seen.sum += sum * smaller;
    }
}

// A butterfly: every lane ends with the same, of all lanes.
__device__ __forceinline__ void merge_lanes(Online& seen) {
#pragma unroll 1  // unrolled, the exponentials of float64 spill on sm_90
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const acc top = __shfl_xor_sync(ALL_LANES, seen.top, distance);
        const acc sum = __shfl_xor_sync(ALL_LANES, seen.sum, distance);
        merge(seen, top, sum);
    }
}

__device__ __forceinline__ acc with_bias(real score, const real* bias, int j) {
    return bias ? to_acc(score) + to_acc(bias[j]) : to_acc(score);
}

__device__ __forceinline__ bool can_pack(const real* scores, const real* bias, int V) {
    return sizeof(real) < 8 && aligned16(scores, V) && aligned16(bias, 0);
}

// A pack of scores from column j on, with their bias.
struct Sums {
    acc at[PACK];
};

__device__ __forceinline__ Sums load_sums(const real* row, const real* bias, int j) {
    const Pack scores = load_pack(row + j);
    Sums sums;
#pragma unroll
    for (int i = 0; i < PACK; ++i) sums.at[i] = to_acc(scores.at[i]);
    if (bias) {
        const Pack added = load_pack(bias + j);
#pragma unroll
        for (int i = 0; i < PACK; ++i) sums.at[i] += to_acc(added.at[i]);
    }
    return sums;
}

// First pass over a row by `threads` threads, of which this is number `thread`.
__device__ __forceinline__ Online first_pass(
    const real* row, const real* bias, int V, bool packed, int thread, int threads) {
    Online seen = {lowest(acc(0)), acc(0)};
    if (packed) {
        for (int j = thread * PACK; j < V; j += threads * PACK) {
            const Sums scores = load_sums(row, bias, j);
#pragma unroll
            for (int i = 0; i < PACK; ++i) see(seen, scores.at[i]);
        }
    } else {
#pragma unroll 1  // each copy of the body would hold an exponential
        for (int j = thread; j < V; j += threads) see(seen, with_bias(row[j], bias, j));
    }
    return seen;
}

// Second pass: each score is read and overwritten by the same thread. Returns this thread's part of the sum over the
// classes of (true distribution) (x - m), which the loss subtracts from log s.
__device__ __forceinline__ acc second_pass(
    real* row, const real* bias, int target, acc scale, acc smoothing, int V, bool packed, int thread, int threads,
    const Online& seen) {
    const acc share = acc(1) / seen.sum, confidence = acc(1) - smoothing, even = smoothing / acc(V);
    acc true_score = acc(0), all_scores = acc(0);
    auto gradient = [&](acc score, int j) {
        const acc shifted = score - seen.top;
        all_scores += shifted;
        if (j == target) true_score = shifted;
        return to_real(scale * (exponential(shifted) * share - (j == target ? confidence + even : even)));
    };
    if (packed) {
        for (int j = thread * PACK; j < V; j += threads * PACK) {
            const Sums scores = load_sums(row, bias, j);
            Pack out;
#pragma unroll
            for (int i = 0; i < PACK; ++i) out.at[i] = gradient(scores.at[i], j + i);
            store_pack(row + j, out);
        }
    } else {
#pragma unroll 1  // as above
        for (int j = thread; j < V; j += threads) row[j] = gradient(with_bias(row[j], bias, j), j);
    }
    // without smoothing, a score of -infinity is no part of the loss: 0 times it would be NaN
    return confidence * true_score + (smoothing > acc(0) ? even * all_scores : acc(0));
}

__device__ __forceinline__ acc row_loss(const Online& seen, acc subtracted, int target, int V) {
    return logarithm(target < V ? seen.sum : acc(-1)) - subtracted;
}

__device__ __forceinline__ void leave_out(real* row, acc* loss, int V, bool packed, int thread, int threads) {
    if (packed) {
        Pack zeros;
#pragma unroll
        for (int i = 0; i < PACK; ++i) zeros.at[i] = to_real(acc(0));
        for (int j = thread * PACK; j < V; j += threads * PACK) store_pack(row + j, zeros);
    } else {
        for (int j = thread; j < V; j += threads) row[j] = to_real(acc(0));
    }
    if (thread == 0) *loss = acc(0);
}

extern "C" __global__ void __launch_bounds__(WARP * WARP_ROWS) softmax_warps(
    real* scores,        // [M, V]
    const real* bias,    // [V] or null
    const int* targets,  // [M]
    acc* losses,         // [M]
    int M, int V, acc scale, acc smoothing) {
    const int m = blockIdx.x * WARP_ROWS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (m >= M) return;
    real* row = scores + (long long)m * V;
    const bool packed = can_pack(scores, bias, V);
    const int target = targets[m];
    if (target < 0) {
        leave_out(row, losses + m, V, packed, lane, WARP);
        return;
    }
    Online seen = first_pass(row, bias, V, packed, lane, WARP);
    merge_lanes(seen);
    const acc part = second_pass(row, bias, target, scale, smoothing, V, packed, lane, WARP, seen);
    const acc loss = row_loss(seen, warp_sum(part), target, V);
    if (lane == 0) losses[m] = loss;
}

extern "C" __global__ void __launch_bounds__(THREADS) softmax_blocks(
    real* scores, const real* bias, const int* targets, acc* losses, int M, int V, acc scale, acc smoothing) {
    __shared__ acc tops[WARP];
    __shared__ acc sums[WARP];
    __shared__ acc parts[WARP];
    const int m = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    real* row = scores + (long long)m * V;
    const bool packed = can_pack(scores, bias, V);
    const int target = targets[m];
    if (target < 0) {
        leave_out(row, losses + m, V, packed, threadIdx.x, blockDim.x);
        return;
    }
    Online seen = first_pass(row, bias, V, packed, threadIdx.x, blockDim.x);
    merge_lanes(seen);
    if (lane == 0) {
        tops[warp] = seen.top;
        sums[warp] = seen.sum;
    }
    __syncthreads();  // what each warp has seen is there before any warp puts it together
    seen.top = lane < warps ? tops[lane] : lowest(acc(0));
    seen.sum = lane < warps ? sums[lane] : acc(0);
    merge_lanes(seen);
    const acc part = second_pass(row, bias, target, scale, smoothing, V, packed, threadIdx.x, blockDim.x, seen);
    const acc loss = row_loss(seen, block_sum(part, parts), target, V);
    if (threadIdx.x == 0) losses[m] = loss;
}

// The rows' losses, times the factor, in ACC: the sum of many would leave the range of float16. Each thread adds every
// 256th; doubles, since there may be many rows.
extern "C" __global__ void __launch_bounds__(THREADS) sum_losses(const acc* losses, acc* loss, int M, double scale) {
    __shared__ double partial[WARP];
    double sum = 0;
    for (int m = threadIdx.x; m < M; m += blockDim.x) sum += losses[m];
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) *loss = acc(sum * scale);
}
