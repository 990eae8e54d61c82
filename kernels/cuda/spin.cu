// Work whose length the caller chooses, to keep a stream busy: later launches wait in the stream's queue while the host
// launches more.
//
//     x ^= x << 13;  x ^= x >> 17;  x ^= x << 5        (xorshift32, Marsaglia 2003)
//
// STEPS times in each of `turns` turns. Each step needs the one before, and no compiler knows a closed form, so the
// time is proportional to `turns`. One warp computes; only its 32 results are written, so that the contents of the
// caches stay as the work before has left them. Launch: 1 block of 32 threads.

#define STEPS 256

extern "C" __global__ void __launch_bounds__(32) spin(unsigned* out, int turns) {
    unsigned x = threadIdx.x + 1;  // 0 is a fixed point
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
#pragma unroll 16
        for (int step = 0; step < STEPS; ++step) {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
        }
    }
    out[threadIdx.x] = x;  // the result is used, so the loop is not removed
}
