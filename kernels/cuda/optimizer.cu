// Update rules over many parameters in one launch, and the joint norm of their gradients in two.
//
// adam       m = beta1 m + (1 - beta1) k g;  v = beta2 v + (1 - beta2) (k g)^2;
//            w' = decay w - step m / (sqrt(v) correction + epsilon)
// momentum   u = momentum u - rate k g;  w' = w + u      (without u: w' = w - rate k g)
// norm       sqrt(sum of all squares), and the factor min(1, limit / norm) of clipping
// k is the factor of all gradients: a number of the host's times, optionally, one on the device (clipping without
// waiting for the norm).
//
// Memory: each parameter is a run of elements. w and g are read, w' is written; m, v, u are read and written in place.
// m, v and u are of type ACC: in 16 bits, a mean of squares would be lost below 6e-8 (float16), or not move at all, since
// one gradient is a thousandth of it (bfloat16).
// Where all of a parameter's arrays begin at multiples of 16 bytes, 16 bytes at a time.
// Launch: a block of 256 threads takes CHUNK elements of one parameter. The parameters are passed by value as a
// structure, so that no copy to the device precedes the launch. A CUDA graph would launch with the same numbers each
// time: in a graph, the rule's numbers, which change from step to step, are read from memory on the device.
// The norm: squares are added in a fixed order, each thread's in ACC, from there on in double; one double a block
// to `partial`, then one block adds those up.

#if !defined(TENSORS) || !defined(CHUNK) || !defined(THREADS) || !defined(SETTINGS)
#error "capgpu.kernels.cuda.constants gives TENSORS, CHUNK, THREADS and SETTINGS"
#endif

struct Tensor {
    const real* w;
    const real* g;
    acc* first;    // m or u, may be null without momentum
    acc* second;   // v
    real* out;     // w'
    long long size;
    int first_block;  // the blocks of this parameter begin here
    int aligned;      // all arrays begin at multiples of 16 bytes
    acc settings[SETTINGS];
};
struct Tensors {
    Tensor at[TENSORS];
};

__device__ __forceinline__ int tensor_of_block(const Tensors& tensors, int count) {
    int k = 0;
    while (k + 1 < count && (int)blockIdx.x >= tensors.at[k + 1].first_block) ++k;
    return k;
}

// Calls `whole(j)` for each pack of this thread's share of a block's elements, or `single(j)` for each element.
template <class Whole, class Single>
__device__ __forceinline__ void for_share(const Tensor& tensor, Whole whole, Single single) {
    const long long start = (long long)(blockIdx.x - tensor.first_block) * CHUNK;
    const long long remaining = tensor.size - start;
    const int count = remaining < CHUNK ? (int)remaining : CHUNK;
    const int packs = tensor.aligned ? count / PACK : 0;
    for (int i = threadIdx.x; i < packs; i += THREADS) whole(start + (long long)i * PACK);
#pragma unroll 1  // the few elements behind the packs, or arrays that are not aligned
    for (int i = packs * PACK + threadIdx.x; i < count; i += THREADS) single(start + i);
}

// The numbers of one parameter's rule: from memory, a row for each parameter, or else from the structure.
struct Settings {
    acc at[SETTINGS];
    __device__ __forceinline__ Settings(const Tensor& t, const acc* settings, int tensor) {
#pragma unroll
        for (int i = 0; i < SETTINGS; ++i) at[i] = settings ? settings[tensor * SETTINGS + i] : t.settings[i];
    }
};

__device__ __forceinline__ void adam_element(
    const Settings& s, acc scale, real w, real g, acc& m, acc& v, real& out) {
    const acc scaled = to_acc(g) * scale;
    m = s.at[1] * m + s.at[2] * scaled;
    v = s.at[3] * v + s.at[4] * scaled * scaled;
    out = to_real(s.at[7] * to_acc(w) - s.at[0] * m / (root(v) * s.at[5] + s.at[6]));
}

extern "C" __global__ void __launch_bounds__(THREADS) adam(
    Tensors tensors, int count, acc factor, const acc* scale, const acc* settings) {
    const int tensor = tensor_of_block(tensors, count);
    const Tensor& t = tensors.at[tensor];
    const Settings s(t, settings, tensor);
    const acc k = scale ? factor * *scale : factor;
    for_share(
        t,
        [&](long long j) {
            const Pack w = load_pack(t.w + j), g = load_pack(t.g + j);
            PackOf<acc> m = load_pack(t.first + j), v = load_pack(t.second + j);
            Pack out;
#pragma unroll
            for (int p = 0; p < PACK; ++p) adam_element(s, k, w.at[p], g.at[p], m.at[p], v.at[p], out.at[p]);
            store_pack(t.first + j, m);
            store_pack(t.second + j, v);
            store_pack(t.out + j, out);
        },
        [&](long long j) { adam_element(s, k, t.w[j], t.g[j], t.first[j], t.second[j], t.out[j]); });
}

extern "C" __global__ void __launch_bounds__(THREADS) momentum(
    Tensors tensors, int count, acc factor, const acc* scale, const acc* settings) {
    const int tensor = tensor_of_block(tensors, count);
    const Tensor& t = tensors.at[tensor];
    const Settings s(t, settings, tensor);
    const acc k = scale ? factor * *scale : factor, rate = s.at[0], kept = s.at[1];
    for_share(
        t,
        [&](long long j) {
            const Pack w = load_pack(t.w + j), g = load_pack(t.g + j);
            Pack out;
            PackOf<acc> u;
            if (t.first) u = load_pack(t.first + j);
#pragma unroll
            for (int p = 0; p < PACK; ++p) {
                acc step = -rate * (to_acc(g.at[p]) * k);
                if (t.first) {
                    step += kept * u.at[p];
                    u.at[p] = step;
                }
                out.at[p] = to_real(to_acc(w.at[p]) + step);
            }
            if (t.first) store_pack(t.first + j, u);
            store_pack(t.out + j, out);
        },
        [&](long long j) {
            acc step = -rate * (to_acc(t.g[j]) * k);
            if (t.first) {
                step += kept * t.first[j];
                t.first[j] = step;
            }
            t.out[j] = to_real(to_acc(t.w[j]) + step);
        });
}

extern "C" __global__ void __launch_bounds__(THREADS) square_sums(Tensors tensors, int count, double* partial) {
    __shared__ double sums[WARP];
    const Tensor& t = tensors.at[tensor_of_block(tensors, count)];
    acc sum = acc(0);
    for_share(
        t,
        [&](long long j) {
            const Pack g = load_pack(t.g + j);
#pragma unroll
            for (int p = 0; p < PACK; ++p) sum += to_acc(g.at[p]) * to_acc(g.at[p]);
        },
        [&](long long j) { sum += to_acc(t.g[j]) * to_acc(t.g[j]); });
    const double total = block_sum((double)sum, sums);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

extern "C" __global__ void __launch_bounds__(THREADS) root_of_sum(
    const double* partial, int count, acc* norm, acc* factor, acc limit) {
    __shared__ double sums[WARP];
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += partial[i];
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) {
        const acc joint = acc(sqrt(sum));
        *norm = joint;
        *factor = joint <= limit ? acc(1) : limit / joint;  // NaN where the norm is
    }
}
