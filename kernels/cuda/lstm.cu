// The LSTM's recurrence over a packed sequence, forward and backward.
//
//     a = projected + bias + h Wh;  i, f, o = sigmoid(a_i, a_f, a_o);  g = tanh(a_g);  c' = f c + i g;  h' = o tanh(c')
//
// Layout. Row-major; packed rows are time-major: step t owns batch_sizes[t] of the M rows, row r of a step continues
// row r of the step before. Gates lie i, f, o, g along an axis of 4H. Saved for the backward pass: activated gates and
// cells; tanh(c) is computed again.
//
// RESIDENT 1, the persistent tier: one cooperative launch for all steps. Block (group, b) owns the units
// [b UNITS, (b + 1) UNITS) with all their gates, for the rows r = group, group + groups, ... Its columns of Wh stay in
// shared memory from the first step to the last, its cells too. Per step it loads its rows of h from the L2 cache as
// the blocks of its group announce them (exchange.cuh), multiplies, applies the gates, and announces its units of h
// where the result is wanted anyway: the hidden output is what passes h on. The backward pass multiplies da of the step
// after by the transposed rows of Wh (K = 4H), and dgates is what passes da on. One barrier of the group a launch.
//   shared memory   4 H UNITS real (H rounded up to 16) + 8 warps of LOADS x 32 x PACK numbers, padded (or their partial
//                   sums, if larger) + rows of a group x UNITS acc: for float32, H = 512, UNITS = 8, LOADS = 8 and 64
//                   rows in 2 groups, 64 KiB + 40 KiB + 1 KiB, and the same backward.
//   L2 reads        a step: blocks x rows of a group x K reals, e.g. 128 blocks x 32 x 512 x 4 = 8 MiB forward and 32 MiB
//                   backward, to 2 x 64 x 512 x 2048 = 134 MFLOP
//   bound           measured on an H100 at H = 512, 64 rows, UNITS = 16, in clocks of a step at 1.98 GHz. Forward, float32
//                   split: 10,200, of which 2,300 until the first numbers of h are in shared memory, 5,500 for the
//                   product (plain 6,800, half types 1,250), 2,500 for sums, gates and stores. Backward 16,800, of which
//                   three times 3,200 for 32 KB more of da from the L2 cache. Estimates: capgpu.kernels.cuda.cost. Wh is read
//                   from memory once a launch, where a step at a time reads it T times.
//
// RESIDENT 0, the per-step tier: the same text, one ordinary launch a step (backward: and one more for dh0). Wh comes
// through the L2 cache chunk by chunk, the cell from the array of cells; the end of a launch is the barrier.
//
// TENSOR_CORES: the persistent tier with matrix instructions for the product (tensor_core_mma.cuh). 1: half types exactly, and
// float32 rounded to TF32, the weights once, when they are loaded, h or da at each step. 2: float32 in three products.
//
// A pointer to what other blocks write during the launch is never declared __restrict__ and const: the compiler might
// read it through a cache that is not kept coherent.

#include "recurrence.cuh"

#if TENSOR_CORES == 2
#define FORWARD lstm_forward_split
#define BACKWARD_PASS lstm_backward_split
#elif TENSOR_CORES
#define FORWARD lstm_forward_tensor
#define BACKWARD_PASS lstm_backward_tensor
#elif RESIDENT
#define FORWARD lstm_forward
#define BACKWARD_PASS lstm_backward
#else
#define FORWARD lstm_forward_step
#define BACKWARD_PASS lstm_backward_step
#endif

#if BACKWARD
typedef Product<UNITS, true> Step;
#else
typedef Product<4 * UNITS, false> Step;
#endif

#if !BACKWARD

extern "C" __global__ void __launch_bounds__(THREADS, 1) FORWARD(
    const real* __restrict__ projected,  // [M][4H], or with rows [U][4H]
    const int* __restrict__ rows,        // [M] row of projected for each packed row, or null
    const real* __restrict__ bias,       // [4H] or null
    const real* h0,                      // [N][H]
    const real* __restrict__ h0_bias,    // [H], added to every row of h0, or null
    const real* __restrict__ c0,         // [N][H] or null
    const int* __restrict__ order,       // [N] row of h0 and c0 for each row of the batch, or null
    const real* __restrict__ Wh,         // [H][4H]
    const int* __restrict__ batch_sizes, // [T]
    real* hidden,                        // [M][H]
    real* __restrict__ previous,         // [M][H] hidden state before each packed row, or null
    real* __restrict__ cell,             // [M][H]
    real* __restrict__ gates,            // [M][4H] or null
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
    acc* cells = step.rest();  // [rows of the group][UNITS]
    acc biases[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) biases[k] = bias != nullptr && mine ? to_acc(bias[k * H + unit]) : acc(0);
    REQUIRE_SHARED(step.bytes(owned(batch_sizes[0], 0, groups) * UNITS));
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
            real inputs[PAIRS][4];  // converted where they are needed: nobody waits for them here
            const auto fetch_inputs = [&] {
#pragma unroll
                for (int pair = 0; pair < PAIRS; ++pair) {
                    const int row = threadIdx.x / UNITS + pair * (THREADS / UNITS);
                    if (row >= left.count || !mine) break;
                    const int packed = start + group + (tile + row) * groups;
                    const real* from = projected + (long long)(rows == nullptr ? packed : rows[packed]) * 4 * H + unit;
#pragma unroll
                    for (int k = 0; k < 4; ++k) inputs[pair][k] = from[k * H];
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
                const long long initial = (long long)(order == nullptr ? rank : order[rank]) * H + unit;
                acc* kept = cells + (tile + row) * UNITS + threadIdx.x % UNITS;
                acc c = acc(0);
                if (t == 0) {
                    if (c0 != nullptr) c = to_acc(c0[initial]);
                    if (previous != nullptr) {
                        const real h = h0[initial];
                        previous[place] = h0_bias == nullptr ? h : to_real(to_acc(h) + to_acc(h0_bias[unit]));
                    }
                } else {
                    c = RESIDENT ? *kept : to_acc(cell[place - (long long)alive_before * H]);
                }
                const int column = threadIdx.x % UNITS;
                const acc i = sigmoid(to_acc(inputs[pair][0]) + biases[0] + step.sum(row, column));
                const acc f = sigmoid(to_acc(inputs[pair][1]) + biases[1] + step.sum(row, column + UNITS));
                const acc o = sigmoid(to_acc(inputs[pair][2]) + biases[2] + step.sum(row, column + 2 * UNITS));
                const acc g = hyperbolic_tangent(to_acc(inputs[pair][3]) + biases[3] + step.sum(row, column + 3 * UNITS));
                c = f * c + i * g;
                const real h = to_real(o * hyperbolic_tangent(c));
                if (RESIDENT) *kept = c;
                announce(hidden + place, h);
                cell[place] = to_real(c);
                if (previous != nullptr && rank < alive_after) previous[place + (long long)alive * H] = h;
                if (gates != nullptr) {
                    real* to = gates + (long long)(start + rank) * 4 * H + unit;
                    to[0] = to_real(i);
                    to[H] = to_real(f);
                    to[2 * H] = to_real(o);
                    to[3 * H] = to_real(g);
                }
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
    const real* __restrict__ dcell,      // [M][H] or null
    const real* __restrict__ gates,      // [M][4H]
    const real* __restrict__ cell,       // [M][H]
    const real* __restrict__ c0,         // [N][H] or null
    const int* __restrict__ order,       // [N] row of c0, dh0 and dc0 for each row of the batch, or null
    const real* __restrict__ Wh,         // [H][4H]
    const int* __restrict__ batch_sizes, // [T]
    real* dgates,                        // [M][4H] gradient of the pre-activations
    real* __restrict__ dh0,              // [N][H]
    real* dc0,                           // [N][H]; the per-step tier keeps dc there from step to step
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
    const Step step = {memory, Wh, H, 4 * H, block * UNITS};
    acc* carried = step.rest();  // [rows of the group][UNITS] dc, sent on by the step after
    REQUIRE_SHARED(step.bytes(owned(batch_sizes[0], 0, groups) * UNITS));
    unsigned ticket = 0;
    bool filled = !RESIDENT;  // whether all blocks of the group have filled what they will announce
    if (RESIDENT) {
        step.load_slab();
#pragma unroll 4
        for (int t = first, end = stop; t >= 0 && t > first - steps; --t) {
            const int alive = batch_sizes[t];
            end -= alive;
            for (int rank = group + threadIdx.x / UNITS * groups; rank < alive; rank += THREADS / UNITS * groups) {
                real_bits* to = reinterpret_cast<real_bits*>(dgates) + (long long)(end + rank) * 4 * H + unit;
                if (mine) to[0] = to[H] = to[2 * H] = to[3 * H] = FILLER;
            }
        }
        ticket = group_arrive(counters + group * COUNTER_STRIDE, block == 0, blocks);
        step.await_slab();
    }
    for (int t = first; t > first - steps; --t) {
        const int alive = batch_sizes[max(t, 0)], alive_after = t + 1 < T ? batch_sizes[t + 1] : 0;
        const int start = t < 0 ? 0 : stop - alive, alive_before = t > 0 ? batch_sizes[t - 1] : 0;
        const int count = owned(alive, group, groups), returning = owned(alive_after, group, groups);
        for (int tile = 0; tile < count; tile += TILE_ROWS) {
            const int height = min(TILE_ROWS, count - tile);
            const Rows left = Rows(dgates, nullptr, nullptr, 4 * H, stop + group, groups, RESIDENT).tile(tile, returning);
            // converted where they are needed: nobody waits for them here
            real gate[PAIRS][4], c[PAIRS], c_before[PAIRS], dh_here[PAIRS], dc_here[PAIRS];
            const auto fetch_inputs = [&] {
#pragma unroll
                for (int pair = 0; pair < PAIRS; ++pair) {
                    const int row = threadIdx.x / UNITS + pair * (THREADS / UNITS);
                    if (t < 0 || row >= height || !mine) break;
                    const int rank = group + (tile + row) * groups;
                    const long long place = (long long)(start + rank) * H + unit;
                    const real* from = gates + (long long)(start + rank) * 4 * H + unit;
#pragma unroll
                    for (int k = 0; k < 4; ++k) gate[pair][k] = from[k * H];
                    c[pair] = cell[place];
                    c_before[pair] = to_real(acc(0));
                    if (t > 0)
                        c_before[pair] = cell[place - (long long)alive_before * H];
                    else if (c0 != nullptr)
                        c_before[pair] = c0[(long long)(order == nullptr ? rank : order[rank]) * H + unit];
                    dh_here[pair] = dhidden[place];
                    dc_here[pair] = dcell == nullptr ? to_real(acc(0)) : dcell[place];
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
                const long long initial = (long long)(order == nullptr ? rank : order[rank]) * H + unit;
                acc* kept = carried + (tile + row) * UNITS + threadIdx.x % UNITS;
                // a sequence that ends at this step receives nothing from later ones
                acc dh = row < left.count ? step.sum(row, threadIdx.x % UNITS) : acc(0);
                acc dc = row >= left.count ? acc(0) : RESIDENT ? *kept : to_acc(dc0[initial]);
                if (t < 0) {
                    dh0[initial] = to_real(dh);
                    if (RESIDENT) dc0[initial] = to_real(dc);
                    continue;
                }
                const acc i = to_acc(gate[pair][0]), f = to_acc(gate[pair][1]), o = to_acc(gate[pair][2]);
                const acc g = to_acc(gate[pair][3]), squashed = hyperbolic_tangent(to_acc(c[pair]));
                dh += to_acc(dh_here[pair]);
                dc += to_acc(dc_here[pair]) + dh * o * (acc(1) - squashed * squashed);
                real* to = dgates + (long long)(start + rank) * 4 * H + unit;
                announce(to, to_real(dc * g * i * (acc(1) - i)));
                announce(to + H, to_real(dc * to_acc(c_before[pair]) * f * (acc(1) - f)));
                announce(to + 2 * H, to_real(dh * squashed * o * (acc(1) - o)));
                announce(to + 3 * H, to_real(dc * i * (acc(1) - g * g)));
                if (RESIDENT)
                    *kept = dc * f;
                else
                    dc0[initial] = to_real(dc * f);
            }
        }
        if (t < 0) {
            for (int row = count + threadIdx.x / UNITS; row < owned(N, group, groups); row += THREADS / UNITS) {
                const int rank = group + row * groups;
                const long long initial = (long long)(order == nullptr ? rank : order[rank]) * H + unit;
                if (mine) dh0[initial] = dc0[initial] = to_real(acc(0));
            }
        }
        stop = start;
    }
}

#endif
