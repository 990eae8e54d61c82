// Waiting on a word of memory. Not the C library's locks: ThreadSanitizer would take those as order among the kernels.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace emulator {

class Flag {
  public:
    void raise() {
        up.store(1);
        syscall(SYS_futex, &up, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    }
    // Wait until it is raised, and lower it.
    void take() {
        while (!up.exchange(0)) syscall(SYS_futex, &up, FUTEX_WAIT_PRIVATE, 0, nullptr, nullptr, 0);
    }

  private:
    std::atomic<int> up{0};
};

class Lock {
  public:
    void lock() {
        while (taken.exchange(1)) syscall(SYS_futex, &taken, FUTEX_WAIT_PRIVATE, 1, nullptr, nullptr, 0);
    }
    void unlock() {
        taken.store(0);
        syscall(SYS_futex, &taken, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    }

  private:
    std::atomic<int> taken{0};
};

class Guard {
  public:
    explicit Guard(Lock& lock) : lock(lock) { lock.lock(); }
    ~Guard() { lock.unlock(); }
    Guard(const Guard&) = delete;

  private:
    Lock& lock;
};

}  // namespace emulator
