#include "thread_pool.hpp"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

#include <chrono>

namespace steelyard {
namespace {

// Rounds of waiting before others get the core: some tens of microseconds.
constexpr int spins_before_yield = 1 << 14;
// How long an idle worker looks for the next job before it sleeps: longer than the pause between two steps.
constexpr std::chrono::microseconds idle_spin{500};

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void stay_on_core([[maybe_unused]] std::thread& thread, [[maybe_unused]] std::size_t index) {
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
    const std::size_t num_cores = static_cast<std::size_t>(CPU_COUNT(&allowed));
    if (num_cores == 0) return;
    std::size_t skip = index % num_cores;
    for (int core = 0; core < CPU_SETSIZE; ++core) {
        if (!CPU_ISSET(core, &allowed) || skip-- > 0) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(core, &one);
        pthread_setaffinity_np(thread.native_handle(), sizeof(one), &one);
        return;
    }
#endif
}

}  // namespace

void SpinBarrier::wait() {
    if (count_ == 1) return;
    const std::size_t round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
        arrived_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        return;
    }
    int spins = 0;
    while (round_.load(std::memory_order_acquire) == round) {
        if (++spins < spins_before_yield) relax();
        else std::this_thread::yield();
    }
}

ThreadPool::ThreadPool(std::size_t num_workers, bool pin)
    : num_workers_(num_workers > 0 ? num_workers : 1), barrier_(num_workers_), done_(num_workers_) {
    for (std::size_t index = 1; index < num_workers_; ++index) {
        threads_.emplace_back([this, index] { serve(index); });
        if (pin) stay_on_core(threads_.back(), index);
    }
}

ThreadPool::~ThreadPool() {
    stopping_ = true;
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run_erased(Function function, const void* data) {
    const std::lock_guard<std::mutex> lock(turn_);
    if (num_workers_ > 1) {
        function_ = function;
        data_ = data;
        generation_.fetch_add(1, std::memory_order_release);
        generation_.notify_all();
    }
    function(data, Worker{0, num_workers_});
    done_.wait();
}

void ThreadPool::serve(std::size_t index) {
    for (std::uint32_t seen = 0;; ++seen) {
        const auto give_up = std::chrono::steady_clock::now() + idle_spin;
        while (generation_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < give_up) {
            for (int i = 0; i < 32; ++i) relax();
        }
        generation_.wait(seen, std::memory_order_acquire);
        if (stopping_) return;
        function_(data_, Worker{index, num_workers_});
        done_.wait();
    }
}

}  // namespace steelyard
