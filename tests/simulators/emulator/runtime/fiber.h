// Stacks that execution can be switched between: one for every thread of a block.
#pragma once

#include <cstddef>
#include <vector>

#if !defined(__x86_64__)
#define EMULATOR_UCONTEXT
#endif
#ifdef EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

namespace emulator {

struct Stack {
    char* bottom = nullptr;
    size_t size = 0;
};

// Where execution rests while something else runs.
struct Context {
#ifdef EMULATOR_UCONTEXT
    ucontext_t registers;
#else
    void* stack_pointer = nullptr;
#endif
    Stack stack;
    void* fake_stack = nullptr;  // AddressSanitizer's
    void* race_fiber = nullptr;  // ThreadSanitizer's
};

// Make `context` start in `entry`, which never returns, on a stack.
void prepare(Context& context, Stack stack, void (*entry)());

// Let `context` stand for the OS thread that calls.
void adopt_thread(Context& context);

void switch_context(Context& from, Context& to);

// The first thing that an entry does.
void arrived();

// A block's worth of stacks, kept for later launches.
class Stacks {
  public:
    explicit Stacks(size_t count);
    ~Stacks();
    Stacks(const Stacks&) = delete;
    Stack take();
    void give_back(Stack stack);

  private:
    char* slab;
    size_t count, used = 0;
    std::vector<Stack> free;
};

}  // namespace emulator
