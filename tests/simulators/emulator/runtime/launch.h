// One launch: its blocks, each on an OS thread, and whose turn it is.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "interface.h"
#include "lock.h"
#include "order.h"

namespace emulator {

// A piece of a kernel's static shared memory, as an offset into the module's thread-local memory.
struct Range {
    size_t offset, size;
};

struct Module {
    void* handle;
    char* (*anchor)();             // an address in the calling thread's copy of the thread-local memory
    size_t anchor_offset, size;    // where that is in it, and how large it is
    std::vector<Range> objects;    // the variables; AddressSanitizer forbids what lies between
};

struct Request {
    const char* name;
    const Module* module;
    void (*kernel)(void** args);
    void** args;
    unsigned grid, block;
    size_t shared;
    bool cooperative;
    Order order;
    uint64_t seed;
    unsigned at_once;  // blocks that run at the same time
};

class Launch {
  public:
    Launch(const Request& request, char* error, size_t error_size);
    bool run();  // false where it failed: the reason is in `error`

    const Request request;

    void fail(unsigned block, int thread, int line, const char* message);
    bool failed() const { return over.load(); }

    // Keep a fiber of ThreadSanitizer to the end: a new one in its place would be taken for the same thread.
    void retire(void* fiber);

    // Every atomic operation moves on the clock that waiting threads look at.
    void tick();
    uint64_t now() const { return clock.load(); }
    // Sleep until the clock has left `seen`; false where that cannot be.
    bool await_tick(unsigned block, uint64_t seen);

  private:
    struct Worker {
        Launch* launch;
        unsigned block;
        Flag turn;
    };

    void run_block(unsigned block);
    void run_side_by_side();
    void dispatch();
    void leave();
    static void* work(void* worker);

    char* error;
    size_t error_size;
    std::atomic<bool> over{false};
    std::atomic<uint64_t> clock{1};

    Lock lock;  // guards what follows
    Queue ready;
    unsigned running = 0;
    std::atomic<unsigned> asleep{0};
    std::vector<int> sleeping;
    std::vector<void*> retired;
    std::unique_ptr<Worker[]> workers;
};

}  // namespace emulator
