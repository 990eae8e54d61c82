// The pointwise mathematics of the vanilla RNN; layout, launch and what is saved: recurrence.cuh.
//
//     h' = tanh(projected + bias + h Wh);  da = dh' (1 - h'^2)
//
// Saved: h, which is the only gate; the backward pass receives `hidden` as `gates`.
//
// One gate has a quarter of the LSTM's multiply-adds for the same rows of h, so blocks own more units and fewer rows.
// Persistent kernels:
//   shared memory   H UNITS real and the warps' buffers: for float32, H = 512, UNITS = 32 and LOADS = 8, 64 KiB + 40 KiB
//   L2 reads        a step: blocks x rows of a group x H reals, e.g. 16 x 8 blocks x 8 rows x 512 x 4 = 2 MiB, to
//                   2 x 64 x 512 x 512 = 34 MFLOP
//   bound           the latency from one step to the next: on an H100 2.4 us a step with 4 rows, 3.4 with 64

#define CELL rnn

struct Cell {
    static constexpr int GATES = 1, SAVED = 1, RECURRENT = -1;
    static constexpr bool SAVES_GATES = false, HAS_STATE = false, STATE_IS_H = false;

    template <class Preactivation>
    static __device__ __forceinline__ acc forward(const Preactivation& a, acc&, acc (&)[GATES]) {
        return hyperbolic_tangent(a(0));
    }

    static __device__ __forceinline__ void backward(const acc (&gates)[GATES], acc, acc, acc dh, acc, acc&,
                                                    acc (&da)[GATES]) {
        const acc h = gates[0];
        da[0] = dh * (acc(1) - h * h);
    }
};

#include "recurrence.cuh"
