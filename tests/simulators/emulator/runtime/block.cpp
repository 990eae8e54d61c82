#include "block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "sanitizers.h"

namespace emulator {

thread_local Place* here = nullptr;

namespace {

constexpr int poison = 0xff;  // every floating type reads it as NaN, every integer as -1
Fiber& self() { return *static_cast<Fiber*>(here); }

}  // namespace

const char* name_of(Operation operation) {
    switch (operation) {
        case Operation::barrier: return "__syncwarp";
        case Operation::exchange: return "a shuffle";
        case Operation::any: return "__any_sync";
        case Operation::all: return "__all_sync";
        case Operation::ballot: return "__ballot_sync";
    }
    return "";
}

Block::Block(Launch& launch, unsigned index)
    : launch(launch),
      index(index),
      count(int(launch.request.block)),
      fibers(launch.request.block),
      warps((launch.request.block + 31) / 32),
      ready(launch.request.order, launch.request.seed * 1000003u + index + 1),
      stacks(launch.request.block),
      live(count) {
    adopt_thread(home);
    for (int thread = 0; thread < count; ++thread) {
        Fiber& fiber = fibers[thread];
        fiber.thread = {unsigned(thread), 0, 0};
        fiber.block = {index, 0, 0};
        fiber.block_size = {launch.request.block, 1, 1};
        fiber.grid_size = {launch.request.grid, 1, 1};
        fiber.home = this;
        fiber.index = thread;
        // made here, before any of them runs: a fiber is ordered after the one that makes it
        fiber.context.race_fiber = sanitizers::races ? sanitizers::create_fiber() : nullptr;
        warps[thread / 32].lanes |= 1u << (thread % 32);
        released.push_back(thread);
    }
    ready.add_all(released);
    prepare_shared();
}

Block::~Block() {
    release_shared();
    for (Fiber& fiber : fibers) {
        if (fiber.context.race_fiber) launch.retire(fiber.context.race_fiber);
        if (fiber.fence_keeper) launch.retire(fiber.fence_keeper);
    }
}

void Block::prepare_shared() {
    const Module& module = *launch.request.module;
    shared = module.anchor() - module.anchor_offset;
    memset(shared, poison, module.size);
    if (sanitizers::addresses) {
        sanitizers::forbid(shared, module.size);
        for (const Range& object : module.objects) sanitizers::allow(shared + object.offset, object.size);
    }
    if (launch.request.shared) {
        void* memory = nullptr;
        // under AddressSanitizer the end of the memory is exactly where the kernel's ends
        if (posix_memalign(&memory, 16, launch.request.shared)) abort();
        dynamic = static_cast<char*>(memory);
        memset(dynamic, poison, launch.request.shared);
    }
}

void Block::release_shared() {
    sanitizers::allow(shared, launch.request.module->size);
    free(dynamic);
}

void Block::run() {
    Fiber* first = next();
    if (first) {
        start(*first);
        here = first;
        switch_context(home, first->context);
        sanitizers::acquire(&ended);
    }
    here = nullptr;
}

// What a fiber's stack does: its own thread, then threads that have no stack yet.
void Block::run_fibers() {
    arrived();
    for (;;) {
        Block& block = *self().home;
        block.launch.request.kernel(block.launch.request.args);
        block.finish(self());
    }
}

void Block::start(Fiber& fiber) {
    fiber.state = State::ready;
    prepare(fiber.context, stacks.take(), run_fibers);
}

void Block::finish(Fiber& fiber) {
    sanitizers::look_away();
    fiber.state = State::done;
    --live;
    Warp& warp = warps[fiber.index / 32];
    warp.exited |= 1u << (fiber.index % 32);
    if (warp.named & warp.exited) fail(0, "exited while lanes of its warp wait for it");
    if (at_barrier) fail(0, "exited while threads of its block wait at a barrier");
    sanitizers::release(&ended);
    Fiber* following = live ? next() : nullptr;
    if (following && !sanitizers::races && following->context.stack.bottom == nullptr) {
        following->context = fiber.context;  // goes on here, on the same stack
        following->state = State::ready;
        here = following;
        return;
    }
    Context& target = following ? following->context : home;
    if (following && following->state == State::fresh) start(*following);
    stacks.give_back(fiber.context.stack);
    here = following;
    sanitizers::look_again();
    switch_context(fiber.context, target);
}

Fiber* Block::next() {
    for (;;) {
        if (launch.failed()) return nullptr;
        if (!ready.empty()) {
            Fiber& fiber = fibers[ready.take()];
            return &fiber;
        }
        if (relaxing.empty()) {
            report_stuck();
            return nullptr;
        }
        uint64_t seen = launch.now();
        for (int thread : relaxing) seen = std::min(seen, fibers[thread].seen);
        if (!launch.await_tick(index, seen)) return nullptr;
        std::sort(relaxing.begin(), relaxing.end());
        ready.add_all(relaxing);
        relaxing.clear();
    }
}

// Leave the calling fiber, whose state says what it waits for, to another.
void Block::wait() {
    Fiber& fiber = self();
    Fiber* following = next();
    if (following == &fiber) return;
    if (following && following->state == State::fresh) start(*following);
    here = following;
    switch_context(fiber.context, following ? following->context : home);
}

void Block::fail(int line, const char* message) {
    Fiber& fiber = self();
    launch.fail(index, fiber.index, line, message);
    here = nullptr;
    switch_context(fiber.context, home);
    abort();  // nobody comes back to a failed launch
}

void Block::barrier(int line) {
    if (live < count) fail(line, "at a barrier of the block that threads which have exited will not reach");
    Fiber& fiber = self();
    if (at_barrier && barrier_line != line) {
        char message[160];
        snprintf(message, sizeof message, "divergent barrier: other threads of the block wait at the one of line %d",
                 barrier_line);
        fail(line, message);
    }
    barrier_line = line;
    char& mark = meeting[barriers & 1];
    sanitizers::release(&mark);
    if (++at_barrier < count) {
        fiber.state = State::at_barrier;
        fiber.line = line;
        wait();
    } else {
        pass_barrier();
    }
    sanitizers::acquire(&mark);
}

void Block::pass_barrier() {
    at_barrier = 0;
    ++barriers;
    result = votes;
    votes = 0;
    Fiber& last = self();
    const bool behind = ready.steps_back();
    released.clear();
    for (Fiber& fiber : fibers) {
        if (&fiber == &last && !behind) continue;
        fiber.state = State::ready;
        released.push_back(fiber.index);
    }
    ready.add_all(released);
    if (behind) wait();
}

int Block::vote(int line, int predicate, Vote kind) {
    votes += predicate != 0;
    barrier(line);
    const int yes = result;
    return kind == Vote::ballot ? yes : kind == Vote::any ? yes > 0 : yes == count;
}

unsigned long long Block::warp_operation(int line, Operation operation, unsigned mask, unsigned long long value,
                                         int source) {
    Fiber& fiber = self();
    Warp& warp = warps[fiber.index / 32];
    const int first = fiber.index & ~31;
    const unsigned bit = 1u << (fiber.index % 32);
    char message[200];
    if (!(mask & bit)) {
        snprintf(message, sizeof message, "%s: mask %08x does not name the calling lane", name_of(operation), mask);
        fail(line, message);
    }
    if (mask & ~warp.lanes) {
        snprintf(message, sizeof message, "%s: mask %08x names lanes that the block does not have", name_of(operation),
                 mask);
        fail(line, message);
    }
    if (mask & warp.exited) {
        snprintf(message, sizeof message, "%s: mask %08x names lanes that have exited (%08x)", name_of(operation), mask,
                 mask & warp.exited);
        fail(line, message);
    }
    if (const unsigned peers = mask & warp.waiting) {
        const Fiber& peer = fibers[first + __builtin_ctz(peers)];
        if (peer.mask != mask || peer.operation != operation || peer.line != line) {
            snprintf(message, sizeof message, "%s with mask %08x, but thread %d waits at %s with mask %08x, line %d",
                     name_of(operation), mask, peer.index, name_of(peer.operation), peer.mask, peer.line);
            fail(line, message);
        }
    } else if (warp.named & bit) {
        snprintf(message, sizeof message, "%s: masks disagree: %08x, but lanes wait that name this one",
                 name_of(operation), mask);
        fail(line, message);
    }
    if (operation == Operation::exchange && (source < 0 || source > 31 || !(mask >> source & 1u))) {
        snprintf(message, sizeof message, "a shuffle from lane %d, which mask %08x does not name", source, mask);
        fail(line, message);
    }
    fiber.operation = operation;
    fiber.mask = mask;
    fiber.line = line;
    fiber.value = value;
    fiber.source = source;
    warp.waiting |= bit;
    warp.named |= mask;
    // A shuffle or a vote hands over values and orders no memory; only the barrier of a warp does.
    if (operation == Operation::barrier) {
        fiber.value = fiber.turns++ & 1;
        sanitizers::release(&fiber.meeting[fiber.value]);
    }
    if ((warp.waiting & mask) == mask) {
        complete(warp, mask, operation, first);
    } else {
        fiber.state = State::at_warp_operation;
        wait();
    }
    if (sanitizers::races && operation == Operation::barrier) {
        for (unsigned others = mask; others; others &= others - 1) {
            const int lane = __builtin_ctz(others);
            sanitizers::acquire(&fibers[first + lane].meeting[fiber.result >> lane & 1]);
        }
    }
    return fiber.result;
}

void Block::complete(Warp& warp, unsigned mask, Operation operation, int first) {
    warp.waiting &= ~mask;
    warp.named &= ~mask;
    unsigned yes = 0;
    for (unsigned lanes = mask; lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        yes |= fibers[first + lane].value ? 1u << lane : 0u;
    }
    Fiber& last = self();
    const bool behind = ready.steps_back();
    released.clear();
    for (unsigned lanes = mask; lanes; lanes &= lanes - 1) {
        Fiber& fiber = fibers[first + __builtin_ctz(lanes)];
        switch (operation) {
            case Operation::barrier: fiber.result = yes; break;  // the turn that each lane is in
            case Operation::exchange: fiber.result = fibers[first + fiber.source].value; break;
            case Operation::any: fiber.result = yes != 0; break;
            case Operation::all: fiber.result = yes == mask; break;
            case Operation::ballot: fiber.result = yes; break;
        }
        if (&fiber == &last && !behind) continue;
        fiber.state = State::ready;
        released.push_back(fiber.index);
    }
    ready.add_all(released);
    if (behind) wait();
}

void Block::relax() {
    Fiber& fiber = self();
    if (launch.now() == fiber.seen || !ready.empty()) {
        fiber.state = State::relaxing;
        relaxing.push_back(fiber.index);
        wait();
    }
    fiber.seen = launch.now();
}

void Block::report_stuck() {
    const Fiber* waiting[2] = {};
    for (const Fiber& fiber : fibers) {
        if (fiber.state == State::at_barrier) waiting[0] = &fiber;
        if (fiber.state == State::at_warp_operation) waiting[1] = &fiber;
    }
    char message[240];
    const Fiber* shown = waiting[1] ? waiting[1] : waiting[0];
    if (waiting[0] && waiting[1]) {
        snprintf(message, sizeof message, "deadlock: waits at %s of line %d, while thread %d waits at the barrier of line %d",
                 name_of(shown->operation), shown->line, waiting[0]->index, waiting[0]->line);
    } else {
        snprintf(message, sizeof message, "deadlock: waits at line %d for threads that do not come", shown->line);
    }
    launch.fail(index, shown->index, shown->line, message);
}

}  // namespace emulator
