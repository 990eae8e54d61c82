#include "api.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <string>

#include "launch.h"

namespace {

using emulator::Module;

void* find(void* module, const char* prefix, const char* kernel) {
    return dlsym(static_cast<Module*>(module)->handle, (std::string(prefix) + kernel).c_str());
}

// Find the thread-local memory of the module that holds a function, in the calling thread.
struct Search {
    const char* code;
    char* start;
    size_t size;
};

int examine(dl_phdr_info* info, size_t, void* wanted) {
    Search& search = *static_cast<Search*>(wanted);
    bool holds = false;
    const ElfW(Phdr)* local = nullptr;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const ElfW(Phdr)& part = info->dlpi_phdr[i];
        const char* start = reinterpret_cast<const char*>(info->dlpi_addr + part.p_vaddr);
        if (part.p_type == PT_LOAD && search.code >= start && search.code < start + part.p_memsz) holds = true;
        if (part.p_type == PT_TLS) local = &part;
    }
    if (!holds || !local) return 0;
    search.start = static_cast<char*>(info->dlpi_tls_data);
    search.size = local->p_memsz;
    return 1;
}

}  // namespace

void* emulator_open(const char* path, const uint64_t* objects, size_t count, char* error, size_t error_size) {
    void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        snprintf(error, error_size, "%s", dlerror());
        return nullptr;
    }
    auto module = new Module{handle, nullptr, 0, 0, {}};
    module->anchor = reinterpret_cast<char* (*)()>(dlsym(handle, "emulated_anchor"));
    char* anchor = module->anchor();
    Search search{reinterpret_cast<const char*>(module->anchor), nullptr, 0};
    if (!dl_iterate_phdr(examine, &search) || !search.start) {
        snprintf(error, error_size, "%s: the shared memory of its kernels cannot be found", path);
        return nullptr;
    }
    module->anchor_offset = size_t(anchor - search.start);
    module->size = search.size;
    for (size_t i = 0; i < count; ++i) module->objects.push_back({objects[2 * i], objects[2 * i + 1]});
    return module;
}

const unsigned* emulator_signature(void* module, const char* kernel) {
    void* function = find(module, "emulated_signature_", kernel);
    return function ? reinterpret_cast<const unsigned* (*)()>(function)() : nullptr;
}

unsigned emulator_bounds(void* module, const char* kernel) {
    return reinterpret_cast<unsigned (*)()>(find(module, "emulated_bounds_", kernel))();
}

int emulator_launch(void* module, const char* kernel, void** arguments, unsigned grid, unsigned block, size_t shared,
                    int cooperative, int order, uint64_t seed, unsigned at_once, char* error, size_t error_size) {
    emulator::Request request;
    request.name = kernel;
    request.module = static_cast<Module*>(module);
    request.kernel = reinterpret_cast<void (*)(void**)>(find(module, "emulated_call_", kernel));
    request.args = arguments;
    request.grid = grid;
    request.block = block;
    request.shared = shared;
    request.cooperative = cooperative != 0;
    request.order = static_cast<emulator::Order>(order);
    request.seed = seed;
    request.at_once = at_once;
    return emulator::Launch(request, error, error_size).run() ? 0 : 1;
}
