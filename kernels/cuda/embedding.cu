// Rows gathered from a table, and sums of rows: the embedding, its gradient, the gradients of biases.
//
// gather_rows     out[m] = table[index[m]]
// scatter_rows    out[index[m]] = rows[m], and zeros in all other rows, for indices that rise
// add_rows        out[index[m]] += rows[m], for indices that are distinct: no two warps write one row, so that neither
//                 atomics nor an order are needed
// add_bias        out[m] += bias
// segment_sums    out[k] = sum of rows[order[i]] over the i in the segment of k, zero where it has none. The rows of a
//                 segment stand together in `order`: those that belong to the same k, in the order they came.
// column_sums     out = sum of rows[first..last), for slices of several matrices at once; sums of slices are of type ACC
//
// Memory: all matrices row-major without gaps, but for those of column_sums, whose rows may be parts of longer ones; 16 bytes at a time where rows begin at multiples of 16 bytes.
// Launch: blocks of 8 warps; of the sums 4 to a multiprocessor, since for 8 the compiler would spill registers on some
// architectures. A block of the sums has a tile of 32 PACK columns; warp w adds every 8th row of its
// segment or slice from the w-th on, then the 8 sums are added in order: a fixed order, no atomics.
// A sum over many rows takes two launches of column_sums, the second over the sums of the first.

#if !defined(WARPS) || !defined(MATRICES)
#error "capgpu.kernels.cuda.constants gives WARPS and MATRICES"
#endif
#define TILE (WARP * PACK)

__device__ __forceinline__ void store_sum(acc* out, acc sum) { *out = sum; }
#if defined(REAL_HALF) || defined(REAL_BFLOAT16)
__device__ __forceinline__ void store_sum(real* out, acc sum) { *out = to_real(sum); }
#endif

// Adds rows[order[i]] for i in [first, last) and columns [column, column + TILE), and stores the sums: all threads of
// the block. `order` is null for rows that stand in order; rows begin `stride` numbers apart.
template <class In, class Out>
__device__ __forceinline__ void sum_rows(
    const In* rows, const int* order, int first, int last, int width, int stride, int column, Out* out, acc* sums) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    // sums beside a half type, and rows with gaps, can begin at multiples of 16 bytes without being whole packs
    const bool packed = aligned16(rows, stride) && width % PACK == 0;
    acc sum[PACK];
#pragma unroll
    for (int p = 0; p < PACK; ++p) sum[p] = acc(0);
#pragma unroll 4
    for (int i = first + warp; i < last; i += WARPS) {
        const In* row = rows + (long long)(order ? order[i] : i) * stride;
        if (packed) {
            const int j = column + lane * PACK;
            if (j < width) {
                const PackOf<In> values = load_pack(row + j);
#pragma unroll
                for (int p = 0; p < PACK; ++p) sum[p] += to_acc(values.at[p]);
            }
        } else {
#pragma unroll
            for (int p = 0; p < PACK; ++p) {
                const int j = column + p * WARP + lane;
                if (j < width) sum[p] += to_acc(row[j]);
            }
        }
    }
    // a lane's columns are neighbours in packs, and 32 apart without
#pragma unroll
    for (int p = 0; p < PACK; ++p) sums[warp * TILE + (packed ? lane * PACK + p : p * WARP + lane)] = sum[p];
    __syncthreads();  // else partial sums are added that other warps have not written yet
    for (int j = threadIdx.x; j < TILE && column + j < width; j += WARPS * WARP) {
        acc total = sums[j];
#pragma unroll
        for (int w = 1; w < WARPS; ++w) total += sums[w * TILE + j];
        store_sum(out + column + j, total);
    }
}

// A warp a row.
extern "C" __global__ void __launch_bounds__(WARPS * WARP) gather_rows(
    const real* table,  // [*, width]
    const int* index,   // [M]
    real* out,          // [M, width]
    int M, int width) {
    const int m = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (m >= M) return;
    const real* source = table + (long long)index[m] * width;
    real* target = out + (long long)m * width;
    if (aligned16(table, width) && aligned16(out, width)) {
        for (int j = lane * PACK; j < width; j += TILE) store_pack(target + j, load_pack(source + j));
    } else {
        for (int j = lane; j < width; j += WARP) target[j] = source[j];
    }
}

// The first place i in [0, count) whose key is at least `key`, or count. Keys rise with i: index[order[i]], or index[i]
// where `order` is null.
__device__ __forceinline__ int lower_bound(const int* index, const int* order, int count, int key) {
    int low = 0, high = count;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (index[order ? order[middle] : middle] < key) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// A warp a row of `out`, which looks for its row: one launch, where zeros beforehand would take another.
extern "C" __global__ void __launch_bounds__(WARPS * WARP) scatter_rows(
    const real* rows,  // [M, width]
    const int* index,  // [M] rising
    real* out,         // [count, width]
    int M, int count, int width) {
    const int k = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (k >= count) return;
    const int m = lower_bound(index, nullptr, M, k);
    const bool is_source = m < M && index[m] == k;
    const real* source = rows + (long long)m * width;  // read only if is_source
    real* target = out + (long long)k * width;
    if (aligned16(rows, width) && aligned16(out, width)) {
        Pack zeros;
#pragma unroll
        for (int p = 0; p < PACK; ++p) zeros.at[p] = to_real(acc(0));
        for (int j = lane * PACK; j < width; j += TILE) store_pack(target + j, is_source ? load_pack(source + j) : zeros);
    } else {
        for (int j = lane; j < width; j += WARP) target[j] = is_source ? source[j] : to_real(acc(0));
    }
}

// A warp a row of `rows`. Rows of `out` that are in no index are not touched.
extern "C" __global__ void __launch_bounds__(WARPS * WARP) add_rows(
    const real* rows,  // [M, width]
    const int* index,  // [M] distinct
    real* out,         // [*, width]
    int M, int width) {
    const int m = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (m >= M) return;
    const real* source = rows + (long long)m * width;
    real* target = out + (long long)index[m] * width;
    if (aligned16(rows, width) && aligned16(out, width)) {
        for (int j = lane * PACK; j < width; j += TILE) {
            Pack values = load_pack(source + j);
            const Pack before = load_pack(target + j);
#pragma unroll
            for (int p = 0; p < PACK; ++p) values.at[p] = to_real(to_acc(before.at[p]) + to_acc(values.at[p]));
            store_pack(target + j, values);
        }
    } else {
        for (int j = lane; j < width; j += WARP) target[j] = to_real(to_acc(target[j]) + to_acc(source[j]));
    }
}

// A warp a row.
extern "C" __global__ void __launch_bounds__(WARPS * WARP) add_bias(
    const real* bias,  // [width]
    real* out,         // [M, width]
    int M, int width) {
    const int m = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (m >= M) return;
    real* target = out + (long long)m * width;
    if (aligned16(bias, 0) && aligned16(out, width)) {
        for (int j = lane * PACK; j < width; j += TILE) {
            Pack sums = load_pack(target + j);
            const Pack added = load_pack(bias + j);
#pragma unroll
            for (int p = 0; p < PACK; ++p) sums.at[p] = to_real(to_acc(sums.at[p]) + to_acc(added.at[p]));
            store_pack(target + j, sums);
        }
    } else {
        for (int j = lane; j < width; j += WARP) target[j] = to_real(to_acc(target[j]) + to_acc(bias[j]));
    }
}

// A block a tile of a row of the result; tiles of a row stand together.
extern "C" __global__ void __launch_bounds__(WARPS * WARP, 4) segment_sums(
    const real* rows,   // [M, width]
    const int* index,   // [M] the k of each row
    const int* order,   // [M] rows by rising k
    const int* starts,  // [count + 1] where each k's segment begins in order, or null: then it is looked for
    real* out,          // [count, width]
    int M, int width) {
    __shared__ acc sums[WARPS * TILE];
    const int tiles = (width + TILE - 1) / TILE, k = blockIdx.x / tiles, column = blockIdx.x % tiles * TILE;
    const int first = starts ? starts[k] : lower_bound(index, order, M, k);
    const int last = starts ? starts[k + 1] : lower_bound(index, order, M, k + 1);
    sum_rows(rows, order, first, last, width, width, column, out + (long long)k * width, sums);
}

// One matrix of a launch of column_sums.
struct Columns {
    const void* rows;  // [M, width], which begin `stride` numbers apart
    void* out;         // [slices, width]
    int M, width;
    int slice;         // rows of a slice
    int first_block;   // the blocks of this matrix begin here
    int of_sums;       // rows are sums of slices, of type ACC; else REAL
    int to_sums;       // out becomes sums of slices, of type ACC; else REAL
    int stride;
};
struct ColumnsList {
    Columns at[MATRICES];
};

// A block a tile of a slice of a matrix.
extern "C" __global__ void __launch_bounds__(WARPS * WARP, 4) column_sums(ColumnsList matrices, int count) {
    __shared__ acc sums[WARPS * TILE];
    int k = 0;
    while (k + 1 < count && (int)blockIdx.x >= matrices.at[k + 1].first_block) ++k;
    const Columns& matrix = matrices.at[k];
    const int width = matrix.width, tiles = (width + TILE - 1) / TILE, block = blockIdx.x - matrix.first_block;
    const int slice = block / tiles, first = slice * matrix.slice;
    const int last = matrix.M - first < matrix.slice ? matrix.M : first + matrix.slice;
    const int column = block % tiles * TILE;
    const long long offset = (long long)slice * width;
    const real* rows = static_cast<const real*>(matrix.rows);
    real* out = static_cast<real*>(matrix.out);
    const bool half = sizeof(real) < sizeof(acc);  // otherwise both types are one, and so are the three calls
    if (half && matrix.of_sums) {
        sum_rows(static_cast<const acc*>(matrix.rows), nullptr, first, last, width, matrix.stride, column, out + offset, sums);
    } else if (half && matrix.to_sums) {
        sum_rows(rows, nullptr, first, last, width, matrix.stride, column,
                 static_cast<acc*>(matrix.out) + offset, sums);
    } else {
        sum_rows(rows, nullptr, first, last, width, matrix.stride, column, out + offset, sums);
    }
}
