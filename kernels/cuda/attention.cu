// The attention LSTM but for its matrix products: the cell of one step, then the attention of the next.
//
// A picture has L cells A_l of H numbers. With h the state before a step:
//     s_l = A_l h / sqrt(H);  w = softmax(s);  z = sum_l w_l A_l
//     a = projected + bias + [h | z] [Wh; Wattn];  i, f, o = sigmoid(a_i, a_f, a_o);  g = tanh(a_g)
//     c' = f c + i g;  h' = o tanh(c');  before the first step h = c = the mean of the cells
// Backward, with [dh | dz] = da [Wh; Wattn] transposed, da as for the LSTM (lstm.cu):
//     dw_l = A_l dz;  ds_l = w_l (dw_l - sum_k w_k dw_k) / sqrt(H);  dh += sum_l ds_l A_l
//     dA_l = sum over the steps of w_l dz + ds_l h, and (dh_0 + dc_0) / L
//
// attention_lstm_forward   one launch before each product, and one behind the last: a block a caption. It turns the sums
//                          of step t - 1 into states, and attends with them for step t.
// attention_lstm_backward  one launch before each product, and one behind the last: the backward pass of the attention of
//                          step t + 1, then of the cell of step t.
// attention_gradient       dA, all steps at once: a block a caption and CELLS of its cells. Added up step by step, dA would
//                          be read and written at each.
// attend                   attention alone, for decoding.
//
// Memory: row-major; packed rows are time-major as in recurrence.cuh, row r of a step is caption order[r]. `left` [N][2 H]
// and `da` [N][4 H] hold what the product of a step reads, `sums` and `dleft` what it writes: always in the same place, with
// as many rows as the first step, so that a step can be captured in a CUDA graph. The sizes of steps come from the device.
// Saved: the activated gates in the order i, f, o, g, c, h before each row, w.

#if !defined(THREADS) || !defined(CELLS)
#error "capgpu.kernels.cuda.constants gives THREADS and CELLS"
#endif

// Packed row where step t begins.
__device__ __forceinline__ int first_row(const int* batch_sizes, int t) {
    int row = 0;
    for (int step = 0; step < t; ++step) row += batch_sizes[step];
    return row;
}

__device__ __forceinline__ const real* picture(const real* A, const int* order, int row, int H, int L) {
    return A + (long long)(order == nullptr ? row : order[row]) * L * H;
}

// The product of a cell and a vector, for every lane of a warp. Lanes have many loads under way.
__device__ __forceinline__ acc warp_dot(const real* cell, const real* vector, int H) {
    acc sum = acc(0);
#pragma unroll 8
    for (int j = threadIdx.x % WARP; j < H; j += WARP) sum += to_acc(cell[j]) * to_acc(vector[j]);
    return warp_sum(sum);
}

// Writes the weights that a state gives to the cells, and their weighted sum, by a block. `scores` is scratch of L numbers.
__device__ __forceinline__ void attend_by_block(const real* h, const real* cells, acc* scores, real* attention, int H, int L) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const acc factor = acc(1) / root(acc(H));
    for (int l = warp; l < L; l += THREADS / WARP) {
        const acc score = warp_dot(cells + (long long)l * H, h, H) * factor;
        if (lane == 0) scores[l] = score;
    }
    __syncthreads();  // else warps read scores that other warps have not written yet
    acc top = lowest(acc(0)), total = acc(0);
    for (int l = lane; l < L; l += WARP) top = scores[l] > top ? scores[l] : top;
    top = warp_max(top);
    for (int l = lane; l < L; l += WARP) total += exponential(scores[l] - top);
    total = warp_sum(total);
    for (int l = threadIdx.x; l < L; l += THREADS) attention[l] = to_real(exponential(scores[l] - top) / total);
    __syncthreads();  // else cells are summed with weights that other threads have not written yet
}

__device__ __forceinline__ acc weighted_sum(const real* attention, const real* cells, int j, int H, int L) {
    acc sum = acc(0);
#pragma unroll 8
    for (int l = 0; l < L; ++l) sum += to_acc(attention[l]) * to_acc(cells[(long long)l * H + j]);
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attend(
    const real* h,        // [N][H]
    const real* A,        // [B][L][H]
    const int* pictures,  // [N] or null
    acc* scores,          // [N][L], scratch
    real* attention,      // [N][L]
    real* contexts,       // [N][H]
    int H, int L) {
    const int r = blockIdx.x;
    const real* cells = picture(A, pictures, r, H, L);
    real* weights = attention + (long long)r * L;
    attend_by_block(h + (long long)r * H, cells, scores + (long long)r * L, weights, H, L);
    for (int j = threadIdx.x; j < H; j += THREADS)
        contexts[(long long)r * H + j] = to_real(weighted_sum(weights, cells, j, H, L));
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_lstm_forward(
    const real* projected,   // [M][4 H], or with rows [U][4 H]
    const int* rows,         // [M] row of projected for each packed row, or null
    const real* bias,        // [4 H] or null
    const real* A,           // [N][L][H]
    const int* order,        // [N] row of A for each row of the batch, or null
    const int* batch_sizes,  // [T]
    const real* sums,        // [first step's rows][4 H] of step t - 1
    real* left,              // [first step's rows][2 H] h and context of step t
    acc* scores,             // [first step's rows][L], scratch
    real* hidden,            // [M][H]
    real* cell,              // [M][H]
    real* gates,             // [M][4 H]
    real* previous,          // [M][H] h before each row
    real* attention,         // [M][L]
    real* contexts,          // [M][H]
    int H, int L, int T,
    int t)  // step to attend for, 0 to T
{
    const int r = blockIdx.x, before = batch_sizes[t > 0 ? t - 1 : 0], active = t < T ? batch_sizes[t] : 0;
    if (r >= before) return;
    const int start_before = first_row(batch_sizes, t - 1), start = t > 0 ? start_before + before : 0;
    const real* cells = picture(A, order, r, H, L);
    real* own = left + (long long)r * 2 * H;
    for (int j = threadIdx.x; j < H; j += THREADS) {
        acc state;
        if (t == 0) {
            acc total = acc(0);
#pragma unroll 8
            for (int l = 0; l < L; ++l) total += to_acc(cells[(long long)l * H + j]);
            state = total / acc(L);
        } else {
            const int m = start_before + r;
            const real* input = projected + (long long)(rows == nullptr ? m : rows[m]) * 4 * H + j;
            const real* recurrent = sums + (long long)r * 4 * H + j;
            const auto a = [&](int k) {
                const acc sum = to_acc(input[k * H]) + to_acc(recurrent[k * H]);
                return bias == nullptr ? sum : sum + to_acc(bias[k * H + j]);
            };
            const acc i = sigmoid(a(0)), f = sigmoid(a(1)), o = sigmoid(a(2)), g = hyperbolic_tangent(a(3));
            // the initial cell state is the initial hidden state, which this thread has put there
            const acc c_before = to_acc(t == 1 ? own[j] : cell[(long long)(m - batch_sizes[t - 2]) * H + j]);
            const acc c = f * c_before + i * g;
            state = o * hyperbolic_tangent(c);
            hidden[(long long)m * H + j] = to_real(state);
            cell[(long long)m * H + j] = to_real(c);
            real* to = gates + (long long)m * 4 * H + j;
            to[0] = to_real(i);
            to[H] = to_real(f);
            to[2 * H] = to_real(o);
            to[3 * H] = to_real(g);
        }
        if (r < active) own[j] = previous[(long long)(start + r) * H + j] = to_real(state);
    }
    if (r >= active) return;
    __syncthreads();  // else scores are computed of states that other threads have not written yet
    real* weights = attention + (long long)(start + r) * L;
    attend_by_block(own, cells, scores + (long long)r * L, weights, H, L);
    for (int j = threadIdx.x; j < H; j += THREADS)
        own[H + j] = contexts[(long long)(start + r) * H + j] = to_real(weighted_sum(weights, cells, j, H, L));
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_lstm_backward(
    const real* dhidden,     // [M][H]
    const real* gates,       // [M][4 H]
    const real* cell,        // [M][H]
    const real* previous,    // [M][H]
    const real* attention,   // [M][L]
    const real* A,           // [N][L][H]
    const int* order,        // [N] or null
    const int* batch_sizes,  // [T]
    const real* dleft,       // [first step's rows][2 H] gradients of h and context of step t + 1
    real* da,                // [first step's rows][4 H] of step t
    acc* dc,                 // [first step's rows][H] from step to step; in the end dh_0 + dc_0
    real* dprojected,        // [M][4 H]
    real* dcontexts,         // [M][H]
    acc* dscores,            // [M][L]
    int H, int L, int T,
    int t)  // step of the cell, T - 1 to -1
{
    const int r = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int active = batch_sizes[t < 0 ? 0 : t], after = t + 1 < T ? batch_sizes[t + 1] : 0;
    if (r >= active) {
        // shorter captions: the product reads their rows, too, which no step has written yet
        if (t == T - 1)
            for (int k = threadIdx.x; k < 4 * H; k += THREADS) da[(long long)r * 4 * H + k] = to_real(acc(0));
        return;
    }
    const int start = first_row(batch_sizes, t), row_after = (t < 0 ? 0 : start + active) + r;
    const real* cells = picture(A, order, r, H, L);
    const real* own = dleft + (long long)r * 2 * H;
    acc* ds = dscores + (long long)row_after * L;
    if (r < after) {  // else the caption has ended, and receives nothing from later steps
        const real* weights = attention + (long long)row_after * L;
        for (int l = warp; l < L; l += THREADS / WARP) {
            const acc dw = warp_dot(cells + (long long)l * H, own + H, H);
            if (lane == 0) ds[l] = dw;
        }
        __syncthreads();  // else warps read gradients of weights that other warps have not written yet
        acc mean = acc(0);
        for (int l = lane; l < L; l += WARP) mean += to_acc(weights[l]) * ds[l];
        mean = warp_sum(mean);
        __syncthreads();  // else gradients of weights are overwritten that other warps still sum
        const acc factor = acc(1) / root(acc(H));
        for (int l = threadIdx.x; l < L; l += THREADS) ds[l] = to_acc(weights[l]) * (ds[l] - mean) * factor;
        __syncthreads();  // else cells are summed with gradients of scores that other threads have not written yet
    }
    for (int j = threadIdx.x; j < H; j += THREADS) {
        acc dh = acc(0), dc_here = acc(0);
        acc* own_dc = dc + (long long)r * H + j;
        if (r < after) {
            dh = to_acc(own[j]);
#pragma unroll 8
            for (int l = 0; l < L; ++l) dh += ds[l] * to_acc(cells[(long long)l * H + j]);
            dc_here = *own_dc;
            dcontexts[(long long)row_after * H + j] = own[H + j];
        }
        if (t < 0) {
            *own_dc = dh + dc_here;
            continue;
        }
        const int m = start + r;
        dh += to_acc(dhidden[(long long)m * H + j]);
        const real* saved = gates + (long long)m * 4 * H + j;
        const acc i = to_acc(saved[0]), f = to_acc(saved[H]), o = to_acc(saved[2 * H]), g = to_acc(saved[3 * H]);
        const acc c_before = to_acc(t == 0 ? previous[(long long)m * H + j]
                                           : cell[(long long)(m - batch_sizes[t - 1]) * H + j]);
        const acc squashed = hyperbolic_tangent(to_acc(cell[(long long)m * H + j]));
        dc_here += dh * o * (acc(1) - squashed * squashed);
        const acc gradients[4] = {dc_here * g * i * (acc(1) - i), dc_here * c_before * f * (acc(1) - f),
                                  dh * squashed * o * (acc(1) - o), dc_here * i * (acc(1) - g * g)};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const real gradient = to_real(gradients[k]);
            dprojected[((long long)m * 4 + k) * H + j] = gradient;
            da[((long long)r * 4 + k) * H + j] = gradient;
        }
        *own_dc = dc_here * f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_gradient(
    const real* attention,   // [M][L]
    const acc* dscores,      // [M][L]
    const real* dcontexts,   // [M][H]
    const real* previous,    // [M][H]
    const acc* dinitial,     // [first step's rows][H]
    const int* order,        // [N] or null
    const int* batch_sizes,  // [T]
    real* dA,                // [N][L][H]
    int H, int L, int T) {
    const int chunks = (L + CELLS - 1) / CELLS, r = blockIdx.x / chunks, first = blockIdx.x % chunks * CELLS;
    const int count = min(CELLS, L - first);
    real* to = dA + ((long long)(order == nullptr ? r : order[r]) * L + first) * H;
    for (int j = threadIdx.x; j < H; j += THREADS) {
        acc sums[CELLS];
        const acc initial = r < batch_sizes[0] ? dinitial[(long long)r * H + j] / acc(L) : acc(0);
#pragma unroll
        for (int k = 0; k < CELLS; ++k) sums[k] = initial;
        int m = r;
        for (int t = 0; t < T && r < batch_sizes[t]; ++t) {
            const acc dz = to_acc(dcontexts[(long long)m * H + j]), h = to_acc(previous[(long long)m * H + j]);
            const long long cell = (long long)m * L + first;
#pragma unroll
            for (int k = 0; k < CELLS; ++k) {
                if (k < count) sums[k] += to_acc(attention[cell + k]) * dz + dscores[cell + k] * h;
            }
            m += batch_sizes[t];
        }
#pragma unroll
        for (int k = 0; k < CELLS; ++k) {
            if (k < count) to[k * H + j] = to_real(sums[k]);
        }
    }
}
