// What the recurrences share: the product of a step.
//
//     sums [rows of a tile][COLUMNS] = left [rows of a tile][K] . right [K][COLUMNS of this block]
//
// Work. A block owns UNITS hidden units: COLUMNS = 4 UNITS in the LSTM's forward pass (all gates of its units), else
// UNITS. It takes TILE_ROWS rows of the batch at once. There are few columns and many multiplications along K, so the
// warps of a block split K, not the tile: warp w takes the chunks w, w + WARPS, ... of DEPTH terms, and needs nothing
// of the other warps until the end. No barrier of the block stands in the loop, each element of `left` is fetched once
// a block, and the warps' partial sums are added in a fixed order by the threads that go on with them.
//
// Registers. What a lane keeps of the sums is the business of simt_mma.cuh (multiply-adds) or, with TENSOR_CORES, of
// tensor_core_mma.cuh (matrix instructions).
//
// Shared memory. Each warp has buffers for some left chunks; afterwards its partial sums lie there.
//   RESIDENT 1   (persistent tier) The right factor is a slab of all its chunks, loaded once a launch. The left one is
//                what other blocks compute meanwhile (exchange.cuh): a warp loads several chunks into registers, all at
//                once, since each way to the L2 cache costs as much as multiplying them; again what is not there yet;
//                then puts them into its buffers, and loads the next ones while it multiplies these.
//   RESIDENT 0   (one launch a step) Both factors are copied chunk by chunk into STAGES buffers (cp.async; plain loads
//                before sm_80) while the warp multiplies the chunk before.
// A chunk of the left factor is [row][DEPTH + PACK]: the padding spreads rows over the banks. A chunk of the right one
// is [DEPTH][COLUMNS], or, for the transposed weights of the backward pass, [COLUMNS][DEPTH], so that both are read along
// contiguous memory of Wh; the numbers of a line are permuted by its number (`right_place`: no bank conflicts, no padding),
// 16 bytes at a time at least. The partial sums of a warp are [row][COLUMNS], permuted likewise (`partial_place`). Numbers
// past the edge of a matrix are zeros in shared memory. tests/kernels/cuda/test_banks.py counts the bank conflicts of
// every load and store of these.

// Asked for by TENSOR_CORES; before sm_80 there are no such instructions.
#if TENSOR_CORES && (defined(CAPGPU_EMULATED) || __CUDA_ARCH__ >= 800)
#define FRAGMENTS 1
#else
#define FRAGMENTS 0
#endif

#if !defined(DEPTH) || !defined(LANE_ROWS) || !defined(WARPS) || !defined(TILE_ROWS) || !defined(STAGES) || \
    !defined(LOADS) || !defined(COUNTER_STRIDE)
#error "capgpu.kernels.cuda.constants gives DEPTH, LANE_ROWS, WARPS, TILE_ROWS, STAGES, LOADS, COUNTER_STRIDE"
#endif
#define MOST_TILE (TILE_ROWS / LANE_ROWS)
#define THREADS (WARPS * WARP)
static_assert(MOST_TILE == 8 || MOST_TILE == 4, "Product::multiply has a case for each number of rows of a lane");

// (row, unit) pairs of a tile that one thread turns from sums into states: its unit is always the same.
#define PAIRS (TILE_ROWS * UNITS > THREADS ? TILE_ROWS * UNITS / THREADS : 1)

#define LEFT_STRIDE (DEPTH + PACK)

// Matrix instructions have little to do in a chunk: several are computed side by side.
#define UNROLLED_CHUNKS (FRAGMENTS ? 4 : 1)

// Where the element `place` of a line of a right chunk lies. Transposed, fours of neighbouring lines are put into
// different banks; in half precision 16 bytes are two fours, which stay together. Otherwise a line is a row of the
// product's columns: multiply-adds read one line at a time, matrix instructions 4 (float32) or 8 (half types) lines at
// once, whose blocks of 8 columns are put into different banks; LINES of them lie in 128 bytes, all banks once.
template <int COLUMNS, bool TRANSPOSED>
__device__ __forceinline__ int right_place(int line, int place) {
    if (TRANSPOSED) {
        const int turn = sizeof(real) == 8 ? line % 4 : sizeof(real) == 4 ? line / 2 % 4 : line / 4 % 2 * 2;
        return line * DEPTH + (place ^ (4 * turn));
    }
#if FRAGMENTS
    constexpr int LINE_BYTES = COLUMNS * (int)sizeof(real), LINES = LINE_BYTES < 128 ? 128 / LINE_BYTES : 1;
    constexpr int AT_ONCE = 16 / (int)sizeof(real), BLOCKS = COLUMNS / 8 < AT_ONCE ? COLUMNS / 8 : AT_ONCE;
    place ^= 8 * (line / LINES % BLOCKS);
#endif
    return line * COLUMNS + place;
}

// Where a warp's partial sum lies. Pairs of neighbouring columns stay together: they are written 8 bytes (of double, 16)
// at a time, by lanes of 4 rows; a warp that adds them up reads WARP / UNITS rows of UNITS columns.
template <int COLUMNS>
__device__ __forceinline__ int partial_place(int row, int column) {
    const int turn = COLUMNS >= 32 ? row % 2 * 18 + row / 2 % 2 * 12 : COLUMNS == 16 ? row / 2 % 2 * 10 + row / 4 % 2 * 4 : 0;
    return row * COLUMNS + (column ^ turn);
}

struct alignas(2 * sizeof(acc)) Pair {
    acc at[2];
};

__device__ __forceinline__ void store_pair(acc* address, acc first, acc second) {
    *reinterpret_cast<Pair*>(address) = {{first, second}};
}

// Sums<COLUMNS, TRANSPOSED, TILE>: a warp's registers, for TILE * LANE_ROWS rows.
#if FRAGMENTS
#include "tensor_core_mma.cuh"
#else
#include "simt_mma.cuh"
#endif
#include "exchange.cuh"

// Rows of a matrix [.][width]: first, first + stride, ...; where `order` is given, it is looked up there which row is
// meant. What is added to a row, if anything, is in `bias` [width].
struct Rows {
    const real* base;
    const int* order;
    const real* bias;
    int width;
    int first;
    int stride;
    int count;
    bool vector;   // every row begins at a multiple of 16 bytes, none is to be looked up, and nothing is to be added
    bool awaited;  // other blocks announce the numbers (exchange.cuh)

    __device__ __forceinline__ Rows(const real* base, const int* order, const real* bias, int width, int first, int stride,
                                    bool awaited)
        : base(base), order(order), bias(bias), width(width), first(first), stride(stride), count(0),
          vector(bias == nullptr && order == nullptr && aligned16(base, width)), awaited(awaited) {}

    // The tile that begins `skipped` rows on, where there are `all` rows in all.
    __device__ __forceinline__ Rows tile(int skipped, int all) const {
        Rows part = *this;
        part.first = first + skipped * stride;
        part.count = max(0, min(TILE_ROWS, all - skipped));
        return part;
    }

    __device__ __forceinline__ const real* at(int row) const {
        const int place = first + row * stride;
        return base + (long long)(order == nullptr ? place : order[place]) * width;
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

    unsigned char* memory;  // WARPS x WARP_BYTES, then the slab
    const real* Wh;         // [H][GATES H], or where it is to be transposed [H][K]
    int H;
    int K;
    int unit;  // first unit of this block

    __device__ __forceinline__ int chunks() const { return (K + DEPTH - 1) / DEPTH; }
    __device__ __forceinline__ real* slab() const { return reinterpret_cast<real*>(memory + WARPS * WARP_BYTES); }
    __device__ __forceinline__ acc* partial(int warp) const { return reinterpret_cast<acc*>(memory + warp * WARP_BYTES); }
    // what follows the slab
    __device__ __forceinline__ acc* rest() const {
        return reinterpret_cast<acc*>(slab() + (RESIDENT ? (long long)chunks() * RIGHT_CHUNK : 0));
    }
    // all of it, with `kept` numbers behind the slab: what tiers._shared_bytes computes for the launch
    __device__ __forceinline__ long long bytes(int kept) const {
        return reinterpret_cast<unsigned char*>(rest() + (RESIDENT ? kept : 0)) - memory;
    }

    // Where a number of the right factor's chunk lies in Wh; no address past the edge.
    __device__ __forceinline__ const real* right_at(int depth, int column) const {
        if (TRANSPOSED) return depth < K && unit + column < H ? Wh + (long long)(unit + column) * K + depth : nullptr;
        const int own = unit + column % UNITS;
        return depth < K && own < H ? Wh + ((long long)depth * GATES + column / UNITS) * H + own : nullptr;
    }

    // One warp's share of copying a chunk of the right factor.
    __device__ __forceinline__ void copy_right(real* to, int chunk) const {
        constexpr int RUN = TRANSPOSED ? DEPTH : UNITS;  // contiguous in Wh and in the chunk
        constexpr int ACROSS = TRANSPOSED ? DEPTH : COLUMNS;
        const int lane = threadIdx.x % WARP, depth = chunk * DEPTH;
        if (RUN % PACK == 0 && aligned16(Wh, H)) {
            constexpr int PACKS = DEPTH * COLUMNS / PACK;
#pragma unroll
            for (int round = 0; round < (PACKS + WARP - 1) / WARP; ++round) {
                const int element = (round * WARP + lane) * PACK;
                const int line = element / ACROSS, place = element % ACROSS;
                if (PACKS % WARP != 0 && line >= (TRANSPOSED ? COLUMNS : DEPTH)) break;
                const real* from = TRANSPOSED ? right_at(depth + place, line) : right_at(depth + line, place);
                copy_16_bytes(to + right_place<COLUMNS, TRANSPOSED>(line, place), from == nullptr ? Wh : from, from != nullptr);
            }
        } else {
            for (int element = lane; element < DEPTH * COLUMNS; element += WARP) {
                const int line = element / ACROSS, place = element % ACROSS;
                const real* from = TRANSPOSED ? right_at(depth + place, line) : right_at(depth + line, place);
                to[right_place<COLUMNS, TRANSPOSED>(line, place)] = from == nullptr ? to_real(acc(0)) : *from;
            }
        }
    }

    // Each warp loads the chunks of the slab that it will multiply, so that no other warp has to wait for it. In two
    // halves, so that something else is done meanwhile.
    __device__ __forceinline__ void load_slab() const {
        for (int chunk = threadIdx.x / WARP; chunk < chunks(); chunk += WARPS) copy_right(slab() + chunk * RIGHT_CHUNK, chunk);
        end_copies();
    }
    __device__ __forceinline__ void await_slab() const {
        wait_for_copies<0>();
#if FRAGMENTS
        prepare_slab();
#endif
    }

#if FRAGMENTS
    // Makes of the weights what the matrix instructions take, once a launch; those of half types are it.
    __device__ __forceinline__ void prepare_slab() const {
        if constexpr (sizeof(real) == 4) {
            const int lane = threadIdx.x % WARP;
            __syncwarp();  // the chunks are there, whichever lane has copied what
            for (int chunk = threadIdx.x / WARP; chunk < chunks(); chunk += WARPS) {
                for (int pack = lane; pack < RIGHT_CHUNK / PACK; pack += WARP) {
                    real* place = slab() + chunk * RIGHT_CHUNK + pack * PACK;
                    Pack four = load_pack(place);
#pragma unroll
                    for (int k = 0; k < PACK; ++k) {
                        const unsigned word = sane(__float_as_uint(four.at[k]));
                        four.at[k] = __uint_as_float(TENSOR_CORES == 1 ? nearest_tf32(word) & ~0x1fffu : word);
                    }
                    store_pack(place, four);
                }
            }
        }
    }
#endif

#if RESIDENT
    // Chunks of the left factor, WARPS apart, of TILE * LANE_ROWS rows, on their way through a warp's registers: more of
    // them where rows are fewer. Numbers past the edges are zeros.
    template <int TILE>
    struct Batch {
        // wide tiles keep more sums: half of the registers, but one chunk at least
        static constexpr int FITTING = (TILE > 4 ? LINES / 2 : LINES) / (TILE * LANE_ROWS);
        static constexpr int CHUNKS = FITTING < 1 ? 1 : FITTING;
        static constexpr int BUFFER = TILE * LANE_ROWS * LEFT_STRIDE;
        static constexpr int ACROSS = DEPTH / PACK, CHUNK = TILE * LANE_ROWS * ACROSS, PACKS = CHUNKS * CHUNK;
        static constexpr int ROUNDS = (PACKS + WARP - 1) / WARP;
        Loaded packs[ROUNDS];

        // Which pack of the batch a lane takes in a round: its chunk, row, and place along the depth.
        static __device__ __forceinline__ int pack(int round) { return round * WARP + threadIdx.x % WARP; }
        static __device__ __forceinline__ int stage(int round) { return pack(round) / CHUNK; }
        static __device__ __forceinline__ int row(int round) { return pack(round) / ACROSS % (TILE * LANE_ROWS); }
        static __device__ __forceinline__ int place(int round) { return pack(round) % ACROSS * PACK; }

        // Where it comes from.
        static __device__ __forceinline__ int depth(int round, int chunk) {
            return (chunk + stage(round) * WARPS) * DEPTH + place(round);
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

        // Loads again what was not there, until it is.
        __device__ __forceinline__ void await(int chunk, const Rows& rows) {
            if (!rows.awaited) {
#if FRAGMENTS
                if (sizeof(real) == 4) {  // nobody has announced them, so that they may hold anything
#pragma unroll
                    for (int round = 0; round < ROUNDS; ++round) {
#pragma unroll
                        for (int k = 0; k < 4; ++k) packs[round].words[k] = sane(packs[round].words[k]);
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
                real* to = buffers + stage(round) * BUFFER + row(round) * LEFT_STRIDE + place(round);
                *reinterpret_cast<Loaded*>(to) = packs[round];
            }
        }
    };

    // The same number by number, where rows do not begin at multiples of 16 bytes, are looked up, or have something added.
    template <int TILE>
    __device__ __forceinline__ void fetch_singly(real* buffers, int chunk, const Rows& rows) const {
        constexpr int CHUNK = TILE * LANE_ROWS * DEPTH;
#pragma unroll 4
        for (int element = threadIdx.x % WARP; element < Batch<TILE>::CHUNKS * CHUNK; element += WARP) {
            const int stage = element / CHUNK, row = element / DEPTH % (TILE * LANE_ROWS), place = element % DEPTH;
            const int depth = (chunk + stage * WARPS) * DEPTH + place;
            real value = to_real(acc(0));
            if (row < rows.count && depth < K) {
                const real* from = rows.at(row) + depth;
                value = rows.awaited ? awaited(from) : *from;
                if (rows.bias != nullptr) value = to_real(to_acc(value) + to_acc(rows.bias[depth]));
#if FRAGMENTS
                if constexpr (sizeof(real) == 4) {
                    if (!rows.awaited) value = __uint_as_float(sane(__float_as_uint(value)));
                }
#endif
            }
            buffers[stage * Batch<TILE>::BUFFER + row * LEFT_STRIDE + place] = value;
        }
    }

    template <int TILE, class Meanwhile>
    __device__ __forceinline__ void multiply_tile(const Rows& rows, Meanwhile meanwhile) const {
        const int warp = threadIdx.x / WARP;
        real* buffers = reinterpret_cast<real*>(memory + warp * WARP_BYTES);
        Sums<COLUMNS, TRANSPOSED, TILE> sums;
        Batch<TILE> batch;
        sums.clear();
        if (rows.vector) batch.load(warp, rows, K);
        meanwhile();
        for (int chunk = warp; chunk < chunks(); chunk += Batch<TILE>::CHUNKS * WARPS) {
            if (rows.vector) {
                batch.await(chunk, rows);
                __syncwarp();  // all lanes have read the buffers before they are overwritten
                batch.store(buffers);
            } else {
                __syncwarp();  // likewise
                fetch_singly<TILE>(buffers, chunk, rows);
            }
            __syncwarp();  // what every lane has fetched is there
            if (rows.vector && chunk + Batch<TILE>::CHUNKS * WARPS < chunks())
                batch.load(chunk + Batch<TILE>::CHUNKS * WARPS, rows, K);
            // past the last chunk the buffers hold zeros, and there is no slab
            const int count = min(Batch<TILE>::CHUNKS, (chunks() - chunk + WARPS - 1) / WARPS);
#pragma unroll UNROLLED_CHUNKS
            for (int stage = 0; stage < count; ++stage)
                sums.add(buffers + stage * Batch<TILE>::BUFFER, slab() + (chunk + stage * WARPS) * RIGHT_CHUNK);
        }
        __syncwarp();  // all lanes have read the buffers before the sums take their place
        sums.store(partial(warp));
    }
#else
    // One warp copies a chunk of TILE * LANE_ROWS rows of the left factor.
    // Other launches have written them a moment ago: they are read past the multiprocessor's own cache.
    template <int TILE>
    __device__ __forceinline__ void copy_left(real* to, int chunk, const Rows& rows) const {
        const int lane = threadIdx.x % WARP, depth = chunk * DEPTH;
        if (rows.vector) {
            constexpr int ACROSS = DEPTH / PACK, PACKS = TILE * LANE_ROWS * ACROSS;
#pragma unroll
            for (int round = 0; round < (PACKS + WARP - 1) / WARP; ++round) {
                const int element = round * WARP + lane;
                const int row = element / ACROSS, place = element % ACROSS * PACK;
                if (PACKS % WARP != 0 && element >= PACKS) break;
                const bool there = row < rows.count && depth + place < K;
                const real* from = there ? rows.at(row) + depth + place : rows.base;
                copy_16_bytes(to + row * LEFT_STRIDE + place, from, there);
            }
        } else {
            for (int element = lane; element < TILE * LANE_ROWS * DEPTH; element += WARP) {
                const int row = element / DEPTH, place = element % DEPTH;
                real value = to_real(acc(0));
                if (row < rows.count && depth + place < K) {
                    value = __ldcg(rows.at(row) + depth + place);
                    if (rows.bias != nullptr) value = to_real(to_acc(value) + to_acc(rows.bias[depth + place]));
                }
                to[row * LEFT_STRIDE + place] = value;
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
        end_copies();  // a batch a chunk, empty past the last one: what is waited for is counted in batches
    }

    template <int TILE, class Meanwhile>
    __device__ __forceinline__ void multiply_tile(const Rows& rows, Meanwhile meanwhile) const {
        const int warp = threadIdx.x / WARP;
        Sums<COLUMNS, TRANSPOSED, TILE> sums;
        sums.clear();
        meanwhile();
        for (int stage = 0; stage < STAGES; ++stage) start<TILE>(warp + stage * WARPS, stage, rows);
        int stage = 0;
        for (int chunk = warp; chunk < chunks(); chunk += WARPS) {
            wait_for_copies<STAGES - 1>();
            __syncwarp();  // every lane's copies of this chunk have arrived
            const real* left = reinterpret_cast<const real*>(memory + warp * WARP_BYTES) + stage * STAGE;
            sums.add(left, left + LEFT_CHUNK);
            __syncwarp();  // all lanes have read this buffer before copies overwrite it
            start<TILE>(chunk + STAGES * WARPS, stage, rows);
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        sums.store(partial(warp));  // the buffers are this warp's own, and it has read the last of them
    }
#endif

    // Multiplies rows.count rows, at least one; the sums are there after the caller's barrier. Between asking for the first
    // numbers and waiting for them, before it writes to shared memory, it calls `meanwhile`.
    template <class Meanwhile>
    __device__ __forceinline__ void multiply(const Rows& rows, Meanwhile meanwhile) const {
#if TENSOR_CORES && !FRAGMENTS
        __trap();  // compiled for every device, launched on those that have such instructions
#else
        if (rows.count > 4 * LANE_ROWS)
            multiply_tile<MOST_TILE>(rows, meanwhile);
        else if (FRAGMENTS || rows.count > 2 * LANE_ROWS)
            multiply_tile<4>(rows, meanwhile);
        else if (rows.count > LANE_ROWS)
            multiply_tile<FRAGMENTS ? 4 : 2>(rows, meanwhile);
        else
            multiply_tile<FRAGMENTS ? 4 : 1>(rows, meanwhile);
#endif
    }

    // One number of the product: the warps' shares, always added in the same order. A warp without chunks has stored zeros.
    __device__ __forceinline__ acc sum(int row, int column) const {
        acc total = acc(0);
#pragma unroll (sizeof(acc) == 8 ? 2 : WARPS)
        for (int warp = 0; warp < WARPS; ++warp) total += partial(warp)[partial_place<COLUMNS>(row, column)];
        return total;
    }
};
