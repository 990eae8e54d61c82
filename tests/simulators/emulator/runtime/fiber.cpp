#include "fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <new>

#include "lock.h"
#include "sanitizers.h"

#ifndef EMULATOR_UCONTEXT
// System V: a function keeps rbx, rbp and r12 to r15; all else is the caller's to save.
asm(R"(
.text
.type emulator_swap_stacks, @function
emulator_swap_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_swap_stacks, .-emulator_swap_stacks
)");
extern "C" void emulator_swap_stacks(void** from, void* to);
#endif

namespace emulator {
namespace {

constexpr bool sanitized = sanitizers::races || sanitizers::addresses;
// A report of a sanitizer is written on the stack of the fiber that caused it.
constexpr size_t stack_size = sanitized ? 512 * 1024 : 64 * 1024;
// Tops of stacks at equal distances would all fall into the same sets of the caches.
constexpr size_t stride = stack_size + 4096 + 320;

struct Kept {
    Lock lock;
    std::multimap<size_t, char*> slabs;
};

Kept& kept() {
    static Kept* const all = new Kept;
    return *all;
}

size_t slab_size(size_t count) { return (count * stride + 4095) & ~size_t(4095); }

}  // namespace

void prepare(Context& context, Stack stack, void (*entry)()) {
    context.stack = stack;
#ifdef EMULATOR_UCONTEXT
    getcontext(&context.registers);
    context.registers.uc_stack.ss_sp = stack.bottom;
    context.registers.uc_stack.ss_size = stack.size;
    context.registers.uc_link = nullptr;
    makecontext(&context.registers, entry, 0);
#else
    auto top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack.bottom) + stack.size) & ~uintptr_t(15));
    *--top = nullptr;  // the entry's return address: the end for who walks the stack
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    context.stack_pointer = top;
#endif
}

void adopt_thread(Context& context) {
    context.race_fiber = sanitizers::current_fiber();
    if (!sanitizers::addresses) return;
    pthread_attr_t attributes;
    void* bottom = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &context.stack.size);
    pthread_attr_destroy(&attributes);
    context.stack.bottom = static_cast<char*>(bottom);
}

void switch_context(Context& from, Context& to) {
    sanitizers::leave_stack(&from.fake_stack, to.stack.bottom, to.stack.size);
    if (to.race_fiber != from.race_fiber) sanitizers::switch_fiber(to.race_fiber);
#ifdef EMULATOR_UCONTEXT
    swapcontext(&from.registers, &to.registers);
#else
    emulator_swap_stacks(&from.stack_pointer, to.stack_pointer);
#endif
    sanitizers::enter_stack(from.fake_stack);
}

void arrived() { sanitizers::enter_stack(nullptr); }

Stacks::Stacks(size_t count) : slab(nullptr), count(count) {
    if (!sanitized) {
        Guard guard(kept().lock);
        const auto found = kept().slabs.find(count);
        if (found != kept().slabs.end()) {
            slab = found->second;
            kept().slabs.erase(found);
            return;
        }
    }
    void* memory = mmap(nullptr, slab_size(count), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    madvise(memory, slab_size(count), MADV_NOHUGEPAGE);
    slab = static_cast<char*>(memory);
}

Stacks::~Stacks() {
    if (sanitized) {  // memory in use again would be seen as a race, or keep the marks of frames left for good
        munmap(slab, slab_size(count));
        return;
    }
    Guard guard(kept().lock);
    kept().slabs.emplace(count, slab);
}

Stack Stacks::take() {
    if (free.empty()) return {slab + stride * used++, stack_size};
    const Stack stack = free.back();
    free.pop_back();
    return stack;
}

void Stacks::give_back(Stack stack) {
    if (!sanitizers::races) free.push_back(stack);
}

}  // namespace emulator
