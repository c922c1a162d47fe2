// Threads that wait for work, and the barrier between them.
//
// A job is one function that every worker runs at once, each on its share; the calling thread is worker 0. A whole model
// step is one job with barriers inside, so threads are woken once per step. Waiting workers spin for a short while, as
// the next step usually follows at once, and then sleep.
#pragma once

#include <atomic>
#include <cstddef>

namespace steelyard {

// Which of how many equal workers somebody is.
struct Worker {
    std::size_t index = 0;
    std::size_t count = 1;
};

struct Range {
    std::size_t begin;
    std::size_t end;
};

// The worker's part of 0 … size − 1, cut at multiples of `granule`; parts differ by at most one granule. Static, so that
// each compilation of a kernel has its own (isa.hpp).
[[maybe_unused]] static inline Range share(std::size_t size, Worker worker, std::size_t granule = 1) {
    const std::size_t granules = (size + granule - 1) / granule;
    const std::size_t begin = granules * worker.index / worker.count * granule;
    const std::size_t end = granules * (worker.index + 1) / worker.count * granule;
    return {begin < size ? begin : size, end < size ? end : size};
}

// Lets `count` threads meet again and again. Spins; yields the core if others are slow to come, at once if there are
// fewer cores than threads.
class SpinBarrier {
  public:
    explicit SpinBarrier(std::size_t count);

    void wait();

  private:
    const std::size_t count_;
    const int spins_;
    alignas(64) std::atomic<std::size_t> arrived_{0};
    alignas(64) std::atomic<std::size_t> round_{0};
};

class ThreadPool {
  public:
    // `num_workers` − 1 threads, at least none, that start with the first job. With `pin`, each stays on a core of its
    // own among those the process may use; the calling thread is left alone.
    explicit ThreadPool(std::size_t num_workers, bool pin = false);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    std::size_t num_workers() const { return num_workers_; }

    // Runs `body(Worker)` on every worker and returns when all are done. Calls from several threads take turns. The body
    // must not call run again, and an exception that leaves it ends the process. A forked child starts threads of its
    // own. Throws std::system_error, before anything ran, if the threads cannot be started.
    template <class Body>
    void run(const Body& body) {
        run_erased([](const void* data, Worker worker) noexcept { (*static_cast<const Body*>(data))(worker); }, &body);
    }

    // Waits, inside a job, until every worker has come here.
    void barrier();

  private:
    using Function = void (*)(const void*, Worker) noexcept;
    struct Crew;

    void run_erased(Function function, const void* data);
    Crew& crew();

    const std::size_t num_workers_;
    const bool pin_;
    std::atomic<Crew*> crew_;
};

}  // namespace steelyard
