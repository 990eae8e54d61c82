// What the compiler's own checks (-fsanitize=alignment,null,bounds) call: an error of the launch, named like all others.
// With a sanitizer's library these calls are the library's.
#include <cstdint>
#include <cstdio>

#include "interface.h"

namespace {

struct Source {
    const char* file;
    uint32_t line, column;
};

struct Access {
    Source source;
    const void* type;
    unsigned char log_alignment, kind;
};

struct Subscript {
    Source source;
};

}  // namespace

extern "C" void __ubsan_handle_type_mismatch_v1_abort(Access* access, uintptr_t address) {
    char message[120];
    const unsigned long alignment = 1ul << access->log_alignment;
    if (address == 0) {
        snprintf(message, sizeof message, "access through a null pointer");
    } else {
        snprintf(message, sizeof message, "misaligned address: %#lx, wanted a multiple of %lu", (unsigned long)address,
                 alignment);
    }
    emulator::fail(int(access->source.line), message);
}

extern "C" void __ubsan_handle_out_of_bounds_abort(Subscript* subscript, uintptr_t index) {
    char message[120];
    snprintf(message, sizeof message, "index %ld is out of bounds", (long)index);
    emulator::fail(int(subscript->source.line), message);
}
