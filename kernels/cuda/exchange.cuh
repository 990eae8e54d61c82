// Exchange of results between the blocks of a group from step to step.
//
// The rows of a batch are distributed over groups of blocks, row r to group r % groups: sequences are independent, so only
// the blocks of a group wait for each other, and as sequences end the groups stay balanced.
//
// The data are their own ready flags. Before the first step the output array is filled with a NaN that arithmetic never
// produces, all bits set; a block stores its results over it, and a block that needs them loads them repeatedly until
// none is the filler. There is no fence and no counter between a store and the load that sees it: a step costs one way to
// the L2 cache and one back. It requires that stores and loads of 2, 4 and 8 bytes are not torn, and no order among them.
// The loads are relaxed, at device scope.
//
// One barrier of the group follows the filling and precedes the first load that waits; without it, results of an earlier
// launch in the same memory would be taken for this one's. It is split into arrival and wait, and the first step is
// computed between them.

// Rows among the first `count` that belong to a group.
__device__ __forceinline__ int rows_of_group(int count, int group, int groups) {
    return count > group ? (count - group + groups - 1) / groups : 0;
}

// --- numbers that are their own ready flags -------------------------------------------------------------------------

#define FILLER ((real_bits)-1)
// Replaces every other NaN: half of its mantissa's bits are zeros, so that rounding up keeps it a NaN.
#define QUIET_NAN                                                                             \
    (sizeof(real) == 8   ? (real_bits)0x7ff8000000000000ull                                   \
     : sizeof(real) == 4 ? (real_bits)0x7fc00000u                                             \
                         : (real_bits)0x7fe0u)

// Stores a number for other blocks; any NaN becomes QUIET_NAN, which is not the filler: else they would wait forever.
__device__ __forceinline__ void publish(real* address, real value) {
    store_relaxed(reinterpret_cast<real_bits*>(address), to_acc(value) != to_acc(value) ? QUIET_NAN : to_bits(value));
}

// Waits for one number and returns it.
__device__ __forceinline__ real wait_for_number(const real* address) {
    real_bits bits;
    while ((bits = load_relaxed(reinterpret_cast<const real_bits*>(address))) == FILLER) SPIN();
    real value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// 16 bytes as they were loaded; some of their numbers may still be the filler.
struct alignas(16) LoadedPack {
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

// The barrier needs neither a reset nor a start value: the group's first block adds a number that flips the highest bit
// once all others have added 1, which leaves the bits below at zero. The counter is zero when it is allocated.
__device__ __forceinline__ unsigned arrive_at_group_barrier(unsigned* counter, bool leader, int blocks) {
    __syncthreads();  // else the block arrives before all its threads have written the filler
    unsigned before = 0;
    if (threadIdx.x == 0) {
        __threadfence();  // else the arrival may become visible before what other threads of the block have written
        before = fetch_add_release(counter, leader ? 0x80000000u - (unsigned)(blocks - 1) : 1u);
    }
    return before;  // for wait_at_group_barrier, in thread 0
}

__device__ __forceinline__ void wait_at_group_barrier(unsigned* counter, unsigned before) {
    REQUIRE_COOPERATIVE();
    if (threadIdx.x == 0) {
        while (((load_acquire(counter) ^ before) & 0x80000000u) == 0) SPIN();
        __threadfence();  // else later loads may return what memory held before the arrivals
    }
    __syncthreads();  // else threads read results before thread 0 has seen every block arrive
}
