// Runs a recorded launch again: replay FILE [ORDER SEED RESULT]...
//
// FILE holds numbers of 8 bytes, texts and bytes with their length before them (simulators.emulator.recording writes it):
//   module, count and pairs of shared variables, kernel, grid, block, shared, cooperative,
//   the pieces of device memory: count, then distance to a multiple of 512 and bytes of each,
//   the arguments: count, then bytes of each,
//   the addresses in them: count, then argument, offset in it, piece, offset in that,
//   the addresses in the pieces: likewise.
// For every order the launch starts from the recorded memory; what it leaves there is written to RESULT.
// A sanitizer's finding ends the program with its report; an error of the launch is printed and ends it with status 3.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "api.h"
#include "sanitizers.h"

namespace {

class Reader {
  public:
    explicit Reader(const char* path) {
        std::ifstream file(path, std::ios::binary);
        content.assign(std::istreambuf_iterator<char>(file), {});
    }
    uint64_t number() {
        uint64_t value;
        memcpy(&value, content.data() + position, 8);
        position += 8;
        return value;
    }
    std::string bytes() {
        const uint64_t size = number();
        position += size;
        return content.substr(position - size, size);
    }

  private:
    std::string content;
    size_t position = 0;
};

struct Piece {
    uint64_t lead;  // bytes from the multiple of 512 before it
    std::string bytes;
};

struct Address {
    uint64_t holder, offset, piece, target;
};

// Device memory that ends where the piece ends: what lies beyond, and before, is not the kernel's.
class Copy {
  public:
    explicit Copy(const Piece& piece) : lead(piece.lead), size(piece.bytes.size()) {
        if (posix_memalign(&memory, 512, lead + (size ? size : 1))) abort();
        memcpy(start(), piece.bytes.data(), size);
        emulator::sanitizers::forbid(memory, lead + (size ? 0 : 1));
    }
    ~Copy() {
        emulator::sanitizers::allow(memory, lead + (size ? 0 : 1));
        free(memory);
    }
    Copy(const Copy&) = delete;
    char* start() const { return static_cast<char*>(memory) + lead; }

  private:
    void* memory = nullptr;
    uint64_t lead, size;
};

// An argument, aligned for whatever it is.
class Value {
  public:
    Value(const std::string& bytes) : words(bytes.size() / sizeof(Word) + 1) {
        memcpy(start(), bytes.data(), bytes.size());
    }
    char* start() { return words.data()->bytes; }

  private:
    struct alignas(16) Word {
        char bytes[16];
    };
    std::vector<Word> words;
};

std::vector<Address> addresses(Reader& file) {
    std::vector<Address> found(file.number());
    for (Address& address : found) address = {file.number(), file.number(), file.number(), file.number()};
    return found;
}

}  // namespace

int main(int argc, char** argv) {
    Reader file(argv[1]);
    const std::string path = file.bytes();
    std::vector<uint64_t> objects(2 * file.number());
    for (uint64_t& object : objects) object = file.number();
    const std::string kernel = file.bytes();
    const auto grid = unsigned(file.number()), block = unsigned(file.number());
    const uint64_t shared = file.number();
    const bool cooperative = file.number() != 0;
    std::vector<Piece> pieces(file.number());
    for (Piece& piece : pieces) piece = {file.number(), file.bytes()};
    std::vector<std::string> arguments(file.number());
    for (std::string& argument : arguments) argument = file.bytes();
    const std::vector<Address> in_arguments = addresses(file), in_pieces = addresses(file);

    char error[1024] = "";
    void* module = emulator_open(path.c_str(), objects.data(), objects.size() / 2, error, sizeof error);
    if (!module) {
        fprintf(stderr, "%s\n", error);
        return 2;
    }
    for (int i = 2; i + 2 < argc; i += 3) {
        std::deque<Copy> memory;
        for (const Piece& piece : pieces) memory.emplace_back(piece);
        std::vector<Value> values(arguments.begin(), arguments.end());
        for (const Address& a : in_arguments) {
            char* target = memory[a.piece].start() + a.target;
            memcpy(values[a.holder].start() + a.offset, &target, 8);
        }
        for (const Address& a : in_pieces) {
            char* target = memory[a.piece].start() + a.target;
            memcpy(memory[a.holder].start() + a.offset, &target, 8);
        }
        std::vector<void*> handed;
        for (Value& value : values) handed.push_back(value.start());
        if (emulator_launch(module, kernel.c_str(), handed.data(), grid, block, shared, cooperative, atoi(argv[i]),
                            strtoull(argv[i + 1], nullptr, 10), 1, error, sizeof error)) {
            fprintf(stderr, "%s\n", error);
            _exit(3);  // a failed launch leaves its fibers where they were: nothing can be taken down in order
        }
        for (const Address& a : in_pieces) {  // as they were recorded: places in memory are not results
            memcpy(memory[a.holder].start() + a.offset, pieces[a.holder].bytes.data() + a.offset, 8);
        }
        std::ofstream result(argv[i + 2], std::ios::binary);
        for (size_t p = 0; p < pieces.size(); ++p) {
            result.write(memory[p].start(), std::streamsize(pieces[p].bytes.size()));
        }
    }
    return 0;
}
