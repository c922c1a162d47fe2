// Where work runs: the cores that a process may use, and the memory near them.
//
// Memory has no place until it is written: the operating system takes a page from the memory nearest to the core that
// touches it first. An Array is therefore filled by the workers that will use it, each the share that a later loop with
// the static schedule (algorithms.hpp) gives it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "thread_pool.hpp"

namespace steelyard {

// The numbers of the cores that this process may use, in order; where it cannot be asked, of all there are.
std::vector<int> usable_cores();

// Keeps a thread on one core; does nothing where the operating system has no way to.
void stay_on_core(std::thread& thread, int core);

// Pages of the usual size, or large ones (2 MiB) where the operating system grants them.
enum class Pages { usual, huge };

struct FreeMemory {
    std::size_t alignment;
    void operator()(void* memory) const;
};
using Memory = std::unique_ptr<void, FreeMemory>;

// Memory for `count` elements that nobody has touched, beginning at a cache line, or at a large page. Throws
// std::bad_alloc.
Memory allocate(std::size_t count, std::size_t element_bytes, Pages pages);

// `size` elements beside the workers of an executor.
template <class T>
class Array {
    static_assert(std::is_trivial_v<T>);

  public:
    template <class Executor>
    Array(const Executor& executor, std::size_t size, T value, Pages pages = Pages::usual)
        : memory_(allocate(size, sizeof(T), pages)) {
        T* const first = data();
        executor.run_on_all([=](Worker worker) {
            const Range part = share(size, worker);
            std::fill(first + part.begin, first + part.end, value);
        });
    }

    T* data() { return static_cast<T*>(memory_.get()); }

  private:
    Memory memory_;
};

}  // namespace steelyard
