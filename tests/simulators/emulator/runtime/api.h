// The runtime's C interface, for Python and for the replay program.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// Load a compiled kernel module. `objects` holds offset and size of every static shared variable, `count` pairs; it
// serves AddressSanitizer alone. Null on failure, with the reason in `error`.
void* emulator_open(const char* path, const uint64_t* objects, size_t count, char* error, size_t error_size);

// A word for each of a kernel's parameters (see launch_stub.h), then zero; null where there is no such kernel.
const unsigned* emulator_signature(void* module, const char* kernel);

// The first of a kernel's launch bounds, 0 where it has none.
unsigned emulator_bounds(void* module, const char* kernel);

// Run a kernel. Returns 0, or 1 with the reason in `error`.
int emulator_launch(void* module, const char* kernel, void** arguments, unsigned grid, unsigned block, size_t shared,
                    int cooperative, int order, uint64_t seed, unsigned at_once, char* error, size_t error_size);
}
