#include "thread_pool.hpp"

#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "targets.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace steelyard {
namespace {

// Rounds of waiting before others get the core: a few microseconds. More would lose more than it wins as soon as two
// workers, or a worker and somebody else's thread, share a core, which the operating system does not mend for
// milliseconds: benchmarks/bench_threads.py shows both sides.
constexpr int spins_before_yield = 128;
// How long an idle worker looks for the next job before it sleeps: longer than the pause between two steps. It yields
// all that time.
constexpr std::chrono::microseconds idle_patience{500};

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// How often this process's ancestors and itself were forked: a child has none of the threads its parent had.
std::atomic<int> num_forks{0};
#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int watching_forks = pthread_atfork(nullptr, nullptr, [] { num_forks.fetch_add(1); });
#endif

// Pauses between two looks at what one waits for; others get the core when it takes long.
class Patience {
  public:
    explicit Patience(int spins) : spins_(spins) {}

    void wait() {
        if (ended()) {
            std::this_thread::yield();
        } else {
            --spins_;
            relax();
        }
    }

    // Whether it yields by now.
    bool ended() const { return spins_ == 0; }

  private:
    int spins_;
};

// Rounds that one of `num_threads` spins: where they outnumber the cores, whoever spins keeps another from coming.
int patient_spins(std::size_t num_threads) { return num_threads > usable_cores().size() ? 0 : spins_before_yield; }

}  // namespace

SpinBarrier::SpinBarrier(std::size_t count) : count_(count), spins_(patient_spins(count)) {}

void SpinBarrier::wait() {
    if (count_ == 1) return;
    const std::size_t round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
        arrived_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        return;
    }
    Patience patience(spins_);
    while (round_.load(std::memory_order_acquire) == round) patience.wait();
}

// The threads of one pool in one process, and what they share.
struct ThreadPool::Crew {
    explicit Crew(std::size_t count) : num_workers(count), spins(patient_spins(count)), barrier(count) {}
    ~Crew() { dismiss(); }

    void hire(bool pin);
    void dismiss();
    void announce(Function next_function, const void* next_data);
    void serve(std::size_t index);
    void await_job(std::uint32_t seen);

    const int born = num_forks.load();
    const std::size_t num_workers;
    const int spins;
    SpinBarrier barrier;
    std::mutex turn;
    std::vector<std::thread> threads;

    // A job is written beside the number of jobs before that grows: who sees the new number sees the job.
    alignas(64) std::atomic<std::uint32_t> num_jobs{0};
    Function function = nullptr;  // nullptr: go home
    const void* data = nullptr;
    alignas(64) std::atomic<std::size_t> num_busy{0};
    std::atomic<int> num_asleep{0};
};

void ThreadPool::Crew::hire(bool pin) {
    const std::vector<int> cores = usable_cores();
    try {
        for (std::size_t index = 1; index < num_workers; ++index) {
            threads.emplace_back([this, index] { serve(index); });
            if (pin && !cores.empty()) stay_on_core(threads.back(), cores[index % cores.size()]);
        }
    } catch (...) {
        dismiss();
        throw;
    }
}

void ThreadPool::Crew::dismiss() {
    announce(nullptr, nullptr);
    for (std::thread& thread : threads) thread.join();
    threads.clear();
    num_jobs = 0;  // where threads hired after a failure begin to count
}

void ThreadPool::Crew::announce(Function next_function, const void* next_data) {
    function = next_function;
    data = next_data;
    num_busy.store(threads.size(), std::memory_order_relaxed);
    num_jobs.fetch_add(1);  // sequentially consistent, as in await_job: we see who sleeps, or it sees the new number
    if (num_asleep.load() > 0) num_jobs.notify_all();
}

void ThreadPool::Crew::serve(std::size_t index) {
    for (std::uint32_t seen = 0;; ++seen) {
        await_job(seen);
        if (function == nullptr) return;
        function(data, Worker{index, num_workers});
        num_busy.fetch_sub(1, std::memory_order_release);
    }
}

void ThreadPool::Crew::await_job(std::uint32_t seen) {
    const auto give_up = std::chrono::steady_clock::now() + idle_patience;
    Patience patience(spins);
    while (num_jobs.load(std::memory_order_acquire) == seen) {
        patience.wait();
        if (patience.ended() && std::chrono::steady_clock::now() > give_up) break;
    }
    num_asleep.fetch_add(1);
    num_jobs.wait(seen);  // returns at once if the job is there
    num_asleep.fetch_sub(1);
}

ThreadPool::ThreadPool(std::size_t num_workers, bool pin)
    : num_workers_(num_workers > 0 ? num_workers : 1), pin_(pin), crew_(new Crew(num_workers_)) {}

ThreadPool::~ThreadPool() {
    Crew* crew = crew_.load();
    if (crew->born == num_forks.load()) delete crew;
}

void ThreadPool::barrier() { crew_.load(std::memory_order_relaxed)->barrier.wait(); }

// This process's crew. A forked child leaves its parent's as it is: its threads are elsewhere, its lock may be taken.
ThreadPool::Crew& ThreadPool::crew() {
    Crew* found = crew_.load(std::memory_order_acquire);
    if (found->born == num_forks.load(std::memory_order_relaxed)) return *found;
    Crew* fresh = new Crew(num_workers_);
    if (crew_.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
    return *found;
}

void ThreadPool::run_erased(Function function, const void* data) {
    if (num_workers_ == 1) return function(data, Worker{0, 1});
    Crew& crew = this->crew();
    const std::lock_guard<std::mutex> lock(crew.turn);
    if (crew.threads.empty()) crew.hire(pin_);
    crew.announce(function, data);
    function(data, Worker{0, num_workers_});
    Patience patience(crew.spins);
    while (crew.num_busy.load(std::memory_order_acquire) > 0) patience.wait();
}

}  // namespace steelyard
