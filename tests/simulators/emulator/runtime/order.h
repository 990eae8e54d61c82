// The order in which threads of a block, and blocks of a grid, get to run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace emulator {

enum class Order { breadth_first, reversed, depth_first, random };

class Queue {
  public:
    Queue(Order order, uint64_t seed) : order(order), state(seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du) {}

    bool empty() const { return head == items.size(); }
    void add(int item) { items.push_back(item); }

    // Add several, given in ascending order, that may run from now on.
    void add_all(std::vector<int>& released) {
        if (order == Order::reversed || order == Order::depth_first) std::reverse(released.begin(), released.end());
        items.insert(items.end(), released.begin(), released.end());
    }

    int take() {
        int item;
        if (order == Order::depth_first) {
            item = items.back();
            items.pop_back();
        } else {
            if (order == Order::random) std::swap(items[head], items[head + below(items.size() - head)]);
            item = items[head++];
        }
        if (head == items.size()) {
            items.clear();
            head = 0;
        }
        return item;
    }

    // Whether who has just let others go steps back behind them.
    bool steps_back() { return order == Order::random && below(2); }

  private:
    size_t below(size_t limit) {  // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return size_t((state * 0x2545f4914f6cdd1du) >> 33) % limit;
    }

    Order order;
    uint64_t state;
    std::vector<int> items;
    size_t head = 0;
};

}  // namespace emulator
