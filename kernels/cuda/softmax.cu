// Softmax cross-entropy of rows of scores, and its gradient in the scores' place.
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
// A row whose target is negative is left out: whatever its scores, its gradient and its loss are 0.
// A target of V or more gives a loss that is not a number: no such row passes unnoticed.
//
// Nothing is saved. Sums are kept in ACC; the order of all additions is fixed.

#if !defined(THREADS) || !defined(WARP_ROWS) || !defined(ROW_THREADS) || !defined(HELD)
#error "capgpu.kernels.cuda.constants gives THREADS, WARP_ROWS, ROW_THREADS and HELD"
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

// What all lanes of a warp have seen, for every lane.
__device__ __forceinline__ void merge_lanes(Online& seen) {
    const acc top = warp_max(seen.top);
    seen.sum = warp_sum(seen.sum * exponential(seen.top - top));
    seen.top = top;
}

// What all threads of a block have seen, for every thread; `tops` and `sums` are shared memory for WARP values each.
__device__ __forceinline__ void merge_threads(Online& seen, acc* tops, acc* sums) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    merge_lanes(seen);
    if (lane == 0) {
        tops[warp] = seen.top;
        sums[warp] = seen.sum;
    }
    __syncthreads();  // what each warp has seen is there before any warp puts it together
    seen.top = lane < warps ? tops[lane] : lowest(acc(0));
    seen.sum = lane < warps ? sums[lane] : acc(0);
    merge_lanes(seen);
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
    const int m = blockIdx.x;
    real* row = scores + (long long)m * V;
    const bool packed = can_pack(scores, bias, V);
    const int target = targets[m];
    if (target < 0) {
        leave_out(row, losses + m, V, packed, threadIdx.x, blockDim.x);
        return;
    }
    Online seen = first_pass(row, bias, V, packed, threadIdx.x, blockDim.x);
    merge_threads(seen, tops, sums);
    const acc part = second_pass(row, bias, target, scale, smoothing, V, packed, threadIdx.x, blockDim.x, seen);
    const acc loss = row_loss(seen, block_sum(part, parts), target, V);
    if (threadIdx.x == 0) losses[m] = loss;
}

#if HELD > 0

#define HELD_PACKS (HELD / PACK)

// What stands where a thread has no score: no maximum, and its exponential is 0.
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
// thread waits for others before their sums are put together; the exponentials stay where the scores were. They are those
// of the special function unit, off by less than 2^-21 of the largest: 4 instructions a score instead of 10.
extern "C" __global__ void __launch_bounds__(ROW_THREADS) softmax_registers(
    real* scores, const real* bias, const int* targets, acc* losses, int M, int V, acc scale, acc smoothing) {
    __shared__ acc tops[WARP];
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
    Online own = {lowest(acc(0)), acc(0)};
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
        for (int p = 0; p < PACK; ++p) own.top = held[i * PACK + p] > own.top ? held[i * PACK + p] : own.top;
    }
    own.top = single > own.top ? single : own.top;

    if (thread == 0) true_score = 0 <= target && target < V ? with_bias(row[target], bias, target) : acc(0);

    acc all_scores = acc(0);  // less the thread's maximum
    if (smoothing > acc(0)) {
#pragma unroll
        for (int i = 0; i < HELD_PACKS; ++i) {
            if (thread + i * threads < packs) {
#pragma unroll
                for (int p = 0; p < PACK; ++p) all_scores += held[i * PACK + p] - own.top;
            }
        }
        if (column < V) all_scores += single - own.top;
    }
#pragma unroll
    for (int h = 0; h < HELD; ++h) {
        held[h] = __expf(held[h] - own.top);
        own.sum += held[h];
    }
    single = __expf(single - own.top);
    own.sum += single;

    Online seen = own;
    merge_threads(seen, tops, sums);  // no thread writes before every thread has read what it needs
    if (target < 0) {
        leave_out(row, losses + m, V, can_pack(scores, nullptr, V), thread, threads);
        return;
    }
    const acc share = acc(1) / seen.sum, confidence = acc(1) - smoothing, even = smoothing / acc(V);
    const acc factor = scale * (exponential(own.top - seen.top) * share), subtracted = scale * even;
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
        if (count > 0) all_scores += acc(count) * (own.top - seen.top);
        all_scores = block_sum(all_scores, parts);
    }
    __syncthreads();  // the row is written before the true class's number is written over
    if (thread == 0) {
        const acc probability = exponential(true_score - seen.top) * share;
        if (target < V) row[target] = to_real(scale * (probability - (confidence + even)));
        acc part = confidence * (true_score - seen.top);
        if (smoothing > acc(0)) part += even * all_scores;
        losses[m] = row_loss(seen, part, target, V);
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
