// How work runs: an executor lets each of its workers run the same body once.
//
// Algorithms (algorithms.hpp) and arrays (targets.hpp) know an executor by this face alone, so that the same loop runs on
// the calling thread, on a pool, or on whatever comes next.
#pragma once

#include <concepts>

#include "thread_pool.hpp"

namespace steelyard {

namespace detail {
inline constexpr auto any_body = [](Worker) {};
}

template <class T>
concept Executor = requires(const T executor) {
    { executor.num_workers() } -> std::convertible_to<std::size_t>;
    // Runs body(Worker) once for every worker and returns when all are done. A body must not throw.
    executor.run_on_all(detail::any_body);
};

// The calling thread alone.
struct Serial {
    std::size_t num_workers() const { return 1; }

    template <class Body>
    void run_on_all(const Body& body) const {
        body(Worker{0, 1});
    }
};

// A pool's threads, the calling one among them.
class OnPool {
  public:
    explicit OnPool(ThreadPool& pool) : pool_(&pool) {}

    std::size_t num_workers() const { return pool_->num_workers(); }

    template <class Body>
    void run_on_all(const Body& body) const {
        pool_->run(body);
    }

  private:
    ThreadPool* pool_;
};

static_assert(Executor<Serial> && Executor<OnPool>);

}  // namespace steelyard
