// A warp's part of the product by the tensor cores: matrix instructions of 16 rows, 8 columns and 32 bytes of depth
// (8 terms of float32 rounded to TF32: 8 exponent and 10 mantissa bits; 16 terms of a half type, exactly), sums in
// float32. Lane 4 g + t holds, in 32-bit words (one float32 or two neighbouring halves along the depth):
//
//     a   words t, t + 4 of the depth of row g, and of row g + 8: a0 = [g][t], a1 = [g + 8][t], a2 = [g][t + 4], a3 = ...
//     b   words t, t + 4 of the depth of column g
//     c   columns 2 t, 2 t + 1 of row g, and of row g + 8
//
// (PTX ISA, "Matrix Fragments for mma.m16n8k8" and "... .m16n8k16".)
//
// A chunk's depth is PARTS parts of 16 bytes, 4 words: an instruction takes two of them. One ldmatrix loads four
// matrices of 8 lines and one part (PTX ISA, "ldmatrix": lane 4 g + t receives word t of line g), which is
//
//     left                        a0 to a3 of an instruction: rows 0 to 7 and 8 to 15 of one part, then of the next
//     right, transposed           [COLUMNS][DEPTH]: the parts of 8 columns, one after the other, then of the next 8
//     right, half types           [DEPTH][COLUMNS]: the same matrices, 8 terms by 8 columns, transposed on the way
//     right, float32              [DEPTH][COLUMNS]: not ldmatrix, which transposes halves only. A lane loads SPREAD
//                                 neighbouring columns of line t of a part at once, one for each of SPREAD instructions:
//                                 column n of instruction j is SPREAD n + j % SPREAD of their 8 SPREAD columns
//
// TENSOR_CORES 1: float32 is rounded to TF32, the right factor's numbers when they are loaded (Product::round_weights), the
// left one's here. TENSOR_CORES 2: each float32 is split into a high and a low TF32, whose sum has 22 bits of its 24. Three
// products, low high + high low + high high, leave out the low low one, 2^-22 of the whole: as precise as sums in float32.
// An infinite left number makes NaN of what would be infinite.

// A word as the matrix instructions take it.
__device__ __forceinline__ unsigned matrix_word(unsigned word) { return sizeof(real) == 4 ? nearest_tf32(word) : word; }

template <int COUNT>
struct alignas(4 * COUNT) Words {
    unsigned at[COUNT];
};

template <int COUNT>
__device__ __forceinline__ Words<COUNT> load_words(const real* address) {
    return *reinterpret_cast<const Words<COUNT>*>(address);
}

template <int COLUMNS, bool TRANSPOSED, int TILE>
struct Sums {
    static constexpr int ROW_BLOCKS = TILE * LANE_ROWS / 16;
    static constexpr int COLUMN_BLOCKS = COLUMNS / 8;
    static constexpr int PARTS = DEPTH / PACK;
    static constexpr bool BY_MATRICES = TRANSPOSED || sizeof(real) == 2;
    static constexpr int EVEN = COLUMN_BLOCKS & -COLUMN_BLOCKS;  // the greatest power of two that divides them
    static constexpr int SPREAD = BY_MATRICES ? 1 : EVEN < 4 ? EVEN : 4;

    float sums[ROW_BLOCKS][COLUMN_BLOCKS][4];

    static __device__ __forceinline__ int lane() { return threadIdx.x % WARP; }
    static __device__ __forceinline__ int group() { return threadIdx.x % WARP / 4; }
    static __device__ __forceinline__ int lane_in_group() { return threadIdx.x % 4; }

    // The column of the product that is column n of the matrix instructions for block j.
    static __device__ __forceinline__ int column(int j, int n) {
        return 8 * SPREAD * (j / SPREAD) + SPREAD * n + j % SPREAD;
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < ROW_BLOCKS; ++i) {
#pragma unroll
            for (int j = 0; j < COLUMN_BLOCKS; ++j) {
#pragma unroll
                for (int k = 0; k < 4; ++k) sums[i][j][k] = 0.0f;
            }
        }
    }

    // Loads b of the whole chunk.
    static __device__ __forceinline__ void load_right(unsigned (&b)[COLUMN_BLOCKS][PARTS], const real* right) {
        if constexpr (BY_MATRICES) {
            constexpr int MATRICES = COLUMN_BLOCKS * PARTS, COUNT = MATRICES % 4 == 0 ? 4 : 2;
#pragma unroll
            for (int first = 0; first < MATRICES; first += COUNT) {
                const int matrix = first + lane() / 8 % COUNT, block = matrix / PARTS, part = matrix % PARTS;
                const int at = TRANSPOSED ? right_offset<COLUMNS, true>(8 * block + lane() % 8, PACK * part)
                                          : right_offset<COLUMNS, false>(PACK * part + lane() % 8, 8 * block);
                unsigned words[COUNT];
                load_matrices<!TRANSPOSED>(words, right + at);
#pragma unroll
                for (int k = 0; k < COUNT; ++k) b[(first + k) / PARTS][(first + k) % PARTS] = words[k];
            }
        } else {
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
#pragma unroll
                for (int first = 0; first < COLUMN_BLOCKS; first += SPREAD) {
                    const int at = right_offset<COLUMNS, false>(PACK * part + lane_in_group(), column(first, group()));
                    const Words<SPREAD> words = load_words<SPREAD>(right + at);
#pragma unroll
                    for (int k = 0; k < SPREAD; ++k) b[first + k][part] = words.at[k];
                }
            }
        }
    }

#if TENSOR_CORES == 2
    struct Halves {
        unsigned high, low;

        __device__ __forceinline__ explicit Halves(unsigned word) {
            high = nearest_tf32(word) & ~0x1fffu;
            low = __float_as_uint(__uint_as_float(word) - __uint_as_float(high));
        }
    };

    __device__ __forceinline__ void add(const real* left, const real* right) {
        unsigned b[COLUMN_BLOCKS][PARTS];
        load_right(b, right);
#pragma unroll
        for (int part = 0; part < PARTS; part += 2) {
            unsigned high[ROW_BLOCKS][4], low[ROW_BLOCKS][4];
#pragma unroll
            for (int i = 0; i < ROW_BLOCKS; ++i) {
                unsigned a[4];
                load_matrices<false>(a, left + (16 * i + lane() % 16) * LEFT_STRIDE + PACK * (part + lane() / 16));
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const Halves halves(a[k]);
                    high[i][k] = halves.high, low[i][k] = halves.low;
                }
            }
#pragma unroll
            for (int j = 0; j < COLUMN_BLOCKS; ++j) {
                const Halves first(b[j][part]), second(b[j][part + 1]);
#pragma unroll
                for (int i = 0; i < ROW_BLOCKS; ++i) {
                    multiply_matrices(sums[i][j], low[i], first.high, second.high);
                    multiply_matrices(sums[i][j], high[i], first.low, second.low);
                    multiply_matrices(sums[i][j], high[i], first.high, second.high);
                }
            }
        }
    }
#else
    __device__ __forceinline__ void add(const real* left, const real* right) {
        unsigned b[COLUMN_BLOCKS][PARTS];
        load_right(b, right);
#pragma unroll
        for (int i = 0; i < ROW_BLOCKS; ++i) {
#pragma unroll
            for (int part = 0; part < PARTS; part += 2) {
                unsigned a[4];
                load_matrices<false>(a, left + (16 * i + lane() % 16) * LEFT_STRIDE + PACK * (part + lane() / 16));
#pragma unroll
                for (int k = 0; k < 4; ++k) a[k] = matrix_word(a[k]);
#pragma unroll
                for (int j = 0; j < COLUMN_BLOCKS; ++j) multiply_matrices(sums[i][j], a, b[j][part], b[j][part + 1]);
            }
        }
    }
#endif

    __device__ __forceinline__ void store(float* to) {
#pragma unroll
        for (int i = 0; i < ROW_BLOCKS; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = 16 * i + group() + 8 * half, k = 2 * half;
                if (SPREAD == 1) {
#pragma unroll
                    for (int j = 0; j < COLUMN_BLOCKS; ++j) {
                        const int at = partial_offset<COLUMNS>(row, column(j, 2 * lane_in_group()));
                        store_pair(to + at, sums[i][j][k], sums[i][j][k + 1]);
                    }
                } else {
#pragma unroll
                    for (int j = 0; j + 1 < COLUMN_BLOCKS; j += 2) {
#pragma unroll
                        for (int n = 0; n < 2; ++n) {
                            const int at = partial_offset<COLUMNS>(row, column(j, 2 * lane_in_group() + n));
                            store_pair(to + at, sums[i][j][k + n], sums[i][j + 1][k + n]);
                        }
                    }
                }
            }
        }
    }
};
