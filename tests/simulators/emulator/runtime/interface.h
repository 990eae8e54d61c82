// What an emulated kernel asks of the runtime. Included by every kernel, so it includes nothing itself.
#pragma once

namespace emulator {

struct Index {
    unsigned x, y, z;
};

class Block;

// What a thread of a kernel sees of its place in the launch.
struct Place {
    Index thread, block, block_size, grid_size;
    Block* home;
};

// The place of the thread that runs on this OS thread now. Initial-exec: one load instead of a call.
extern thread_local Place* here __attribute__((tls_model("initial-exec")));

enum class Vote { any, all, ballot };

void block_barrier(int line);
int block_vote(int line, int predicate, Vote kind);  // `ballot` counts
void warp_barrier(int line, unsigned mask);
unsigned warp_vote(int line, unsigned mask, int predicate, Vote kind);
// Hand over `value`, get the one of lane `source` of the warp; each lane names its own source.
unsigned long long warp_exchange(int line, unsigned mask, unsigned long long value, int source);
unsigned lane();

void* dynamic_shared();
void require_cooperative();
void require_shared(long long bytes);  // the launch gave exactly so much dynamic shared memory
void relax();  // one turn of a loop that waits for another thread or block

// Copies under way: issued, closed in batches, and taken out to be made. False where no batch but the last `pending`
// has any left.
void issue_copy(void* to, const void* from);
void close_copies();
bool next_copy(int pending, void** to, const void** from);

// The memory model, for ThreadSanitizer: CUDA's fences and relaxed atomics order memory as a pair only.
void fence();
void before_atomic(void* address);
void after_atomic(void* address, bool changed);

[[noreturn]] void fail(int line, const char* message);

}  // namespace emulator
