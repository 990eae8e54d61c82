// The calls of emulated kernels, handed to the block that the calling thread belongs to.
#include "interface.h"

#include <cstdio>

#include "block.h"
#include "sanitizers.h"

namespace emulator {

using sanitizers::Unseen;

namespace {

Fiber& self() { return *static_cast<Fiber*>(here); }

}  // namespace

void block_barrier(int line) {
    const Unseen unseen;
    here->home->barrier(line);
}

int block_vote(int line, int predicate, Vote kind) {
    const Unseen unseen;
    return here->home->vote(line, predicate, kind);
}

void warp_barrier(int line, unsigned mask) {
    const Unseen unseen;
    here->home->warp_operation(line, Operation::barrier, mask, 0, 0);
}

unsigned warp_vote(int line, unsigned mask, int predicate, Vote kind) {
    const Unseen unseen;
    const Operation operation = kind == Vote::any   ? Operation::any
                                : kind == Vote::all ? Operation::all
                                                    : Operation::ballot;
    return unsigned(here->home->warp_operation(line, operation, mask, predicate != 0, 0));
}

unsigned long long warp_exchange(int line, unsigned mask, unsigned long long value, int source) {
    const Unseen unseen;
    return here->home->warp_operation(line, Operation::exchange, mask, value, source);
}

unsigned lane() { return here->thread.x & 31u; }

void* dynamic_shared() { return here->home->dynamic_shared(); }

void require_cooperative() {
    Block& block = *here->home;
    if (!block.of().request.cooperative) block.fail(0, "a grid barrier in a launch that is not cooperative");
}

void require_shared(long long bytes) {
    Block& block = *here->home;
    const size_t given = block.of().request.shared;
    if ((long long)given == bytes) return;
    char message[128];
    snprintf(message, sizeof message, "the launch gave %zu bytes of dynamic shared memory, the layout takes %lld", given,
             bytes);
    block.fail(0, message);
}

void relax() {
    const Unseen unseen;
    here->home->relax();
}

void issue_copy(void* to, const void* from) {
    const Unseen unseen;
    Fiber& fiber = self();
    fiber.copies.push_back({to, from, fiber.batch});
}

void close_copies() { ++self().batch; }

bool next_copy(int pending, void** to, const void** from) {
    const Unseen unseen;
    Fiber& fiber = self();
    if (fiber.next_copy == fiber.copies.size() || fiber.copies[fiber.next_copy].batch + pending >= fiber.batch) {
        fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + long(fiber.next_copy));
        fiber.next_copy = 0;
        return false;
    }
    const Copy& copy = fiber.copies[fiber.next_copy++];
    *to = copy.to;
    *from = copy.from;
    return true;
}

void fail(int line, const char* message) {
    const Unseen unseen;
    here->home->fail(line, message);
}

// A fence orders what came before it only together with an atomic operation that follows, and what comes after it only
// together with one that went before. The clock at the fence is kept by a fiber of ThreadSanitizer that does nothing
// else, so that writes between fence and atomic are not taken as ordered.
void fence() {
    if (!sanitizers::races) return;
    Fiber& fiber = self();
    if (fiber.last_atomic) sanitizers::acquire(fiber.last_atomic);
    if (!fiber.fence_keeper) fiber.fence_keeper = sanitizers::create_fiber();
    sanitizers::release(&fiber.fenced);
    sanitizers::switch_fiber(fiber.fence_keeper);
    sanitizers::acquire(&fiber.fenced);
    sanitizers::switch_fiber(fiber.context.race_fiber);
}

void before_atomic(void* address) {
    if (!sanitizers::races) return;
    Fiber& fiber = self();
    if (!fiber.fence_keeper) return;
    sanitizers::switch_fiber(fiber.fence_keeper);
    sanitizers::release(address);
    sanitizers::switch_fiber(fiber.context.race_fiber);
}

void after_atomic(void* address, bool changed) {
    const Unseen unseen;
    self().last_atomic = address;
    if (changed) here->home->of().tick();  // a waiting thread may look by atomics, too
}

}  // namespace emulator
