// The pointwise mathematics of the GRU; layout, launch and what is saved: recurrence.cuh.
//
//     r, z = sigmoid(a_r, a_z);  q = h W_hn + b_hn;  n = tanh(a_n + r q);  h' = (1 - z) n + z h
//
// with a = projected + bias, of r and z + h Wh. In the order r, z, n the recurrent part of the third gate is q: the bias has
// a fourth part, b_hn. (Cho et al. 2014, with the reset gate behind the product, as cuDNN and PyTorch have it.)
//
//     da_z = dh' (h - n) z (1 - z);  da_n = dh' (1 - z) (1 - n^2);  da_q = da_n r;  da_r = da_n q r (1 - r);  dh = dh' z + ...
//
// The state c is h. dh' z, the part of dh beside the product, is sent from step to step as the LSTM's dc is. The product
// takes da_r, da_z, da_q; the gradient of the projected inputs has da_n in the place of da_q.
//
// Saved: r, z, n, q, and h before each row.
//
// Persistent kernels:
//   shared memory   3 H UNITS real and the warps' buffers: for float32, H = 512, UNITS = 16 and LOADS = 8, 96 KiB + 40 KiB
//   L2 reads        a step: blocks x rows of a group x K reals, e.g. 128 blocks x 16 x 512 x 4 = 4 MiB forward and 12 MiB
//                   backward, to 2 x 64 x 512 x 1536 = 101 MFLOP

#define CELL gru

struct Cell {
    static constexpr int GATES = 3, SAVED = 4, RECURRENT = 2;
    static constexpr bool SAVES_GATES = true, HAS_STATE = true, STATE_IS_H = true;

    template <class Preactivations>
    static __device__ __forceinline__ acc forward(const Preactivations& a, acc& h, acc (&gates)[SAVED]) {
        const acc r = sigmoid(a(0)), z = sigmoid(a(1)), q = a.recurrent(2);
        const acc n = hyperbolic_tangent(a.input(2) + r * q);
        gates[0] = r;
        gates[1] = z;
        gates[2] = n;
        gates[3] = q;
        h = (acc(1) - z) * n + z * h;
        return h;
    }

    static __device__ __forceinline__ void backward(const acc (&gates)[SAVED], acc h_before, acc, acc dh, acc, acc& sent,
                                                    acc (&da)[GATES + 1]) {
        const acc r = gates[0], z = gates[1], n = gates[2], q = gates[3];
        dh += sent;
        const acc da_n = dh * (acc(1) - z) * (acc(1) - n * n);
        da[0] = da_n * q * r * (acc(1) - r);
        da[1] = dh * (h_before - n) * z * (acc(1) - z);
        da[2] = da_n * r;
        da[3] = da_n;
        sent = dh * z;
    }
};

#include "recurrence.cuh"
