#include "targets.hpp"

#include <limits>
#include <new>
#include <numeric>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#endif

namespace steelyard {
namespace {

constexpr std::size_t cache_line = 64;
constexpr std::size_t huge_page = std::size_t{1} << 21;

}  // namespace

std::vector<int> usable_cores() {
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
        std::vector<int> cores;
        for (int core = 0; core < CPU_SETSIZE; ++core) {
            if (CPU_ISSET(core, &allowed)) cores.push_back(core);
        }
        return cores;
    }
#endif
    std::vector<int> cores(std::thread::hardware_concurrency());
    std::iota(cores.begin(), cores.end(), 0);
    return cores;
}

void stay_on_core([[maybe_unused]] std::thread& thread, [[maybe_unused]] int core) {
#if defined(__linux__)
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    pthread_setaffinity_np(thread.native_handle(), sizeof(one), &one);
#endif
}

void FreeMemory::operator()(void* memory) const { ::operator delete(memory, std::align_val_t{alignment}); }

Memory allocate(std::size_t count, std::size_t element_bytes, Pages pages) {
    if (count > std::numeric_limits<std::size_t>::max() / element_bytes) throw std::bad_alloc();
    const std::size_t bytes = count * element_bytes;
    const std::size_t alignment = pages == Pages::huge ? huge_page : cache_line;
    Memory memory(::operator new(bytes, std::align_val_t{alignment}), FreeMemory{alignment});
#if defined(__linux__)
    // A wish: where it is not granted the pages are the usual ones.
    if (pages == Pages::huge) madvise(memory.get(), bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
    return memory;
}

}  // namespace steelyard
