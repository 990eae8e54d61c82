// The vanilla RNN's recurrence over a packed sequence, forward and backward: h' = tanh(projected + bias + h Wh).
//
// Layout, tiers and exchange are the LSTM's (lstm.cu), with one column a unit in both directions and K = H; nothing but
// h is saved. One gate has a quarter of the LSTM's multiply-adds for the same rows of h, so blocks own more units and
// fewer rows.
//   shared memory   H UNITS real and the warps' buffers: for float32, H = 512, UNITS = 32 and LOADS = 8, 64 KiB + 40 KiB
//   L2 reads        a step: blocks x rows of a group x H reals, e.g. 16 x 8 blocks x 8 rows x 512 x 4 = 2 MiB, to
//                   2 x 64 x 512 x 512 = 34 MFLOP
//   bound           the latency from one step to the next: on an H100 2.4 us a step with 4 rows, 3.4 with 64

#include "recurrence.cuh"

#if TENSOR_CORES == 2
#define FORWARD rnn_forward_split
#define BACKWARD_PASS rnn_backward_split
#elif TENSOR_CORES
#define FORWARD rnn_forward_tensor
#define BACKWARD_PASS rnn_backward_tensor
#elif RESIDENT
#define FORWARD rnn_forward
#define BACKWARD_PASS rnn_backward
#else
#define FORWARD rnn_forward_step
#define BACKWARD_PASS rnn_backward_step
#endif

#if BACKWARD
typedef Product<UNITS, true> Step;
#else
typedef Product<UNITS, false> Step;
#endif

#if !BACKWARD

extern "C" __global__ void __launch_bounds__(THREADS, 1) FORWARD(
    const real* __restrict__ projected,  // [M][H], or with rows [U][H]
    const int* __restrict__ rows,        // [M] row of projected for each packed row, or null
    const real* __restrict__ bias,       // [H] or null
    const real* h0,                      // [N][H]
    const real* __restrict__ h0_bias,    // [H], added to every row of h0, or null
    const int* __restrict__ order,       // [N] row of h0 for each row of the batch, or null
    const real* __restrict__ Wh,         // [H][H]
    const int* __restrict__ batch_sizes, // [T]
    real* hidden,                        // [M][H]
    real* __restrict__ previous,         // [M][H] hidden state before each packed row, or null
    unsigned* counters,                  // [groups][COUNTER_STRIDE]
    int H,
    int T,
    int first,  // step to begin with
    int steps,  // how many to take
    int start)  // packed row where step `first` begins
{
    DYNAMIC_SHARED(unsigned char, memory);
    const int blocks = (H + UNITS - 1) / UNITS, groups = gridDim.x / blocks, group = blockIdx.x / blocks;
    const int block = blockIdx.x % blocks, unit = block * UNITS + threadIdx.x % UNITS;
    const bool mine = unit < H;
    const Step step = {memory, Wh, H, H, block * UNITS};
    const acc added = bias != nullptr && mine ? to_acc(bias[unit]) : acc(0);
    REQUIRE_SHARED(step.bytes(0));
    unsigned ticket = 0;
    if (RESIDENT) {
        step.load_slab();
        // what the steps will announce; nobody waits for the last one
#pragma unroll 4
        for (int t = first, begin = start; t + 1 < first + steps; ++t) {
            const int alive = batch_sizes[t];
            for (int rank = group + threadIdx.x / UNITS * groups; rank < alive; rank += THREADS / UNITS * groups) {
                if (mine) reinterpret_cast<real_bits*>(hidden)[(long long)(begin + rank) * H + unit] = FILLER;
            }
            begin += alive;
        }
        ticket = group_arrive(counters + group * COUNTER_STRIDE, block == 0, blocks);
        step.await_slab();
    }
    int alive = batch_sizes[first], alive_before = first > 0 ? batch_sizes[first - 1] : 0;
    int later = first + 1 < T ? batch_sizes[first + 1] : 0;
    for (int t = first; t < first + steps; ++t) {
        const int alive_after = later, count = owned(alive, group, groups);
        if (count == 0) break;
        later = t + 2 < T ? batch_sizes[t + 2] : 0;  // read a step before it is needed
        const Rows rows_before =
            t == 0 ? Rows(h0, order, h0_bias, H, group, groups, false)
                   : Rows(hidden, nullptr, nullptr, H, start - alive_before + group, groups, RESIDENT);
        for (int tile = 0; tile < count; tile += TILE_ROWS) {
            const Rows left = rows_before.tile(tile, count);
            real inputs[PAIRS];  // converted where they are needed: nobody waits for them here
            const auto fetch_inputs = [&] {
#pragma unroll
                for (int pair = 0; pair < PAIRS; ++pair) {
                    const int row = threadIdx.x / UNITS + pair * (THREADS / UNITS);
                    if (row >= left.count || !mine) break;
                    const int packed = start + group + (tile + row) * groups;
                    inputs[pair] = projected[(long long)(rows == nullptr ? packed : rows[packed]) * H + unit];
                }
            };
            if (tile == 0 && t == first + 1)
                group_wait(counters + group * COUNTER_STRIDE, ticket);  // nothing old is taken for an h
            step.multiply(left, [&] {
                fetch_inputs();
                if (tile > 0 || t > first) __syncthreads();  // the sums of the tile before have been read
            });
            __syncthreads();  // the sums of all warps are there
#pragma unroll
            for (int pair = 0; pair < PAIRS; ++pair) {
                const int row = threadIdx.x / UNITS + pair * (THREADS / UNITS);
                if (row >= left.count || !mine) break;
                const int rank = group + (tile + row) * groups;
                const long long place = (long long)(start + rank) * H + unit;
                if (t == 0 && previous != nullptr) {
                    const real h = h0[(long long)(order == nullptr ? rank : order[rank]) * H + unit];
                    previous[place] = h0_bias == nullptr ? h : to_real(to_acc(h) + to_acc(h0_bias[unit]));
                }
                const real h = to_real(hyperbolic_tangent(to_acc(inputs[pair]) + added + step.sum(row, threadIdx.x % UNITS)));
                announce(hidden + place, h);
                if (previous != nullptr && rank < alive_after) previous[place + (long long)alive * H] = h;
            }
        }
        start += alive;
        alive_before = alive;
        alive = alive_after;
    }
}

#else

extern "C" __global__ void __launch_bounds__(THREADS, 1) BACKWARD_PASS(
    const real* __restrict__ dhidden,    // [M][H]
    const real* __restrict__ hidden,     // [M][H]
    const int* __restrict__ order,       // [N] row of dh0 for each row of the batch, or null
    const real* __restrict__ Wh,         // [H][H]
    const int* __restrict__ batch_sizes, // [T]
    real* dprojected,                    // [M][H] gradient of the pre-activations
    real* __restrict__ dh0,              // [N][H]
    unsigned* counters,                  // [groups][COUNTER_STRIDE]
    int H,
    int T,
    int first,  // step to begin with, going down; after step 0 comes step -1, which is dh0
    int steps,  // how many to take
    int stop,   // packed row where step `first` ends
    int N)      // rows of dh0: those of sequences without any step become zero
{
    DYNAMIC_SHARED(unsigned char, memory);
    const int blocks = (H + UNITS - 1) / UNITS, groups = gridDim.x / blocks, group = blockIdx.x / blocks;
    const int block = blockIdx.x % blocks, unit = block * UNITS + threadIdx.x % UNITS;
    const bool mine = unit < H;
    const Step step = {memory, Wh, H, H, block * UNITS};
    REQUIRE_SHARED(step.bytes(0));
    unsigned ticket = 0;
    bool filled = !RESIDENT;  // whether all blocks of the group have filled what they will announce
    if (RESIDENT) {
        step.load_slab();
#pragma unroll 4
        for (int t = first, end = stop; t >= 0 && t > first - steps; --t) {
            const int alive = batch_sizes[t];
            end -= alive;
            for (int rank = group + threadIdx.x / UNITS * groups; rank < alive; rank += THREADS / UNITS * groups) {
                if (mine) reinterpret_cast<real_bits*>(dprojected)[(long long)(end + rank) * H + unit] = FILLER;
            }
        }
        ticket = group_arrive(counters + group * COUNTER_STRIDE, block == 0, blocks);
        step.await_slab();
    }
    for (int t = first; t > first - steps; --t) {
        const int alive = batch_sizes[max(t, 0)], alive_after = t + 1 < T ? batch_sizes[t + 1] : 0;
        const int start = t < 0 ? 0 : stop - alive;
        const int count = owned(alive, group, groups), returning = owned(alive_after, group, groups);
        for (int tile = 0; tile < count; tile += TILE_ROWS) {
            const int height = min(TILE_ROWS, count - tile);
            const Rows left = Rows(dprojected, nullptr, nullptr, H, stop + group, groups, RESIDENT).tile(tile, returning);
            real h[PAIRS], dh_here[PAIRS];  // converted where they are needed: nobody waits for them here
            const auto fetch_inputs = [&] {
#pragma unroll
                for (int pair = 0; pair < PAIRS; ++pair) {
                    const int row = threadIdx.x / UNITS + pair * (THREADS / UNITS);
                    if (t < 0 || row >= height || !mine) break;
                    const long long place = (long long)(start + group + (tile + row) * groups) * H + unit;
                    h[pair] = hidden[place];
                    dh_here[pair] = dhidden[place];
                }
            };
            if (!filled && left.count > 0) {
                group_wait(counters + group * COUNTER_STRIDE, ticket);  // nothing old is taken for a da
                filled = true;
            }
            const auto meanwhile = [&] {
                fetch_inputs();
                if (tile > 0 || t < first) __syncthreads();  // the sums of the tile before have been read
            };
            if (left.count > 0)
                step.multiply(left, meanwhile);
            else
                meanwhile();
            __syncthreads();  // the sums of all warps are there
#pragma unroll
            for (int pair = 0; pair < PAIRS; ++pair) {
                const int row = threadIdx.x / UNITS + pair * (THREADS / UNITS);
                if (row >= height || !mine) break;
                const int rank = group + (tile + row) * groups;
                // a sequence that ends at this step receives nothing from later ones
                const acc dh = row < left.count ? step.sum(row, threadIdx.x % UNITS) : acc(0);
                if (t < 0) {
                    dh0[(long long)(order == nullptr ? rank : order[rank]) * H + unit] = to_real(dh);
                } else {
                    const acc own = to_acc(h[pair]), da = (dh + to_acc(dh_here[pair])) * (acc(1) - own * own);
                    announce(dprojected + (long long)(start + rank) * H + unit, to_real(da));
                }
            }
        }
        if (t < 0) {
            for (int row = count + threadIdx.x / UNITS; row < owned(N, group, groups); row += THREADS / UNITS) {
                const int rank = group + row * groups;
                if (mine) dh0[(long long)(order == nullptr ? rank : order[rank]) * H + unit] = to_real(acc(0));
            }
        }
        stop = start;
    }
}

#endif
