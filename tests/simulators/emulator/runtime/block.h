// The threads of one block: who waits for whom.
#pragma once

#include <memory>
#include <vector>

#include "fiber.h"
#include "launch.h"

namespace emulator {

enum class State : unsigned char { fresh, ready, at_barrier, at_warp_operation, relaxing, done };
enum class Operation : unsigned char { barrier, exchange, any, all, ballot };

const char* name_of(Operation operation);

// A copy from device to shared memory that goes on beside the computing.
struct Copy {
    void* to;
    const void* from;
    int batch;
};

struct Fiber : Place {
    Context context;
    int index = 0;
    int line = 0;  // of what it waits at
    State state = State::fresh;
    // A warp operation it has brought to its warp, and what it gets out of it
    Operation operation = Operation::barrier;
    unsigned mask = 0;
    unsigned long long value = 0, result = 0;
    int source = 0;
    unsigned turns = 0;  // warp barriers passed
    char meeting[2] = {};  // ThreadSanitizer's marks: those of odd and of even turns
    std::vector<Copy> copies;
    size_t next_copy = 0;
    int batch = 0;
    uint64_t seen = 0;  // the launch's clock when it last looked
    // What the fences of CUDA's memory model know
    void* last_atomic = nullptr;
    void* fence_keeper = nullptr;
    char fenced = 0;
};

class Block {
  public:
    Block(Launch& launch, unsigned index);
    ~Block();
    void run();

    void barrier(int line);
    int vote(int line, int predicate, Vote kind);
    unsigned long long warp_operation(int line, Operation operation, unsigned mask, unsigned long long value,
                                      int source);
    void relax();
    [[noreturn]] void fail(int line, const char* message);
    void* dynamic_shared() { return dynamic; }
    Launch& of() { return launch; }

  private:
    struct Warp {
        unsigned lanes = 0, exited = 0, waiting = 0, named = 0;
    };

    static void run_fibers();
    void prepare_shared();
    void release_shared();
    void start(Fiber& fiber);
    void finish(Fiber& fiber);
    Fiber* next();
    void wait();
    void pass_barrier();
    void complete(Warp& warp, unsigned mask, Operation operation, int first);
    void report_stuck();

    Launch& launch;
    const unsigned index;
    const int count;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Queue ready;
    std::vector<int> relaxing, released;
    Stacks stacks;
    Context home;
    char* dynamic = nullptr;
    char* shared = nullptr;

    int live;
    int at_barrier = 0, barrier_line = 0;
    bool barrier_votes = false;
    int votes = 0, result = 0;
    unsigned barriers = 0;
    char meeting[2] = {}, ended = 0;  // ThreadSanitizer's marks
};

}  // namespace emulator
