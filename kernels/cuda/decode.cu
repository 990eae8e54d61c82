// One word of decoding, but for its two matrix products: the cell before the projection to the vocabulary, the choice
// of the word after it. Words stay on the device: the host launches step after step and waits for none.
//
// decode_cell   a = projected[row] + sums + bias, with sums = h Wh from a matrix product, then the cell:
//               i, f, o = sigmoid(a_i, a_f, a_o); g = tanh(a_g); c' = f c + i g; h' = o tanh(c')     (LSTM 1)
//               h' = tanh(a)                                                                        (LSTM 0)
// choose_words  word = argmax(scores + bias), of equal scores the first; a caption that has ended gets `null`.
//
// Memory: projected [*, G], addressed by rows [N] or in order; sums [N, G]; h, c [N, H]; G = 4 H with gates in the
// order i, f, o, g, or H. scores [N, V]; words [N, length] one column a step; next [N] what the next step reads.
// A score that is not a number counts as the greatest, as NumPy and CuPy have it.
// Launch: decode_cell a thread a hidden unit; choose_words a block a caption.

#ifndef THREADS
#error "capgpu.kernels.cuda.constants gives THREADS"
#endif

extern "C" __global__ void __launch_bounds__(THREADS) decode_cell(
    const real* projected,  // [*, G]
    const int* rows,        // [N] or null
    const real* sums,       // [N, G]
    const real* bias,       // [G] or null
    const real* c_before,   // [N, H] or null for zeros; not read without a cell state
    real* h,                // [N, H]
    real* c,                // [N, H]
    int N, int H) {
    const long long element = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (element >= (long long)N * H) return;
    const int n = (int)(element / H), j = (int)(element % H);
    const int G = LSTM ? 4 * H : H;
    const real* inputs = projected + (long long)(rows ? rows[n] : n) * G;
    const real* recurrent = sums + (long long)n * G;
    auto before = [&](int k) {
        const acc a = to_acc(inputs[k]) + to_acc(recurrent[k]);
        return bias ? a + to_acc(bias[k]) : a;
    };
#if LSTM
    const acc i = sigmoid(before(j)), f = sigmoid(before(H + j)), o = sigmoid(before(2 * H + j));
    const acc g = hyperbolic_tangent(before(3 * H + j));
    const acc state = c_before ? f * to_acc(c_before[element]) + i * g : i * g;
    c[element] = to_real(state);
    h[element] = to_real(o * hyperbolic_tangent(state));
#else
    h[element] = to_real(hyperbolic_tangent(before(j)));
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
