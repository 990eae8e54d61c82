// A warp's part of the product by the tensor cores: matrix instructions of 16 rows, 8 columns and 32 bytes of depth
// (8 terms of float32 rounded to TF32: 8 exponent and 10 mantissa bits; 16 terms of a half type, exactly), sums in
// float32. Lane 4 g + t holds, in 32-bit words (one float32 or two neighbouring halves along the depth):
//
//     a   words t, t + 4 of the depth of row g, and of row g + 8: a0 = [g][t], a1 = [g + 8][t], a2 = [g][t + 4], a3 = ...
//     b   words t, t + 4 of the depth of column g
//     c   columns 2 t, 2 t + 1 of row g, and of row g + 8
//
// (PTX ISA, "Matrix Fragments for mma.m16n8k8" and "... .m16n8k16".)

// The word at `address`: neighbouring terms of a half type are `stride` apart.
#if defined(REAL_HALF) || defined(REAL_BFLOAT16)
__device__ __forceinline__ unsigned matrix_word(const real* address, int stride) {
    if (stride == 1) return *reinterpret_cast<const unsigned*>(address);
    return bits_of_half(address[0]) | bits_of_half(address[stride]) << 16;
}
#else
__device__ __forceinline__ unsigned matrix_word(const real* address, int) { return round_to_tf32(*address); }
#endif

template <int COLUMNS, bool TRANSPOSED, int TILE>
struct Sums {
    static constexpr int ROW_BLOCKS = TILE * LANE_ROWS / 16;
    static constexpr int COLUMN_BLOCKS = COLUMNS / 8;
    static constexpr int TERMS = 32 / (int)sizeof(real);  // of one instruction
    static constexpr int WORD = 4 / (int)sizeof(real);  // terms of a 32-bit word

    float sums[ROW_BLOCKS][COLUMN_BLOCKS][4];

    static __device__ __forceinline__ int group() { return threadIdx.x % WARP / 4; }
    static __device__ __forceinline__ int place() { return threadIdx.x % 4; }

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

    __device__ __forceinline__ void add(const real* left, const real* right) {
#pragma unroll
        for (int depth = 0; depth < DEPTH; depth += TERMS) {
            unsigned a[ROW_BLOCKS][4];
#pragma unroll
            for (int i = 0; i < ROW_BLOCKS; ++i) {
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const int row = 16 * i + group() + k % 2 * 8, term = depth + WORD * (place() + k / 2 * 4);
                    a[i][k] = matrix_word(left + row * LEFT_STRIDE + term, 1);
                }
            }
#pragma unroll
            for (int j = 0; j < COLUMN_BLOCKS; ++j) {
                unsigned b[2];
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    const int column = 8 * j + group(), term = depth + WORD * (place() + 4 * k);
                    b[k] = TRANSPOSED ? matrix_word(right + right_place<COLUMNS, true>(column, term), 1)
                                      : matrix_word(right + right_place<COLUMNS, false>(term, column), COLUMNS);
                }
#pragma unroll
                for (int i = 0; i < ROW_BLOCKS; ++i) multiply_matrices(sums[i][j], a[i], b);
            }
        }
    }

    __device__ __forceinline__ void store(float* to, int stride) {
#pragma unroll
        for (int i = 0; i < ROW_BLOCKS; ++i) {
#pragma unroll
            for (int j = 0; j < COLUMN_BLOCKS; ++j) {
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    to[(16 * i + group() + k / 2 * 8) * stride + 8 * j + 2 * place() + k % 2] = sums[i][j][k];
            }
        }
    }
};
