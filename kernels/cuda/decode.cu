// One word of decoding, but for its two matrix products: the cell before the projection to the vocabulary, the choice
// of the word after it. Words stay on the device: the host launches step after step and waits for none.
//
// decode_cell   a = projected[row] + sums + bias, with sums = h Wh from a matrix product, then the cell:
//               i, f, o = sigmoid(a_i, a_f, a_o); g = tanh(a_g); c' = f c + i g; h' = o tanh(c')     (GATES 4)
//               r, z = sigmoid(a_r, a_z); q = sums_n + recurrent_bias;
//               n = tanh(projected_n + bias_n + r q); h' = (1 - z) n + z h                           (GATES 3)
//               h' = tanh(a)                                                                        (GATES 1)
// choose_words  word = argmax(scores + bias), of equal scores the first; a caption that has ended gets `null`.
//
// Memory: projected [*, G], addressed by rows [N] or in order; sums [N, G]; h, c [N, H]; G = GATES H, with gates in the
// order i, f, o, g or r, z, n. scores [N, V]; words [N, length] one column a step; next [N] what the next step reads.
// A score that is not a number counts as the greatest, as NumPy and CuPy have it.
// Launch: decode_cell a thread a hidden unit; choose_words a block a caption.

#ifndef THREADS
#error "capgpu.kernels.cuda.constants gives THREADS"
#endif

extern "C" __global__ void __launch_bounds__(THREADS) decode_cell(
    const real* projected,       // [*, G]
    const int* rows,             // [N] or null
    const real* sums,            // [N, G]
    const real* bias,            // [G] or null
    const real* recurrent_bias,  // [H]; GATES 3 only
    const real* before,          // [N, H]: GATES 4, c or null for zeros; GATES 3, h; else not read
    real* h,                     // [N, H]
    real* c,                     // [N, H]; GATES 4 only
    int N, int H) {
    const long long element = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (element >= (long long)N * H) return;
    const int n = (int)(element / H), j = (int)(element % H);
    const int G = GATES * H;
    const real* inputs = projected + (long long)(rows ? rows[n] : n) * G;
    const real* recurrent = sums + (long long)n * G;
    auto with_its_bias = [&](acc a, int k) { return bias ? a + to_acc(bias[k]) : a; };
    auto preactivation = [&](int k) { return with_its_bias(to_acc(inputs[k]) + to_acc(recurrent[k]), k); };
#if GATES == 4
    const acc i = sigmoid(preactivation(j)), f = sigmoid(preactivation(H + j)), o = sigmoid(preactivation(2 * H + j));
    const acc g = hyperbolic_tangent(preactivation(3 * H + j));
    const acc state = before ? f * to_acc(before[element]) + i * g : i * g;
    c[element] = to_real(state);
    h[element] = to_real(o * hyperbolic_tangent(state));
#elif GATES == 3
    const acc r = sigmoid(preactivation(j)), z = sigmoid(preactivation(H + j));
    const acc q = to_acc(recurrent[2 * H + j]) + to_acc(recurrent_bias[j]);
    const acc candidate = hyperbolic_tangent(with_its_bias(to_acc(inputs[2 * H + j]), 2 * H + j) + r * q);
    h[element] = to_real((acc(1) - z) * candidate + z * to_acc(before[element]));
#else
    h[element] = to_real(hyperbolic_tangent(preactivation(j)));
#endif
}

// A candidate for the greatest score: `better` puts what is not a number first, then the greater, then the earlier.
struct Best {
    acc score;
    int word;
};

__device__ __forceinline__ bool better(acc score, int word, const Best& than) {
    const bool odd = score != score, than_odd = than.score != than.score;
    if (odd != than_odd) return odd;
    if (!odd && score != than.score) return score > than.score;
    return word < than.word;
}

__device__ __forceinline__ void best_of_lanes(Best& best) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const acc score = __shfl_xor_sync(ALL_LANES, best.score, distance);
        const int word = __shfl_xor_sync(ALL_LANES, best.word, distance);
        if (better(score, word, best)) best = {score, word};
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) choose_words(
    const real* scores,  // [N, V]
    const real* bias,    // [V]
    int* words,          // [N, length], column `step` is written
    int* next,           // [N]
    int* ended,          // [N], not 0 where END has been written; read and written
    int V, int length, int step, int end, int null) {
    __shared__ acc top_scores[WARP];
    __shared__ int top_words[WARP];
    const int n = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const real* row = scores + (long long)n * V;
    Best best = {lowest(acc(0)), 0x7fffffff};
    if (aligned16(scores, V) && aligned16(bias, 0)) {
        for (int j = threadIdx.x * PACK; j < V; j += blockDim.x * PACK) {
            const Pack pack = load_pack(row + j), added = load_pack(bias + j);
#pragma unroll
            for (int p = 0; p < PACK; ++p) {
                const acc score = to_acc(pack.at[p]) + to_acc(added.at[p]);
                if (better(score, j + p, best)) best = {score, j + p};
            }
        }
    } else {
        for (int j = threadIdx.x; j < V; j += blockDim.x) {
            const acc score = to_acc(row[j]) + to_acc(bias[j]);
            if (better(score, j, best)) best = {score, j};
        }
    }
    best_of_lanes(best);
    if (lane == 0) {
        top_scores[warp] = best.score;
        top_words[warp] = best.word;
    }
    __syncthreads();  // else the first warp reads candidates that other warps have not written yet
    if (warp > 0) return;
    best = lane < warps ? Best{top_scores[lane], top_words[lane]} : Best{lowest(acc(0)), 0x7fffffff};
    best_of_lanes(best);
    if (lane == 0) {
        const bool has_ended = ended[n] != 0;
        // a row of nothing but minus infinities has no greatest but the first
        const int word = best.word < V ? best.word : 0;
        words[(long long)n * length + step] = has_ended ? null : word;
        next[n] = word;
        if (word == end) ended[n] = 1;
    }
}
