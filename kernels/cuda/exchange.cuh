// How the blocks of a group hand on their results from step to step.
//
// The rows of a batch are dealt out to groups of blocks, row r to group r % groups: sequences are independent, so only
// the blocks of a group wait for each other, and as sequences end all groups shrink alike.
//
// A number is its own announcement. The array where the results are wanted anyway is filled with a NaN that arithmetic
// never makes, all bits set, before the first step; a block stores its results over it, and a block that needs them
// loads them again and again until none is the filler. No fence and no counter stands between a store and the load that
// sees it: a step costs one way to the L2 cache and one back. That needs of the hardware that numbers of 2, 4 and 8
// bytes are stored and loaded whole, and nothing of the order among them. The loads are relaxed ones of the whole device;
// stores that nobody waits for follow behind.
//
// One barrier of the group comes after filling, before the first load that waits, so that nobody takes what an earlier
// launch has left for results. It has two halves, and the first step is computed between them.

// Rows among the first `count` that belong to a group.
__device__ __forceinline__ int owned(int count, int group, int groups) {
    return count > group ? (count - group + groups - 1) / groups : 0;
}

// --- numbers that announce themselves -------------------------------------------------------------------------------

#define FILLER ((real_bits)-1)
// The NaN that stands for all others: half of its mantissa's bits are zeros, so that rounding up cannot carry it away.
#define QUIET_NAN                                                                             \
    (sizeof(real) == 8   ? (real_bits)0x7ff8000000000000ull                                   \
     : sizeof(real) == 4 ? (real_bits)0x7fc00000u                                             \
                         : (real_bits)0x7fe0u)

// A number as it is handed on: any NaN becomes that one, which is not the filler.
__device__ __forceinline__ void announce(real* address, real value) {
    store_relaxed(reinterpret_cast<real_bits*>(address), to_acc(value) != to_acc(value) ? QUIET_NAN : to_bits(value));
}

// Waits for one number.
__device__ __forceinline__ real awaited(const real* address) {
    real_bits bits;
    while ((bits = load_relaxed(reinterpret_cast<const real_bits*>(address))) == FILLER) SPIN();
    real value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// 16 bytes as they were loaded, some of their numbers perhaps not there yet.
struct alignas(16) Loaded {
    unsigned words[4];

    __device__ __forceinline__ void load(const real* from, bool wanted) {
        load_16_bytes_relaxed(words, reinterpret_cast<const real_bits*>(from), wanted);
    }
    __device__ __forceinline__ bool complete() const {
        bool all = true;
        if (sizeof(real) == 8) {
            all = (words[0] & words[1]) != ~0u && (words[2] & words[3]) != ~0u;
        } else {
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                if (sizeof(real) == 4)
                    all = all && words[k] != ~0u;
                else
                    all = all && words[k] < 0xffff0000u && (words[k] & 0xffffu) != 0xffffu;
            }
        }
        return all;
    }
};

// --- the barrier of a group -----------------------------------------------------------------------------------------

// The barrier needs no reset and no base: the group's first block adds what flips the highest bit once all others have
// added 1, which leaves the bits below at zero. The counter starts at zero when it is allocated.
__device__ __forceinline__ unsigned group_arrive(unsigned* counter, bool leader, int blocks) {
    __syncthreads();  // this block's results come before its arrival
    unsigned before = 0;
    if (threadIdx.x == 0) {
        __threadfence();
        before = fetch_add_release(counter, leader ? 0x80000000u - (unsigned)(blocks - 1) : 1u);
    }
    return before;  // for group_wait, in thread 0
}

__device__ __forceinline__ void group_wait(unsigned* counter, unsigned before) {
    REQUIRE_COOPERATIVE();
    if (threadIdx.x == 0) {
        while (((load_acquire(counter) ^ before) & 0x80000000u) == 0) SPIN();
        __threadfence();
    }
    __syncthreads();  // no thread goes on before all blocks of the group have arrived
}
