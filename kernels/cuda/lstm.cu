// The pointwise mathematics of the LSTM; layout, launch and what is saved: recurrence.cuh.
//
//     a = projected + bias + h Wh;  i, f, o = sigmoid(a_i, a_f, a_o);  g = tanh(a_g);  c' = f c + i g;  h' = o tanh(c')
//
//     dc'  = dc (of the next step) + dc (of the loss) + dh' o (1 - tanh(c')^2)
//     da_i = dc' g i (1 - i);  da_f = dc' c f (1 - f);  da_o = dh' tanh(c') o (1 - o);  da_g = dc' i (1 - g^2);  dc = dc' f
//
// Saved: the activated gates in the order i, f, o, g, and c. tanh(c') is computed again.
//
// Persistent kernels:
//   shared memory   4 H UNITS real (H rounded up to 16) + 8 warps of LOADS x 32 x PACK numbers, padded (or their partial
//                   sums, if larger) + rows of a group x UNITS acc: for float32, H = 512, UNITS = 8, LOADS = 8 and 64
//                   rows in 2 groups, 64 KiB + 40 KiB + 1 KiB, and the same backward.
//   L2 reads        a step: blocks x rows of a group x K reals, e.g. 128 blocks x 32 x 512 x 4 = 8 MiB forward and 32 MiB
//                   backward, to 2 x 64 x 512 x 2048 = 134 MFLOP
//   bound           measured on an H100 at H = 512, 64 rows, UNITS = 16, in clocks of a step at 1.98 GHz. Forward, float32
//                   split: 10,200, of which 2,300 until the first numbers of h are in shared memory, 5,500 for the
//                   product (plain 6,800, half types 1,250), 2,500 for sums, gates and stores. Backward 16,800, of which
//                   three times 3,200 for 32 KB more of da from the L2 cache. Estimates: capgpu.kernels.cuda.cost. Wh is
//                   read from memory once a launch, where a step at a time reads it T times.

#define CELL lstm

struct Cell {
    static constexpr int GATES = 4, SAVED = 4, RECURRENT = -1;
    static constexpr bool SAVES_GATES = true, HAS_STATE = true, STATE_IS_H = false;

    template <class Preactivation>
    static __device__ __forceinline__ acc forward(const Preactivation& a, acc& c, acc (&gates)[GATES]) {
        const acc i = sigmoid(a(0)), f = sigmoid(a(1)), o = sigmoid(a(2)), g = hyperbolic_tangent(a(3));
        gates[0] = i;
        gates[1] = f;
        gates[2] = o;
        gates[3] = g;
        c = f * c + i * g;
        return o * hyperbolic_tangent(c);
    }

    static __device__ __forceinline__ void backward(const acc (&gates)[GATES], acc c, acc c_before, acc dh, acc dc_output,
                                                    acc& dc, acc (&da)[GATES]) {
        const acc i = gates[0], f = gates[1], o = gates[2], g = gates[3], squashed = hyperbolic_tangent(c);
        dc += dc_output + dh * o * (acc(1) - squashed * squashed);
        da[0] = dc * g * i * (acc(1) - i);
        da[1] = dc * c_before * f * (acc(1) - f);
        da[2] = dh * squashed * o * (acc(1) - o);
        da[3] = dc * i * (acc(1) - g * g);
        dc *= f;
    }
};

#include "recurrence.cuh"
