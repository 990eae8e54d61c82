// The sanitizers' interfaces for fibers and memory, empty where the build has no such sanitizer.
//
// The runtime itself is compiled without instrumentation: its own locks and hand-overs must order nothing in
// ThreadSanitizer's eyes, else they would hide the races of the kernels. What orders is said here, by name.
#pragma once

#include <cstddef>

#ifdef EMULATOR_TSAN
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

#ifdef EMULATOR_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
void __asan_poison_memory_region(const volatile void* address, size_t size);
void __asan_unpoison_memory_region(const volatile void* address, size_t size);
}
#endif

namespace emulator::sanitizers {

#ifdef EMULATOR_TSAN
constexpr bool races = true;
inline void* current_fiber() { return __tsan_get_current_fiber(); }
inline void* create_fiber() { return __tsan_create_fiber(0); }
inline void destroy_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
inline void switch_fiber(void* fiber) { __tsan_switch_to_fiber(fiber, 1); }  // 1: orders nothing
inline void acquire(void* address) { __tsan_acquire(address); }
inline void release(void* address) { __tsan_release(address); }
// The C library's functions are watched even where the caller is not compiled to be.
inline void look_away() {
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
}
inline void look_again() {
    AnnotateIgnoreWritesEnd("", 0);
    AnnotateIgnoreReadsEnd("", 0);
}
#else
constexpr bool races = false;
inline void* current_fiber() { return nullptr; }
inline void* create_fiber() { return nullptr; }
inline void destroy_fiber(void*) {}
inline void switch_fiber(void*) {}
inline void acquire(void*) {}
inline void release(void*) {}
inline void look_away() {}
inline void look_again() {}
#endif

#ifdef EMULATOR_ASAN
constexpr bool addresses = true;
inline void leave_stack(void** own, const void* bottom, size_t size) { __sanitizer_start_switch_fiber(own, bottom, size); }
inline void enter_stack(void* own) { __sanitizer_finish_switch_fiber(own, nullptr, nullptr); }
inline void forbid(void* address, size_t size) { __asan_poison_memory_region(address, size); }
inline void allow(void* address, size_t size) { __asan_unpoison_memory_region(address, size); }
#else
constexpr bool addresses = false;
inline void leave_stack(void**, const void*, size_t) {}
inline void enter_stack(void*) {}
inline void forbid(void*, size_t) {}
inline void allow(void*, size_t) {}
#endif

// While it lives, what the calling fiber does is the runtime's own business.
class Unseen {
  public:
    Unseen() { look_away(); }
    ~Unseen() { look_again(); }
    Unseen(const Unseen&) = delete;
};

}  // namespace emulator::sanitizers
