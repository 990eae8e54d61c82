// The matrix product of one step of a recurrence.
//
//     sums [rows of a tile][COLUMNS] = left [rows of a tile][K] . right [K][COLUMNS of this block]
//
// Work. A block owns UNITS hidden units: COLUMNS = GATES UNITS in a forward pass (all gates of its units), in a backward
// pass UNITS; 2^n or 3 2^n. It takes TILE_ROWS rows of the batch at once. There are few columns and many multiplications along K, so the
// warps of a block split K, not the tile: warp w takes the chunks w, w + WARPS, ... of DEPTH terms, independently of the
// other warps until the end. The loop has no barrier of the block, each element of `left` is fetched once a block, and
// the warps' partial sums are added in a fixed order by the threads that use them.
//
// Registers. The sums of a lane are described in simt_mma.cuh (multiply-adds) and, with TENSOR_CORES, in
// tensor_core_mma.cuh (matrix instructions).
//
// Shared memory. Each warp has buffers for some left chunks; its partial sums reuse that memory.
//   RESIDENT 1   (persistent kernels) All chunks of the right factor are resident, loaded once a launch. The left factor
//                is computed by other blocks in the same launch (exchange.cuh): a warp loads several chunks into
//                registers, all at once, since each way to the L2 cache costs as much as multiplying them; loads again
//                those that still hold the filler; stores them into its buffers; and loads the next ones while it
//                multiplies these.
//   RESIDENT 0   (step kernels, one launch a step) Both factors are copied chunk by chunk into STAGES buffers (cp.async;
//                plain loads before sm_80) while the warp multiplies the previous chunk.
// A chunk of the left factor is [row][DEPTH + PACK]: the padding spreads rows over the banks. A chunk of the right one
// is [DEPTH][COLUMNS], or, for the transposed weights of the backward pass, [COLUMNS][DEPTH], so that both are read along
// contiguous memory of Wh; the numbers of a line are permuted by its number (`right_offset`: no bank conflicts, no
// padding), 16 bytes at a time at least. The partial sums of a warp are [row][COLUMNS], permuted likewise
// (`partial_offset`). Numbers past the edge of a matrix are zeros in shared memory. tests/kernels/cuda/test_banks.py
// counts the bank conflicts of every load and store of these.

// Before sm_80 there are no such instructions.
#if TENSOR_CORES && (defined(CAPGPU_EMULATED) || __CUDA_ARCH__ >= 800)
#define USE_TENSOR_CORES 1
#else
#define USE_TENSOR_CORES 0
#endif

#if !defined(DEPTH) || !defined(LANE_ROWS) || !defined(WARPS) || !defined(TILE_ROWS) || !defined(STAGES) || \
    !defined(LOADS) || !defined(COUNTER_STRIDE)
#error "capgpu.kernels.cuda.constants gives DEPTH, LANE_ROWS, WARPS, TILE_ROWS, STAGES, LOADS, COUNTER_STRIDE"
#endif
#define MAX_TILE (TILE_ROWS / LANE_ROWS)
#define THREADS (WARPS * WARP)
static_assert(MAX_TILE == 8 || MAX_TILE == 4, "Product::multiply has a case for each number of rows of a lane");

// (row, unit) pairs of a tile that one thread turns from sums into states: its unit is always the same.
#define PAIRS (TILE_ROWS * UNITS > THREADS ? TILE_ROWS * UNITS / THREADS : 1)

#define LEFT_STRIDE (DEPTH + PACK)

// A chunk is few matrix instructions: several chunks are unrolled, so that their latencies overlap.
#define UNROLLED_CHUNKS (USE_TENSOR_CORES ? 4 : 1)

// Offset in a right chunk of the element `offset` of a line. Transposed, fours of neighbouring lines are put into
// different banks; in half precision 16 bytes are two fours, which stay together. Otherwise a line is a row of the
// product's columns: multiply-adds read one line at a time, matrix instructions 4 (float32) or 8 (half types) lines at
// once, whose blocks of 8 columns are put into different banks; LINES of them begin at different banks.
template <int COLUMNS, bool TRANSPOSED>
__device__ __forceinline__ int right_offset(int line, int offset) {
    if (TRANSPOSED) {
        const int turn = sizeof(real) == 8 ? line % 4 : sizeof(real) == 4 ? line / 2 % 4 : line / 4 % 2 * 2;
        return line * DEPTH + (offset ^ (4 * turn));
    }
#if USE_TENSOR_CORES
    constexpr int LINE_BYTES = COLUMNS * (int)sizeof(real), FACTOR = LINE_BYTES & -LINE_BYTES;  // its power of two
    constexpr int LINES = FACTOR < 128 ? 128 / FACTOR : 1, BLOCKS = 16 / (int)sizeof(real) / LINES;
    offset ^= 8 * (line / LINES % BLOCKS);
#endif
    return line * COLUMNS + offset;
}

// Offset of a warp's partial sum. Pairs of neighbouring columns stay together: they are written 8 bytes (of double, 16)
// at a time, by lanes of 4 rows; a warp that adds them up reads WARP / UNITS rows of UNITS columns.
template <int COLUMNS>
__device__ __forceinline__ int partial_offset(int row, int column) {
    const int turn = COLUMNS == 48   ? row / 2 % 2 * 10
                     : COLUMNS >= 32 ? row % 2 * 18 + row / 2 % 2 * 12
                     : COLUMNS == 16 ? row / 2 % 2 * 10 + row / 4 % 2 * 4
                                     : 0;
    return row * COLUMNS + (column ^ turn);
}

struct alignas(2 * sizeof(acc)) Pair {
    acc at[2];
};

__device__ __forceinline__ void store_pair(acc* address, acc first, acc second) {
    *reinterpret_cast<Pair*>(address) = {{first, second}};
}

// Sums<COLUMNS, TRANSPOSED, TILE>: a warp's registers, for TILE * LANE_ROWS rows.
#if USE_TENSOR_CORES
#include "tensor_core_mma.cuh"
#else
#include "simt_mma.cuh"
#endif
#include "exchange.cuh"

// Rows of a matrix [.][width]: first, first + stride, ...; with `order`, rows order[first], order[first + stride], ... `bias` [width], or null, is added to every row.
struct Rows {
    const real* base;
    const int* order;
    const real* bias;
    int width;
    int first;
    int stride;
    int count;
    bool vector;     // rows begin at multiples of 16 bytes; neither order nor bias
    bool published;  // other blocks publish the numbers (exchange.cuh)

    __device__ __forceinline__ Rows(const real* base, const int* order, const real* bias, int width, int first, int stride,
                                    bool published)
        : base(base), order(order), bias(bias), width(width), first(first), stride(stride), count(0),
          vector(bias == nullptr && order == nullptr && aligned16(base, width)), published(published) {}

    // The tile that begins `skipped` rows further on, of `all` rows.
    __device__ __forceinline__ Rows tile(int skipped, int all) const {
        Rows part = *this;
        part.first = first + skipped * stride;
        part.count = max(0, min(TILE_ROWS, all - skipped));
        return part;
    }

    __device__ __forceinline__ const real* at(int row) const {
        const int offset = first + row * stride;
        return base + (long long)(order == nullptr ? offset : order[offset]) * width;
    }
};

template <int COLUMNS, bool TRANSPOSED>
struct Product {
    static constexpr int GATES = TRANSPOSED ? 1 : COLUMNS / UNITS;
    static constexpr int LEFT_CHUNK = TILE_ROWS * LEFT_STRIDE;
    static constexpr int RIGHT_CHUNK = DEPTH * COLUMNS;
    static constexpr int STAGE = LEFT_CHUNK + (RESIDENT ? 0 : RIGHT_CHUNK);
    static constexpr int LINES = LOADS * WARP * PACK / DEPTH;  // rows of chunks that a warp fetches at once, at most
    static constexpr int STAGE_BYTES = (RESIDENT ? LINES * LEFT_STRIDE : STAGES * STAGE) * (int)sizeof(real);
    static constexpr int PARTIAL_BYTES = TILE_ROWS * COLUMNS * (int)sizeof(acc);
    static constexpr int WARP_BYTES = STAGE_BYTES > PARTIAL_BYTES ? STAGE_BYTES : PARTIAL_BYTES;

    unsigned char* memory;  // WARPS x WARP_BYTES, then the resident weights
    const real* Wh;         // [H][GATES H], or to be transposed [H][K]
    int H;
    int K;
    int unit;  // first unit of this block

    __device__ __forceinline__ int chunks() const { return (K + DEPTH - 1) / DEPTH; }
    __device__ __forceinline__ real* weights() const { return reinterpret_cast<real*>(memory + WARPS * WARP_BYTES); }
    __device__ __forceinline__ acc* partial(int warp) const { return reinterpret_cast<acc*>(memory + warp * WARP_BYTES); }
    // the memory behind the resident weights
    __device__ __forceinline__ acc* after_weights() const {
        return reinterpret_cast<acc*>(weights() + (RESIDENT ? (long long)chunks() * RIGHT_CHUNK : 0));
    }
    // all of it, with `carried` numbers behind the weights: what launch_heuristics._shared_bytes computes for the launch
    __device__ __forceinline__ long long bytes(int carried) const {
        return reinterpret_cast<unsigned char*>(after_weights() + (RESIDENT ? carried : 0)) - memory;
    }

    // Address in Wh of a number of the right factor; null past the edge.
    __device__ __forceinline__ const real* right_at(int depth, int column) const {
        if (TRANSPOSED) return depth < K && unit + column < H ? Wh + (long long)(unit + column) * K + depth : nullptr;
        const int owned_unit = unit + column % UNITS;
        return depth < K && owned_unit < H ? Wh + ((long long)depth * GATES + column / UNITS) * H + owned_unit : nullptr;
    }

    // Copies a chunk of the right factor, by one warp.
    __device__ __forceinline__ void copy_right(real* to, int chunk) const {
        constexpr int RUN = TRANSPOSED ? DEPTH : UNITS;  // contiguous in Wh and in the chunk
        constexpr int ACROSS = TRANSPOSED ? DEPTH : COLUMNS;
        const int lane = threadIdx.x % WARP, depth = chunk * DEPTH;
        if (RUN % PACK == 0 && aligned16(Wh, H)) {
            constexpr int PACKS = DEPTH * COLUMNS / PACK;
#pragma unroll
            for (int round = 0; round < (PACKS + WARP - 1) / WARP; ++round) {
                const int element = (round * WARP + lane) * PACK;
                const int line = element / ACROSS, offset = element % ACROSS;
                if (PACKS % WARP != 0 && line >= (TRANSPOSED ? COLUMNS : DEPTH)) break;
                const real* from = TRANSPOSED ? right_at(depth + offset, line) : right_at(depth + line, offset);
                real* target = to + right_offset<COLUMNS, TRANSPOSED>(line, offset);
                copy_16_bytes(target, from == nullptr ? Wh : from, from != nullptr);
            }
        } else {
            for (int element = lane; element < DEPTH * COLUMNS; element += WARP) {
                const int line = element / ACROSS, offset = element % ACROSS;
                const real* from = TRANSPOSED ? right_at(depth + offset, line) : right_at(depth + line, offset);
                to[right_offset<COLUMNS, TRANSPOSED>(line, offset)] = from == nullptr ? to_real(acc(0)) : *from;
            }
        }
    }

    // Each warp loads the resident chunks that it will multiply, so that warps need not wait for each other. Split into
    // start and wait, so that other work overlaps with the copies.
    __device__ __forceinline__ void load_weights() const {
        for (int chunk = threadIdx.x / WARP; chunk < chunks(); chunk += WARPS)
            copy_right(weights() + chunk * RIGHT_CHUNK, chunk);
        end_copies();
    }
    __device__ __forceinline__ void wait_for_weights() const {
        wait_for_copies<0>();
#if USE_TENSOR_CORES
        round_weights();
#endif
    }

#if USE_TENSOR_CORES
    // Rounds resident float32 weights to TF32, once a launch.
    __device__ __forceinline__ void round_weights() const {
        if constexpr (sizeof(real) == 4) {
            const int lane = threadIdx.x % WARP;
            __syncwarp();  // else weights are rounded that other lanes have not copied yet
            for (int chunk = threadIdx.x / WARP; chunk < chunks(); chunk += WARPS) {
                for (int pack = lane; pack < RIGHT_CHUNK / PACK; pack += WARP) {
                    real* at = weights() + chunk * RIGHT_CHUNK + pack * PACK;
                    Pack four = load_pack(at);
#pragma unroll
                    for (int k = 0; k < PACK; ++k) {
                        const unsigned word = bounded_tf32(__float_as_uint(four.at[k]));
                        four.at[k] = __uint_as_float(TENSOR_CORES == 1 ? nearest_tf32(word) & ~0x1fffu : word);
                    }
                    store_pack(at, four);
                }
            }
        }
    }
#endif

#if RESIDENT
    // Chunks of the left factor, WARPS apart, of TILE * LANE_ROWS rows, in a warp's registers: more of them
    // where rows are fewer. Numbers past the edges are zeros.
    template <int TILE>
    struct Batch {
        // wide tiles keep more sums: half of the registers, but one chunk at least
        static constexpr int FITTING = (TILE > 4 ? LINES / 2 : LINES) / (TILE * LANE_ROWS);
        static constexpr int CHUNKS = FITTING < 1 ? 1 : FITTING;
        static constexpr int BUFFER = TILE * LANE_ROWS * LEFT_STRIDE;
        static constexpr int ACROSS = DEPTH / PACK, CHUNK = TILE * LANE_ROWS * ACROSS, PACKS = CHUNKS * CHUNK;
        static constexpr int ROUNDS = (PACKS + WARP - 1) / WARP;
        LoadedPack packs[ROUNDS];

        // Which pack of the batch a lane takes in a round: its chunk, row, and offset along the depth.
        static __device__ __forceinline__ int pack(int round) { return round * WARP + threadIdx.x % WARP; }
        static __device__ __forceinline__ int stage(int round) { return pack(round) / CHUNK; }
        static __device__ __forceinline__ int row(int round) { return pack(round) / ACROSS % (TILE * LANE_ROWS); }
        static __device__ __forceinline__ int offset(int round) { return pack(round) % ACROSS * PACK; }

        // Its source in memory.
        static __device__ __forceinline__ int depth(int round, int chunk) {
            return (chunk + stage(round) * WARPS) * DEPTH + offset(round);
        }
        static __device__ __forceinline__ const real* source(int round, int chunk, const Rows& rows) {
            return rows.base + (long long)(rows.first + row(round) * rows.stride) * rows.width + depth(round, chunk);
        }

        __device__ __forceinline__ void load(int chunk, const Rows& rows, int K) {
#pragma unroll
            for (int round = 0; round < ROUNDS; ++round) {
                packs[round] = {{0, 0, 0, 0}};
                packs[round].load(source(round, chunk, rows),
                                  pack(round) < PACKS && row(round) < rows.count && depth(round, chunk) < K);
            }
        }

        // Loads again what still holds the filler, until nothing does.
        __device__ __forceinline__ void wait(int chunk, const Rows& rows) {
            if (!rows.published) {
#if USE_TENSOR_CORES
                if (sizeof(real) == 4) {  // not published by `publish`, so that any bits are possible
#pragma unroll
                    for (int round = 0; round < ROUNDS; ++round) {
#pragma unroll
                        for (int k = 0; k < 4; ++k) packs[round].words[k] = bounded_tf32(packs[round].words[k]);
                    }
                }
#endif
                return;
            }
            for (;;) {
                bool complete = true;
#pragma unroll
                for (int round = 0; round < ROUNDS; ++round) complete = complete && packs[round].complete();
                if (complete) return;
                SPIN();
#pragma unroll
                for (int round = 0; round < ROUNDS; ++round) {
                    packs[round].load(source(round, chunk, rows), !packs[round].complete());
                }
            }
        }

        __device__ __forceinline__ void store(real* buffers) const {
#pragma unroll
            for (int round = 0; round < ROUNDS; ++round) {
                if (PACKS % WARP != 0 && pack(round) >= PACKS) break;
                real* to = buffers + stage(round) * BUFFER + row(round) * LEFT_STRIDE + offset(round);
                *reinterpret_cast<LoadedPack*>(to) = packs[round];
            }
        }
    };

    // The same number by number, for rows that do not begin at multiples of 16 bytes, or with an order or a bias.
    template <int TILE>
    __device__ __forceinline__ void fetch_singly(real* buffers, int chunk, const Rows& rows) const {
        constexpr int CHUNK = TILE * LANE_ROWS * DEPTH;
#pragma unroll 4
        for (int element = threadIdx.x % WARP; element < Batch<TILE>::CHUNKS * CHUNK; element += WARP) {
            const int stage = element / CHUNK, row = element / DEPTH % (TILE * LANE_ROWS), offset = element % DEPTH;
            const int depth = (chunk + stage * WARPS) * DEPTH + offset;
            real value = to_real(acc(0));
            if (row < rows.count && depth < K) {
                const real* from = rows.at(row) + depth;
                value = rows.published ? wait_for_number(from) : *from;
                if (rows.bias != nullptr) value = to_real(to_acc(value) + to_acc(rows.bias[depth]));
#if USE_TENSOR_CORES
                if constexpr (sizeof(real) == 4) {
                    if (!rows.published) value = __uint_as_float(bounded_tf32(__float_as_uint(value)));
                }
#endif
            }
            buffers[stage * Batch<TILE>::BUFFER + row * LEFT_STRIDE + offset] = value;
        }
    }

    template <int TILE, class WhileLoading>
    __device__ __forceinline__ void multiply_tile(const Rows& rows, WhileLoading while_loading) const {
        const int warp = threadIdx.x / WARP;
        real* buffers = reinterpret_cast<real*>(memory + warp * WARP_BYTES);
        Sums<COLUMNS, TRANSPOSED, TILE> sums;
        Batch<TILE> batch;
        sums.clear();
        if (rows.vector) batch.load(warp, rows, K);
        while_loading();
        for (int chunk = warp; chunk < chunks(); chunk += Batch<TILE>::CHUNKS * WARPS) {
            if (rows.vector) {
                batch.wait(chunk, rows);
                __syncwarp();  // else buffers are overwritten that other lanes still read
                batch.store(buffers);
            } else {
                __syncwarp();  // as above
                fetch_singly<TILE>(buffers, chunk, rows);
            }
            __syncwarp();  // else numbers are read that other lanes have not stored yet
            if (rows.vector && chunk + Batch<TILE>::CHUNKS * WARPS < chunks())
                batch.load(chunk + Batch<TILE>::CHUNKS * WARPS, rows, K);
            // past the last chunk the buffers hold zeros, and there are no resident weights
            const int count = min(Batch<TILE>::CHUNKS, (chunks() - chunk + WARPS - 1) / WARPS);
#pragma unroll UNROLLED_CHUNKS
            for (int stage = 0; stage < count; ++stage)
                sums.add(buffers + stage * Batch<TILE>::BUFFER, weights() + (chunk + stage * WARPS) * RIGHT_CHUNK);
        }
        __syncwarp();  // else partial sums overwrite factors that other lanes still read
        sums.store(partial(warp));
    }
#else
    // One warp copies a chunk of TILE * LANE_ROWS rows of the left factor.
    // Read past the multiprocessor's own cache, which may hold values from before the previous launch.
    template <int TILE>
    __device__ __forceinline__ void copy_left(real* to, int chunk, const Rows& rows) const {
        const int lane = threadIdx.x % WARP, depth = chunk * DEPTH;
        if (rows.vector) {
            constexpr int ACROSS = DEPTH / PACK, PACKS = TILE * LANE_ROWS * ACROSS;
#pragma unroll
            for (int round = 0; round < (PACKS + WARP - 1) / WARP; ++round) {
                const int element = round * WARP + lane;
                const int row = element / ACROSS, offset = element % ACROSS * PACK;
                if (PACKS % WARP != 0 && element >= PACKS) break;
                const bool in_bounds = row < rows.count && depth + offset < K;
                const real* from = in_bounds ? rows.at(row) + depth + offset : rows.base;
                copy_16_bytes(to + row * LEFT_STRIDE + offset, from, in_bounds);
            }
        } else {
            for (int element = lane; element < TILE * LANE_ROWS * DEPTH; element += WARP) {
                const int row = element / DEPTH, offset = element % DEPTH;
                real value = to_real(acc(0));
                if (row < rows.count && depth + offset < K) {
                    value = __ldcg(rows.at(row) + depth + offset);
                    if (rows.bias != nullptr) value = to_real(to_acc(value) + to_acc(rows.bias[depth + offset]));
                }
                to[row * LEFT_STRIDE + offset] = value;
            }
        }
    }

    template <int TILE>
    __device__ __forceinline__ void start(int chunk, int stage, const Rows& rows) const {
        if (chunk < chunks()) {
            real* to = reinterpret_cast<real*>(memory + threadIdx.x / WARP * WARP_BYTES) + stage * STAGE;
            copy_left<TILE>(to, chunk, rows);
            copy_right(to + LEFT_CHUNK, chunk);
        }
        end_copies();  // one batch a chunk, empty past the last one: wait_for_copies counts batches
    }

    template <int TILE, class WhileLoading>
    __device__ __forceinline__ void multiply_tile(const Rows& rows, WhileLoading while_loading) const {
        const int warp = threadIdx.x / WARP;
        Sums<COLUMNS, TRANSPOSED, TILE> sums;
        sums.clear();
        while_loading();
        for (int stage = 0; stage < STAGES; ++stage) start<TILE>(warp + stage * WARPS, stage, rows);
        int stage = 0;
        for (int chunk = warp; chunk < chunks(); chunk += WARPS) {
            wait_for_copies<STAGES - 1>();
            __syncwarp();  // else a chunk is read that other lanes' copies have not completed
            const real* left = reinterpret_cast<const real*>(memory + warp * WARP_BYTES) + stage * STAGE;
            sums.add(left, left + LEFT_CHUNK);
            __syncwarp();  // else copies overwrite a chunk that other lanes still read
            start<TILE>(chunk + STAGES * WARPS, stage, rows);
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        sums.store(partial(warp));  // the buffers are this warp's own, and it has read the last of them
    }
#endif

    // Multiplies rows.count rows, at least one; the sums can be read after the caller's barrier. It calls `while_loading`
    // between starting the first loads and waiting for them, before it writes to shared memory.
    template <class WhileLoading>
    __device__ __forceinline__ void multiply(const Rows& rows, WhileLoading while_loading) const {
#if TENSOR_CORES && !USE_TENSOR_CORES
        __trap();  // compiled for every device, launched only on those that have such instructions
#else
        if (rows.count > 4 * LANE_ROWS)
            multiply_tile<MAX_TILE>(rows, while_loading);
        else if (USE_TENSOR_CORES || rows.count > 2 * LANE_ROWS)
            multiply_tile<4>(rows, while_loading);
        else if (rows.count > LANE_ROWS)
            multiply_tile<USE_TENSOR_CORES ? 4 : 2>(rows, while_loading);
        else
            multiply_tile<USE_TENSOR_CORES ? 4 : 1>(rows, while_loading);
#endif
    }

    // One number of the product: the warps' partial sums, always added in the same order. A warp without chunks has
    // stored zeros.
    __device__ __forceinline__ acc sum(int row, int column) const {
        acc total = acc(0);
#pragma unroll (sizeof(acc) == 8 ? 2 : WARPS)
        for (int warp = 0; warp < WARPS; ++warp) total += partial(warp)[partial_offset<COLUMNS>(row, column)];
        return total;
    }
};
