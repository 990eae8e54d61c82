// Softmax cross-entropy of rows of scores, and its gradient, which overwrites the scores.
//
// Mathematics, for a row x (scores plus, optionally, a bias of V numbers) with the true class y and the factor k:
//     m = max x,  s = sum exp(x - m)
//     loss        = log s + m - x[y]
//     gradient[j] = k (exp(x[j] - m) / s - [j == y])
// With label smoothing e, the true distribution is (1 - e) on y plus e / V on every class:
//     loss        = log s - (1 - e) (x[y] - m) - e / V sum (x - m)
//     gradient[j] = k (exp(x[j] - m) / s - (1 - e) [j == y] - e / V)
// The gradient is written over the scores. The loss sums x - m, not x: scores far from 0 would cancel.
//
// Launch, by the size of a row; then sum_losses, one block:
//     softmax_warps      a warp a row, for small V, in two passes
//     softmax_registers  a block a row, which its threads hold in registers, HELD numbers each: scores are read once
//     softmax_blocks     a block a row, in two passes, for rows that do not fit into registers, and for float64
// Of two passes the first carries m and s along together ("online": when a larger m turns up, s is scaled by
// exp(old m - new m)); the second reads the scores again, which then come from the second-level cache at best.
//
// Memory: scores [M, V], row-major without gaps. softmax_registers reads and writes 16 bytes at a time wherever a row
// begins; the others where every row begins at a multiple of 16 bytes; float64 number by number, which a warp does in
// whole lines just as well and without the registers that two exponentials of float64 at once take. losses [M], each
// row's loss without the factor.
// Weights [M], or null: a row's loss and gradient are multiplied by its weight.
// A row whose target is negative, or whose weight is 0, is skipped: whatever its scores, its gradient and its loss are 0.
// A target of V or more gives a loss of NaN, so that it is noticed.
//
// Nothing is saved. BiasedScores are kept in ACC; the order of all additions is fixed.

#if !defined(THREADS) || !defined(WARP_ROWS) || !defined(ROW_THREADS) || !defined(HELD)
#error "capgpu.kernels.cuda.constants gives THREADS, WARP_ROWS, ROW_THREADS and HELD"
#endif

// Maximum and sum of exponentials of the numbers so far.
struct OnlineSum {
    acc max, sum;
};

__device__ __forceinline__ void accumulate(OnlineSum& total, acc x) {
    const acc above = x - total.max;
    const acc smaller = exponential(above > acc(0) ? -above : above);  // one exponential, whichever of the two is larger
    if (above > acc(0)) {
        total.sum = total.sum * smaller + acc(1);
        total.max = x;
    } else {
        total.sum += smaller;
    }
}

// Merges the values of all lanes of a warp, for every lane.
__device__ __forceinline__ void merge_warp(OnlineSum& total) {
    const acc max = warp_max(total.max);
    total.sum = warp_sum(total.sum * exponential(total.max - max));
    total.max = max;
}

// Merges the values of all threads of a block, for every thread; `maxima` and `sums` are shared memory for WARP values.
__device__ __forceinline__ void merge_block(OnlineSum& total, acc* maxima, acc* sums) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    merge_warp(total);
    if (lane == 0) {
        maxima[warp] = total.max;
        sums[warp] = total.sum;
    }
    __syncthreads();  // else a warp merges maxima and sums that other warps have not written yet
    total.max = lane < warps ? maxima[lane] : lowest(acc(0));
    total.sum = lane < warps ? sums[lane] : acc(0);
    merge_warp(total);
}

__device__ __forceinline__ acc with_bias(real score, const real* bias, int j) {
    return bias ? to_acc(score) + to_acc(bias[j]) : to_acc(score);
}

__device__ __forceinline__ acc weight_of(const acc* weights, int m) { return weights == nullptr ? acc(1) : weights[m]; }

__device__ __forceinline__ bool can_pack(const real* scores, const real* bias, int V) {
    return sizeof(real) < 8 && aligned16(scores, V) && aligned16(bias, 0);
}

// A pack of scores from column j on, with their bias.
struct BiasedScores {
    acc at[PACK];
};

__device__ __forceinline__ BiasedScores load_biased(const real* row, const real* bias, int j) {
    const Pack scores = load_pack(row + j);
    BiasedScores sums;
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
__device__ __forceinline__ OnlineSum first_pass(
    const real* row, const real* bias, int V, bool packed, int thread, int threads) {
    OnlineSum total = {lowest(acc(0)), acc(0)};
    if (packed) {
        for (int j = thread * PACK; j < V; j += threads * PACK) {
            const BiasedScores scores = load_biased(row, bias, j);
#pragma unroll
            for (int i = 0; i < PACK; ++i) accumulate(total, scores.at[i]);
        }
    } else {
#pragma unroll 1  // each copy of the body would hold an exponential
        for (int j = thread; j < V; j += threads) accumulate(total, with_bias(row[j], bias, j));
    }
    return total;
}

// Second pass: each score is read and overwritten by the same thread. Returns this thread's part of the sum over the
// classes of (true distribution) (x - m), which the loss subtracts from log s.
__device__ __forceinline__ acc second_pass(
    real* row, const real* bias, int target, acc scale, acc smoothing, int V, bool packed, int thread, int threads,
    const OnlineSum& total) {
    const acc inverse_sum = acc(1) / total.sum, confidence = acc(1) - smoothing, uniform = smoothing / acc(V);
    acc true_score = acc(0), all_scores = acc(0);
    auto gradient = [&](acc score, int j) {
        const acc shifted = score - total.max;
        all_scores += shifted;
        if (j == target) true_score = shifted;
        return to_real(scale * (exponential(shifted) * inverse_sum - (j == target ? confidence + uniform : uniform)));
    };
    if (packed) {
        for (int j = thread * PACK; j < V; j += threads * PACK) {
            const BiasedScores scores = load_biased(row, bias, j);
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
    return confidence * true_score + (smoothing > acc(0) ? uniform * all_scores : acc(0));
}

__device__ __forceinline__ acc row_loss(const OnlineSum& total, acc subtracted, int target, int V) {
    return logarithm(target < V ? total.sum : acc(-1)) - subtracted;
}

__device__ __forceinline__ void skip_row(real* row, acc* loss, int V, bool packed, int thread, int threads) {
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
    const acc* weights,  // [M] or null
    acc* losses,         // [M]
    int M, int V, acc scale, acc smoothing) {
    const int m = blockIdx.x * WARP_ROWS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (m >= M) return;
    real* row = scores + (long long)m * V;
    const bool packed = can_pack(scores, bias, V);
    const int target = targets[m];
    const acc weight = weight_of(weights, m);
    if (target < 0 || weight == acc(0)) {
        skip_row(row, losses + m, V, packed, lane, WARP);
        return;
    }
    OnlineSum total = first_pass(row, bias, V, packed, lane, WARP);
    merge_warp(total);
    const acc part = second_pass(row, bias, target, scale * weight, smoothing, V, packed, lane, WARP, total);
    const acc loss = row_loss(total, warp_sum(part), target, V);
    if (lane == 0) losses[m] = weight * loss;
}

extern "C" __global__ void __launch_bounds__(THREADS) softmax_blocks(
    real* scores, const real* bias, const int* targets, const acc* weights, acc* losses, int M, int V, acc scale,
    acc smoothing) {
    __shared__ acc maxima[WARP];
    __shared__ acc sums[WARP];
    __shared__ acc parts[WARP];
    const int m = blockIdx.x;
    real* row = scores + (long long)m * V;
    const bool packed = can_pack(scores, bias, V);
    const int target = targets[m];
    const acc weight = weight_of(weights, m);
    if (target < 0 || weight == acc(0)) {
        skip_row(row, losses + m, V, packed, threadIdx.x, blockDim.x);
        return;
    }
    OnlineSum total = first_pass(row, bias, V, packed, threadIdx.x, blockDim.x);
    merge_block(total, maxima, sums);
    const acc part = second_pass(row, bias, target, scale * weight, smoothing, V, packed, threadIdx.x, blockDim.x, total);
    const acc loss = row_loss(total, block_sum(part, parts), target, V);
    if (threadIdx.x == 0) losses[m] = weight * loss;
}

#if HELD > 0

#define HELD_PACKS (HELD / PACK)

// Stands in for a score that a thread does not have: never the maximum, and its exponential is 0.
__device__ __forceinline__ float no_score() { return __uint_as_float(0xff800000u); }

// 16 bytes, at once where they begin at a multiple of 16.
__device__ __forceinline__ Pack load_numbers(const real* address, bool aligned) {
    if (aligned) return load_pack(address);
    Pack pack;
#pragma unroll
    for (int p = 0; p < PACK; ++p) pack.at[p] = address[p];
    return pack;
}

// Blocks of up to ROW_THREADS; together their threads hold V numbers, and V is at least 2 PACK.
// A row consists of packs from its first multiple of 16 bytes on, of which thread t holds the packs t, t + threads, ...,
// and of fewer than 2 PACK single numbers in front and behind, of which a thread holds one at most. All loads are under
// way before the first number is used. Each thread sums exponentials of the distance to its own maximum, so that no
// thread waits for others before their sums are merged; the exponentials stay where the scores were. They are those
// of the special function unit, off by less than 2^-21 of the largest: 4 instructions a score instead of 10.
extern "C" __global__ void __launch_bounds__(ROW_THREADS) softmax_registers(
    real* scores, const real* bias, const int* targets, const acc* weights, acc* losses, int M, int V, acc scale,
    acc smoothing) {
    __shared__ acc maxima[WARP];
    __shared__ acc sums[WARP];
    __shared__ acc parts[WARP];
    __shared__ acc true_score;  // used by thread 0 only; in shared memory, since a register for it would spill on sm_100
    const int m = blockIdx.x, thread = threadIdx.x, threads = blockDim.x;
    real* row = scores + (long long)m * V;
    const int front = (int)(-reinterpret_cast<unsigned long long>(row) % PACK_BYTES / sizeof(real));
    const int packs = (V - front) / PACK;
    real* body = row + front;
    const int column = thread < front ? thread : thread + packs * PACK;  // of the single number, where it is below V

    Pack loaded[HELD_PACKS];
#pragma unroll
    for (int i = 0; i < HELD_PACKS; ++i) {
        const int k = thread + i * threads;
        if (k < packs) loaded[i] = load_pack(body + k * PACK);
    }
    acc single = column < V ? with_bias(row[column], bias, column) : no_score();
    const int target = targets[m];

    acc held[HELD];
    OnlineSum local = {lowest(acc(0)), acc(0)};
    const bool aligned = aligned16(bias + front, 0);
#pragma unroll
    for (int i = 0; i < HELD_PACKS; ++i) {
        const int k = thread + i * threads;
#pragma unroll
        for (int p = 0; p < PACK; ++p) held[i * PACK + p] = k < packs ? to_acc(loaded[i].at[p]) : no_score();
        if (bias && k < packs) {
            const Pack added = load_numbers(bias + front + k * PACK, aligned);
#pragma unroll
            for (int p = 0; p < PACK; ++p) held[i * PACK + p] += to_acc(added.at[p]);
        }
#pragma unroll
        for (int p = 0; p < PACK; ++p) local.max = held[i * PACK + p] > local.max ? held[i * PACK + p] : local.max;
    }
    local.max = single > local.max ? single : local.max;

    if (thread == 0) true_score = 0 <= target && target < V ? with_bias(row[target], bias, target) : acc(0);

    acc all_scores = acc(0);  // less the thread's maximum
    if (smoothing > acc(0)) {
#pragma unroll
        for (int i = 0; i < HELD_PACKS; ++i) {
            if (thread + i * threads < packs) {
#pragma unroll
                for (int p = 0; p < PACK; ++p) all_scores += held[i * PACK + p] - local.max;
            }
        }
        if (column < V) all_scores += single - local.max;
    }
#pragma unroll
    for (int h = 0; h < HELD; ++h) {
        held[h] = __expf(held[h] - local.max);
        local.sum += held[h];
    }
    single = __expf(single - local.max);
    local.sum += single;

    OnlineSum total = local;
    merge_block(total, maxima, sums);  // its barrier: else a row is overwritten before all threads have read the true score
    const acc weight = weight_of(weights, m);
    if (target < 0 || weight == acc(0)) {
        skip_row(row, losses + m, V, can_pack(scores, nullptr, V), thread, threads);
        return;
    }
    scale *= weight;
    const acc inverse_sum = acc(1) / total.sum, confidence = acc(1) - smoothing, uniform = smoothing / acc(V);
    const acc factor = scale * (exponential(local.max - total.max) * inverse_sum), subtracted = scale * uniform;
#pragma unroll
    for (int i = 0; i < HELD_PACKS; ++i) {
        const int k = thread + i * threads;
        if (k < packs) {
            Pack out;
#pragma unroll
            for (int p = 0; p < PACK; ++p) out.at[p] = to_real(held[i * PACK + p] * factor - subtracted);
            store_pack(body + k * PACK, out);
        }
    }
    if (column < V) row[column] = to_real(single * factor - subtracted);

    if (smoothing > acc(0)) {
        // the numbers of this thread, counted late: a register for them would spill on sm_100 and sm_120
        const int count = (packs > thread ? (packs - thread + threads - 1) / threads * PACK : 0) + (column < V ? 1 : 0);
        if (count > 0) all_scores += acc(count) * (local.max - total.max);
        all_scores = block_sum(all_scores, parts);
    }
    __syncthreads();  // else the thread that holds the true class's number overwrites its gradient
    if (thread == 0) {
        const acc probability = exponential(true_score - total.max) * inverse_sum;
        if (target < V) row[target] = to_real(scale * (probability - (confidence + uniform)));
        acc part = confidence * (true_score - total.max);
        if (smoothing > acc(0)) part += uniform * all_scores;
        losses[m] = weight_of(weights, m) * row_loss(total, part, target, V);
    }
}

#endif

// The rows' losses, times the factor, in ACC: the sum of many would leave the range of float16. Each thread adds every
// 256th; doubles, since there may be many rows.
extern "C" __global__ void __launch_bounds__(THREADS) sum_losses(const acc* losses, acc* loss, int M, double scale) {
    __shared__ double partial[WARP];
    double sum = 0;
    for (int m = threadIdx.x; m < M; m += blockDim.x) sum += losses[m];
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) *loss = acc(sum * scale);
}
