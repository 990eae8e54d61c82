#include "launch.h"

#include <limits.h>
#include <pthread.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "block.h"
#include "sanitizers.h"

namespace emulator {

Launch::Launch(const Request& request, char* error, size_t error_size)
    : request(request), error(error), error_size(error_size), ready(request.order, request.seed) {}

void Launch::fail(unsigned block, int thread, int line, const char* message) {
    Guard guard(lock);
    if (over.exchange(true)) return;
    int used = snprintf(error, error_size, "kernel %s, block %u", request.name, block);
    if (thread >= 0) used += snprintf(error + used, error_size - used, ", thread %d", thread);
    if (line > 0) used += snprintf(error + used, error_size - used, ", line %d", line);
    snprintf(error + used, error_size - used, ": %s", message);
}

void Launch::run_block(unsigned block) {
    Block running_block(*this, block);
    running_block.run();
}

bool Launch::run() {
    std::vector<int> blocks(request.grid);
    for (unsigned block = 0; block < request.grid; ++block) blocks[block] = int(block);
    ready.add_all(blocks);
    // Two blocks on one OS thread would be in order for ThreadSanitizer, and share their memory one after the other.
    const bool each_its_thread = request.cooperative || sanitizers::races;
    if (each_its_thread || request.at_once > 1) {
        run_side_by_side();
    } else {
        while (!ready.empty() && !failed()) run_block(unsigned(ready.take()));
    }
    if (!failed()) {  // ThreadSanitizer allows no fiber to end in the middle of something
        for (void* fiber : retired) sanitizers::destroy_fiber(fiber);
    }
    return !failed();
}

void Launch::retire(void* fiber) {
    Guard guard(lock);
    retired.push_back(fiber);
}

void Launch::run_side_by_side() {
    workers = std::make_unique<Worker[]>(request.grid);
    std::vector<pthread_t> threads(request.grid);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, sanitizers::addresses || sanitizers::races ? 1 << 20 : 256 << 10);
    for (unsigned block = 0; block < request.grid; ++block) {
        workers[block].launch = this;
        workers[block].block = block;
        if (pthread_create(&threads[block], &attributes, work, &workers[block])) {
            fprintf(stderr, "the emulator cannot start %u OS threads\n", request.grid);
            abort();
        }
    }
    pthread_attr_destroy(&attributes);
    {
        Guard guard(lock);
        dispatch();
    }
    for (pthread_t thread : threads) pthread_join(thread, nullptr);
}

void* Launch::work(void* argument) {
    const sanitizers::Unseen unseen;
    Worker& worker = *static_cast<Worker*>(argument);
    Launch& launch = *worker.launch;
    worker.turn.take();
    if (!launch.failed()) launch.run_block(worker.block);
    launch.leave();
    return nullptr;
}

void Launch::dispatch() {  // under the lock
    while (running < request.at_once && !ready.empty()) {
        ++running;
        workers[ready.take()].turn.raise();
    }
}

void Launch::leave() {
    Guard guard(lock);
    --running;
    if (!running && ready.empty() && !sleeping.empty()) {
        // The last block that could have woken the others has ended: let them find that out.
        clock.fetch_add(1);
        std::sort(sleeping.begin(), sleeping.end());
        ready.add_all(sleeping);
        sleeping.clear();
        asleep = 0;
    }
    dispatch();
}

void Launch::tick() {
    clock.fetch_add(1);
    if (!asleep.load()) return;
    Guard guard(lock);
    std::sort(sleeping.begin(), sleeping.end());
    ready.add_all(sleeping);
    sleeping.clear();
    asleep = 0;
    dispatch();
}

bool Launch::await_tick(unsigned block, uint64_t seen) {
    if (failed()) return false;
    if (!request.cooperative) {
        if (now() != seen) return true;
        fail(block, -1, 0, "waits for another block, in a launch that is not cooperative");
        return false;
    }
    {
        Guard guard(lock);
        asleep.fetch_add(1);
        if (now() != seen) {
            asleep.fetch_sub(1);
            return true;
        }
        if (running > 1 || !ready.empty()) {
            sleeping.push_back(int(block));
            --running;
            dispatch();
        } else {
            asleep.fetch_sub(1);
            seen = 0;
        }
    }
    if (!seen) {
        fail(block, -1, 0, "deadlock: every block waits for another");
        return false;
    }
    workers[block].turn.take();
    return !failed();
}

}  // namespace emulator
