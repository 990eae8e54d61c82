// The recurrence of a cell over a packed sequence, forward and backward: one skeleton for every cell.
//
// A cell's source file (lstm.cu, gru.cu, rnn.cu) defines CELL, the beginning of its kernels' names, and `struct Cell`,
// its pointwise mathematics, and then includes this file:
//
//     GATES        pre-activations of a unit; Wh is [H][GATES H]
//     SAVED        numbers of a unit that the backward pass reads as `gates`: the activated gates, or h
//     SAVES_GATES  whether the forward pass writes them; false where h is the only gate
//     HAS_STATE    whether a state c is carried from step to step; only the thread that owns a unit reads and writes it
//     STATE_IS_H   whether c is h itself, which then is not saved a second time
//     RECURRENT    the gate whose recurrent part, h_before Wh + a bias of its own, enters the cell apart from the part of
//                  the inputs, so that their gradients differ; -1 where no gate does
//     forward      (a, c, gates) -> h: one step, from a(k) = a.input(k) + a.recurrent(k) = projected + bias + h_before Wh;
//                  replaces c
//     backward     (gates, c, c_before, dh, dc_output, dc, da): one step; dc is sent by the next step and replaced by
//                  what the step before receives; da are the gradients of the pre-activations, of the recurrent part
//                  where there is one, and then da[GATES] that of the inputs. Where c is h, `c` is h_before
//
// Layout. Row-major; packed rows are time-major: step t owns batch_sizes[t] of the M rows, row r of a step continues
// row r of the step before. The gates of a row lie one after the other along an axis of GATES H.
//
// Saved for the backward pass: activated gates, and c or h_before. Everything else is computed again.
//
// RESIDENT 1, persistent kernels: one cooperative launch for all steps. Block (group, b) owns the units
// [b UNITS, (b + 1) UNITS) with all their gates, for the rows r = group, group + groups, ... Its columns of Wh stay in
// shared memory from the first step to the last, its c too. At each step it loads its rows of h from the L2 cache as the
// blocks of its group publish them (exchange.cuh), multiplies (recurrent_gemm.cuh), applies the cell, and publishes its
// units of h in the output array `hidden`, from which the next step reads them. The backward pass multiplies da of the
// next step by the transposed rows of Wh (K = GATES H), and `dgates` passes da on. One barrier of the group a launch.
//
// RESIDENT 0, step kernels: the same code, one ordinary launch a step (backward: and one more for dh0). Wh comes through
// the L2 cache chunk by chunk, c from the array `cell`; the end of a launch is the barrier.
//
// TENSOR_CORES: persistent kernels with matrix instructions for the product (tensor_core_mma.cuh). 1: half types exactly,
// and float32 rounded to TF32, the weights once, when they are loaded, h or da at each step. 2: float32 in three products.
//
// A pointer to what other blocks write during the launch is never declared __restrict__ and const: the compiler might
// read it through a cache that is not kept coherent.

#include "recurrent_gemm.cuh"

// The names of the kernels: <cell>_forward<variant> and <cell>_backward<variant>.
#if TENSOR_CORES == 2
#define VARIANT _split
#elif TENSOR_CORES
#define VARIANT _tensor
#elif RESIDENT
#define VARIANT
#else
#define VARIANT _step
#endif
#define JOIN_NAME(cell, pass, variant) cell##_##pass##variant
#define EXPAND_NAME(cell, pass, variant) JOIN_NAME(cell, pass, variant)
#define KERNEL(pass) EXPAND_NAME(CELL, pass, VARIANT)

static constexpr int GATES = Cell::GATES, SAVED = Cell::SAVED;
// Whether a gate's recurrent part is apart: it has a bias more forward, and a gradient more backward.
static constexpr bool HAS_RECURRENT = Cell::RECURRENT >= 0;
static constexpr int BIASES = GATES + HAS_RECURRENT, GRADIENTS = GATES + HAS_RECURRENT;
// Whether c has arrays of its own.
static constexpr bool HAS_CELL = Cell::HAS_STATE && !Cell::STATE_IS_H;

#if BACKWARD
typedef Product<UNITS, true> Step;
#else
typedef Product<GATES * UNITS, false> Step;
#endif

// Which units and rows of the batch a block computes, and which unit a thread.
struct Position {
    int blocks, groups, group, block, unit;
    bool in_range;

    __device__ __forceinline__ explicit Position(int H)
        : blocks((H + UNITS - 1) / UNITS), groups(gridDim.x / blocks), group(blockIdx.x / blocks),
          block(blockIdx.x % blocks), unit(block * UNITS + threadIdx.x % UNITS), in_range(unit < H) {}
};

// Fills a step's rows that this block will publish, PARTS numbers H apart for each unit, from packed row `start` on.
template <int PARTS>
__device__ __forceinline__ void fill_step(real* array, int start, int active, int H, const Position& position) {
    for (int rank = position.group + threadIdx.x / UNITS * position.groups; rank < active;
         rank += THREADS / UNITS * position.groups) {
        real_bits* to = reinterpret_cast<real_bits*>(array) + (long long)(start + rank) * PARTS * H + position.unit;
        if (position.in_range) {
#pragma unroll
            for (int k = 0; k < PARTS; ++k) to[k * H] = FILLER;
        }
    }
}

#if !BACKWARD

// The pre-activations of a unit, whole or in two parts.
template <class Input, class Recurrent>
struct Preactivations {
    const Input& input;          // (k) -> projected + bias
    const Recurrent& recurrent;  // (k) -> h_before Wh, and the bias of a recurrent part

    __device__ __forceinline__ acc operator()(int k) const { return input(k) + recurrent(k); }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) KERNEL(forward)(
    const real* __restrict__ projected,  // [M][GATES H], or with rows [U][GATES H]
    const int* __restrict__ rows,        // [M] row of projected for each packed row, or null
    const real* __restrict__ bias,       // [BIASES H] or null
    const real* h0,                      // [N][H]
    const real* __restrict__ h0_bias,    // [H], added to every row of h0, or null
    const real* __restrict__ c0,         // [N][H], or null for zeros
    const int* __restrict__ order,       // [N] row of h0 and c0 for each row of the batch, or null
    const real* __restrict__ Wh,         // [H][GATES H]
    const int* __restrict__ batch_sizes, // [T]
    real* hidden,                        // [M][H]
    real* __restrict__ previous,         // [M][H] hidden state before each packed row, or null
    real* __restrict__ cell,             // [M][H]; null where c has no array of its own
    real* __restrict__ gates,            // [M][SAVED H] or null
    unsigned* counters,                  // [groups][COUNTER_STRIDE]
    int H,
    int T,
    int first,  // step to begin with
    int steps,  // how many to take
    int start)  // packed row where step `first` begins
{
    DYNAMIC_SHARED(unsigned char, memory);
    const Position position(H);
    const int group = position.group, groups = position.groups, unit = position.unit;
    const bool in_range = position.in_range;
    const Step step = {memory, Wh, H, H, position.block * UNITS};
    acc* shared_c = step.after_weights();  // [rows of the group][UNITS]
    acc biases[BIASES];
#pragma unroll
    for (int k = 0; k < BIASES; ++k) biases[k] = bias != nullptr && in_range ? to_acc(bias[k * H + unit]) : acc(0);
    REQUIRE_SHARED(step.bytes(Cell::HAS_STATE ? rows_of_group(batch_sizes[0], 0, groups) * UNITS : 0));
    unsigned* counter = counters + group * COUNTER_STRIDE;
    unsigned arrival = 0;
    if (RESIDENT) {
        step.load_weights();
        // what the steps will publish; the last step's results are not read during this launch
#pragma unroll 4
        for (int t = first, begin = start; t + 1 < first + steps; ++t) {
            const int active = batch_sizes[t];
            fill_step<1>(hidden, begin, active, H, position);
            begin += active;
        }
        arrival = arrive_at_group_barrier(counter, position.block == 0, position.blocks);
        step.wait_for_weights();
    }
    int active = batch_sizes[first], active_before = first > 0 ? batch_sizes[first - 1] : 0;
    int active_after_next = first + 1 < T ? batch_sizes[first + 1] : 0;
    for (int t = first; t < first + steps; ++t) {
        const int active_after = active_after_next, count = rows_of_group(active, group, groups);
        if (count == 0) break;
        active_after_next = t + 2 < T ? batch_sizes[t + 2] : 0;  // read a step before it is needed
        const Rows rows_before =
            t == 0 ? Rows(h0, order, h0_bias, H, group, groups, false)
                   : Rows(hidden, nullptr, nullptr, H, start - active_before + group, groups, RESIDENT);
        for (int tile = 0; tile < count; tile += TILE_ROWS) {
            const Rows left = rows_before.tile(tile, count);
            real inputs[PAIRS][GATES];  // converted where they are used: a conversion here would wait for the loads
            const auto fetch_inputs = [&] {
#pragma unroll
                for (int pair = 0; pair < PAIRS; ++pair) {
                    const int row = threadIdx.x / UNITS + pair * (THREADS / UNITS);
                    if (row >= left.count || !in_range) break;
                    const int packed = start + group + (tile + row) * groups;
                    const real* from = projected + (long long)(rows == nullptr ? packed : rows[packed]) * GATES * H + unit;
#pragma unroll
                    for (int k = 0; k < GATES; ++k) inputs[pair][k] = from[k * H];
                }
            };
            if (tile == 0 && t == first + 1)
                wait_at_group_barrier(counter, arrival);  // else an earlier launch's numbers pass for h
            step.multiply(left, [&] {
                fetch_inputs();
                if (tile > 0 || t > first) __syncthreads();  // else the next product overwrites sums that are still read
            });
            __syncthreads();  // else partial sums are read that other warps have not written yet
#pragma unroll
            for (int pair = 0; pair < PAIRS; ++pair) {
                const int row = threadIdx.x / UNITS + pair * (THREADS / UNITS);
                if (row >= left.count || !in_range) break;
                const int rank = group + (tile + row) * groups, column = threadIdx.x % UNITS;
                const long long offset = (long long)(start + rank) * H + unit;
                const long long initial = (long long)(order == nullptr ? rank : order[rank]) * H + unit;
                acc* own_c = shared_c + (tile + row) * UNITS + column;
                acc c = acc(0);
                if (t == 0) {
                    if (HAS_CELL && c0 != nullptr) c = to_acc(c0[initial]);
                    if (previous != nullptr || Cell::STATE_IS_H) {
                        const real given = h0[initial];
                        const real h = h0_bias == nullptr ? given : to_real(to_acc(given) + to_acc(h0_bias[unit]));
                        if (previous != nullptr) previous[offset] = h;
                        if (Cell::STATE_IS_H) c = to_acc(h);
                    }
                } else if (Cell::HAS_STATE) {
                    const real* states = Cell::STATE_IS_H ? hidden : cell;
                    c = RESIDENT ? *own_c : to_acc(states[offset - (long long)active_before * H]);
                }
                acc activated[SAVED];
                const auto input = [&](int k) { return to_acc(inputs[pair][k]) + biases[k]; };
                const auto recurrent = [&](int k) {
                    const acc sum = step.sum(row, column + k * UNITS);
                    return HAS_RECURRENT && k == Cell::RECURRENT ? sum + biases[BIASES - 1] : sum;
                };
                const Preactivations<decltype(input), decltype(recurrent)> a = {input, recurrent};
                const real h = to_real(Cell::forward(a, c, activated));
                if (Cell::HAS_STATE && RESIDENT) *own_c = c;
                publish(hidden + offset, h);
                if (HAS_CELL) cell[offset] = to_real(c);
                if (previous != nullptr && rank < active_after) previous[offset + (long long)active * H] = h;
                if (Cell::SAVES_GATES && gates != nullptr) {
                    real* to = gates + (long long)(start + rank) * SAVED * H + unit;
#pragma unroll
                    for (int k = 0; k < SAVED; ++k) to[k * H] = to_real(activated[k]);
                }
            }
        }
        start += active;
        active_before = active;
        active = active_after;
    }
}

#else

extern "C" __global__ void __launch_bounds__(THREADS, 1) KERNEL(backward)(
    const real* __restrict__ dhidden,    // [M][H]
    const real* __restrict__ dcell,      // [M][H] or null
    const real* __restrict__ gates,      // [M][SAVED H]
    const real* __restrict__ cell,       // [M][H] c, or h before each row where c is h; null without a state
    const real* __restrict__ c0,         // [N][H], or null for zeros
    const int* __restrict__ order,       // [N] row of c0, dh0 and dc0 for each row of the batch, or null
    const real* __restrict__ Wh,         // [H][GATES H]
    const int* __restrict__ batch_sizes, // [T]
    real* dgates,                        // [M][GATES H] gradient of the pre-activations
    real* __restrict__ dh0,              // [N][H]
    real* dc0,                           // [N][H]; null where c has no array of its own
    real* __restrict__ dinputs,          // [M][GATES H] that of their parts of the inputs, where a recurrent part is apart
    unsigned* counters,                  // [groups][COUNTER_STRIDE]
    int H,
    int T,
    int first,  // step to begin with, going down; after step 0 comes step -1, which is dh0
    int steps,  // how many to take
    int stop,   // packed row where step `first` ends
    int N)      // rows of dh0: those of sequences without any step become zero
{
    DYNAMIC_SHARED(unsigned char, memory);
    const Position position(H);
    const int group = position.group, groups = position.groups, unit = position.unit;
    const bool in_range = position.in_range;
    const Step step = {memory, Wh, H, GATES * H, position.block * UNITS};
    acc* shared_dc = step.after_weights();  // [rows of the group][UNITS] dc, from the next step
    REQUIRE_SHARED(step.bytes(Cell::HAS_STATE ? rows_of_group(batch_sizes[0], 0, groups) * UNITS : 0));
    real* const sent_dc = HAS_CELL ? dc0 : dh0;  // where step kernels keep dc from step to step
    unsigned* counter = counters + group * COUNTER_STRIDE;
    unsigned arrival = 0;
    bool all_filled = !RESIDENT;  // whether all blocks of the group have filled what they will publish
    if (RESIDENT) {
        step.load_weights();
#pragma unroll 4
        for (int t = first, end = stop; t >= 0 && t > first - steps; --t) {
            const int active = batch_sizes[t];
            end -= active;
            fill_step<GATES>(dgates, end, active, H, position);
        }
        arrival = arrive_at_group_barrier(counter, position.block == 0, position.blocks);
        step.wait_for_weights();
    }
    for (int t = first; t > first - steps; --t) {
        const int active = batch_sizes[max(t, 0)], active_after = t + 1 < T ? batch_sizes[t + 1] : 0;
        const int start = t < 0 ? 0 : stop - active, active_before = t > 0 ? batch_sizes[t - 1] : 0;
        const int count = rows_of_group(active, group, groups);
        const int count_after = rows_of_group(active_after, group, groups);
        for (int tile = 0; tile < count; tile += TILE_ROWS) {
            const int height = min(TILE_ROWS, count - tile);
            const Rows rows_after(dgates, nullptr, nullptr, GATES * H, stop + group, groups, RESIDENT);
            const Rows left = rows_after.tile(tile, count_after);
            // converted where they are used: a conversion here would wait for the loads
            real gate[PAIRS][SAVED], c[PAIRS], c_before[PAIRS], dh_output[PAIRS], dc_output[PAIRS];
            const auto fetch_inputs = [&] {
#pragma unroll
                for (int pair = 0; pair < PAIRS; ++pair) {
                    const int row = threadIdx.x / UNITS + pair * (THREADS / UNITS);
                    if (t < 0 || row >= height || !in_range) break;
                    const int rank = group + (tile + row) * groups;
                    const long long offset = (long long)(start + rank) * H + unit;
                    const real* from = gates + (long long)(start + rank) * SAVED * H + unit;
#pragma unroll
                    for (int k = 0; k < SAVED; ++k) gate[pair][k] = from[k * H];
                    if (Cell::HAS_STATE) c[pair] = cell[offset];
                    if (HAS_CELL) {
                        c_before[pair] = to_real(acc(0));
                        if (t > 0)
                            c_before[pair] = cell[offset - (long long)active_before * H];
                        else if (c0 != nullptr)
                            c_before[pair] = c0[(long long)(order == nullptr ? rank : order[rank]) * H + unit];
                    }
                    dh_output[pair] = dhidden[offset];
                    if (HAS_CELL) dc_output[pair] = dcell == nullptr ? to_real(acc(0)) : dcell[offset];
                }
            };
            if (!all_filled && left.count > 0) {
                wait_at_group_barrier(counter, arrival);  // else an earlier launch's numbers pass for da
                all_filled = true;
            }
            const auto while_loading = [&] {
                fetch_inputs();
                if (tile > 0 || t < first) __syncthreads();  // else the next product overwrites sums that are still read
            };
            if (left.count > 0)
                step.multiply(left, while_loading);
            else
                while_loading();
            __syncthreads();  // else partial sums are read that other warps have not written yet
#pragma unroll
            for (int pair = 0; pair < PAIRS; ++pair) {
                const int row = threadIdx.x / UNITS + pair * (THREADS / UNITS);
                if (row >= height || !in_range) break;
                const int rank = group + (tile + row) * groups, column = threadIdx.x % UNITS;
                const long long initial = (long long)(order == nullptr ? rank : order[rank]) * H + unit;
                acc* own_dc = shared_dc + (tile + row) * UNITS + column;
                // a sequence that ends at this step receives nothing from later steps
                acc dh = row < left.count ? step.sum(row, column) : acc(0), dc = acc(0);
                if (Cell::HAS_STATE) dc = row >= left.count ? acc(0) : RESIDENT ? *own_dc : to_acc(sent_dc[initial]);
                if (t < 0) {
                    dh0[initial] = to_real(Cell::STATE_IS_H ? dh + dc : dh);
                    if (HAS_CELL && RESIDENT) dc0[initial] = to_real(dc);
                    continue;
                }
                acc activated[SAVED], da[GRADIENTS];
#pragma unroll
                for (int k = 0; k < SAVED; ++k) activated[k] = to_acc(gate[pair][k]);
                dh += to_acc(dh_output[pair]);
                Cell::backward(activated, Cell::HAS_STATE ? to_acc(c[pair]) : acc(0),
                               HAS_CELL ? to_acc(c_before[pair]) : acc(0), dh,
                               HAS_CELL ? to_acc(dc_output[pair]) : acc(0), dc, da);
                real* to = dgates + (long long)(start + rank) * GATES * H + unit;
#pragma unroll
                for (int k = 0; k < GATES; ++k) publish(to + k * H, to_real(da[k]));
                if (HAS_RECURRENT) {
                    real* inputs = dinputs + (long long)(start + rank) * GATES * H + unit;
#pragma unroll
                    for (int k = 0; k < GATES; ++k)
                        inputs[k * H] = to_real(da[k == Cell::RECURRENT ? GRADIENTS - 1 : k]);
                }
                if (Cell::HAS_STATE) {
                    if (RESIDENT)
                        *own_dc = dc;
                    else
                        sent_dc[initial] = to_real(dc);
                }
            }
        }
        if (t < 0) {
            for (int row = count + threadIdx.x / UNITS; row < rows_of_group(N, group, groups); row += THREADS / UNITS) {
                const int rank = group + row * groups;
                const long long initial = (long long)(order == nullptr ? rank : order[rank]) * H + unit;
                if (in_range) {
                    dh0[initial] = to_real(acc(0));
                    if (HAS_CELL) dc0[initial] = to_real(acc(0));
                }
            }
        }
        stop = start;
    }
}

#endif
