// A warp's part of the product by multiply-adds.
//
// Its lanes form a grid of LANE_ROWS x COLUMN_LANES x DEPTH_LANES; the last splits a chunk once more where columns are
// few. A lane keeps TILE x 4 QUADS sums: TILE rows, 8 or 4 at most and fewer as sequences end, by one or two fours of
// columns, or by three where the columns are those of three gates. Four terms at a time it loads TILE + 4 QUADS fours of numbers from shared memory, for 16 TILE QUADS
// multiply-adds: up to 128 for 12 loads. In float32 the loads are the bound: shared memory serves one of 16 bytes a lane in
// 4 clocks, 12 in 48, and a multiprocessor with 128 float32 lanes does a warp's 128 multiply-adds in 32.

struct alignas(sizeof(real) == 2 ? 8 : 16) Quad {
    real at[4];
};

__device__ __forceinline__ Quad load_quad(const real* address) { return *reinterpret_cast<const Quad*>(address); }

template <int COLUMNS, bool TRANSPOSED, int TILE>
struct Sums {
    static constexpr int QUADS = COLUMNS % 3 == 0 ? 3 : COLUMNS < 64 ? 1 : 2;
    static constexpr int COLUMN_LANES = COLUMNS / (4 * QUADS);
    static constexpr int DEPTH_LANES = WARP / (LANE_ROWS * COLUMN_LANES);
    static_assert(DEPTH_LANES >= 1 && DEPTH_LANES <= DEPTH / 4, "every lane has work along the depth of a chunk");
    static_assert(QUADS == 1 || !TRANSPOSED, "columns of a lane are COLUMN_LANES apart in transposed chunks");

    acc sums[TILE][4 * QUADS];

    static __device__ __forceinline__ int column() { return threadIdx.x % COLUMN_LANES; }
    static __device__ __forceinline__ int row() { return threadIdx.x % WARP / COLUMN_LANES % LANE_ROWS; }
    static __device__ __forceinline__ int share() { return threadIdx.x % WARP / (COLUMN_LANES * LANE_ROWS); }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < TILE; ++i) {
#pragma unroll
            for (int c = 0; c < 4 * QUADS; ++c) sums[i][c] = acc(0);
        }
    }

    // Adds the product of two chunks in shared memory.
    __device__ __forceinline__ void add(const real* left, const real* right) {
#pragma unroll
        for (int quarter = 0; quarter < DEPTH / 4 / DEPTH_LANES; ++quarter) {
            const int depth = 4 * (quarter * DEPTH_LANES + share());
            Quad a[TILE];
#pragma unroll
            for (int i = 0; i < TILE; ++i) a[i] = load_quad(left + (row() + LANE_ROWS * i) * LEFT_STRIDE + depth);
#pragma unroll
            for (int q = 0; q < QUADS; ++q) {
                Quad b[4];
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    b[j] = TRANSPOSED
                        ? load_quad(right + right_offset<COLUMNS, true>(column() + COLUMN_LANES * j, depth))
                        : load_quad(right + right_offset<COLUMNS, false>(depth + j, 4 * (column() + COLUMN_LANES * q)));
                }
#pragma unroll
                for (int j = 0; j < 4; ++j) {
#pragma unroll
                    for (int i = 0; i < TILE; ++i) {
#pragma unroll
                        for (int c = 0; c < 4; ++c) {
                            sums[i][4 * q + c] += to_acc(a[i].at[j]) * to_acc(TRANSPOSED ? b[c].at[j] : b[j].at[c]);
                        }
                    }
                }
            }
        }
    }

    // Adds up the lanes' shares of the depth and writes the sums.
    __device__ __forceinline__ void store(acc* to) {
#pragma unroll
        for (int distance = LANE_ROWS * COLUMN_LANES; distance < WARP; distance *= 2) {
#pragma unroll
            for (int i = 0; i < TILE; ++i) {
#pragma unroll
                for (int c = 0; c < 4 * QUADS; ++c) sums[i][c] += __shfl_xor_sync(ALL_LANES, sums[i][c], distance);
            }
        }
        if (share() != 0) return;
#pragma unroll
        for (int i = 0; i < TILE; ++i) {
            const int to_row = row() + LANE_ROWS * i;
            if (TRANSPOSED) {
#pragma unroll
                for (int c = 0; c < 4; ++c) to[partial_offset<COLUMNS>(to_row, column() + COLUMN_LANES * c)] = sums[i][c];
            } else {
#pragma unroll
                for (int c = 0; c < 4 * QUADS; c += 2) {
                    const int offset = 4 * (column() + COLUMN_LANES * (c / 4)) + c % 4;
                    store_pair(to + partial_offset<COLUMNS>(to_row, offset), sums[i][c], sums[i][c + 1]);
                }
            }
        }
    }
};
