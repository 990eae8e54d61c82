// Joined to the end of every kernel source: how the emulator calls a kernel, and what it must be given.
#pragma once

namespace emulator {

// A type in a word: its kind and its size, and for a pointer those of what it points to, 16 bits higher.
enum : unsigned { integer_kind = 1u << 12, floating_kind = 2u << 12, class_kind = 3u << 12, pointer_kind = 4u << 12 };

template <class T, bool is_class = __is_class(T)>
struct Word {
    static constexpr unsigned value = (T(1.5f) == T(1) ? integer_kind : floating_kind) | unsigned(sizeof(T));
};
template <class T>
struct Word<T, true> {
    static constexpr unsigned value = class_kind | unsigned(sizeof(T));
};
template <>
struct Word<void, false> {
    static constexpr unsigned value = 0;  // anything
};
template <class T>
struct Plain {
    using type = T;
};
template <class T>
struct Plain<const T> {
    using type = T;
};
template <class T>
struct Word<T*, false> {
    static constexpr unsigned value = pointer_kind | 8u | Word<typename Plain<T>::type>::value << 16;
};

template <int...>
struct Numbers {};
template <int count, int... rest>
struct UpTo : UpTo<count - 1, count - 1, rest...> {};
template <int... all>
struct UpTo<0, all...> {
    using type = Numbers<all...>;
};

template <class... Parameters, int... position>
void unpack(void (*kernel)(Parameters...), void** arguments, Numbers<position...>) {
    kernel(*static_cast<Parameters*>(arguments[position])...);
}
template <class... Parameters>
void call(void (*kernel)(Parameters...), void** arguments) {
    unpack(kernel, arguments, typename UpTo<sizeof...(Parameters)>::type());
}

// A word for every parameter, then a zero.
template <class... Parameters>
const unsigned* signature(void (*)(Parameters...)) {
    static const unsigned words[] = {Word<Parameters>::value..., 0u};
    return words;
}

}  // namespace emulator

#define EMULATED_KERNEL(name, bounds)                                                        \
    extern "C" void emulated_call_##name(void** arguments) { emulator::call(name, arguments); } \
    extern "C" const unsigned* emulated_signature_##name() { return emulator::signature(name); } \
    extern "C" unsigned emulated_bounds_##name() { return bounds; }

extern "C" char* emulated_anchor() {
    static thread_local char anchor;
    return &anchor;
}
