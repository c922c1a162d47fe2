#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <vector>

#include "../bindings.hpp"
#include "algorithms.hpp"
#include "stream.hpp"
#include "sums.hpp"
#include "thread_pool.hpp"

namespace steelyard {
namespace {

double sum_f64(ThreadPool& pool, Address x, std::size_t size) { return sum(OnPool(pool), at<const double>(x), size); }

void running_sum_f64(ThreadPool& pool, Address x, Address out, std::size_t size) {
    running_sum(OnPool(pool), at<const double>(x), at<double>(out), size);
}

std::pair<std::array<std::vector<double>, 4>, double> stream_f64(ThreadPool& pool, std::size_t size,
                                                                 std::size_t rounds, bool huge_pages) {
    StreamResult result = stream(pool, size, rounds, huge_pages ? Pages::huge : Pages::usual);
    return {std::move(result.seconds), result.worst_error};
}

void count_visits(ThreadPool& pool, bool dynamic, std::size_t cut, Address counts, std::size_t size) {
    const auto visit = [counts](Range range) {
        for (std::size_t i = range.begin; i < range.end; ++i) ++at<std::int32_t>(counts)[i];
    };
    if (dynamic) for_each_range(OnPool(pool), Dynamic{cut}, size, visit);
    else for_each_range(OnPool(pool), Static{cut}, size, visit);
}

std::size_t count_stragglers(ThreadPool& pool, std::size_t rounds) {
    std::vector<std::atomic<std::size_t>> reached(pool.num_workers());
    std::atomic<std::size_t> stragglers{0};
    pool.run([&](Worker worker) {
        for (std::size_t round = 1; round <= rounds; ++round) {
            reached[worker.index].store(round, std::memory_order_relaxed);
            pool.barrier();
            for (const auto& other : reached) {
                if (other.load(std::memory_order_relaxed) < round) ++stragglers;
            }
        }
    });
    return stragglers;
}

}  // namespace

void bind_parallel(nanobind::module_& m) {
    using namespace nanobind::literals;
    nanobind::class_<ThreadPool>(m, "ThreadPool", "Threads that kernels run on; the calling thread is one of them.")
        .def_prop_ro("num_workers", &ThreadPool::num_workers);
    m.def("make_thread_pool", [](std::size_t num_workers, bool pin) { return new ThreadPool(num_workers, pin); },
          "num_workers"_a, "pin"_a = false, nanobind::rv_policy::take_ownership,
          "A pool whose num_workers - 1 threads start with the first job; with pin each stays on a core of its own.");
    m.def("count_stragglers", &count_stragglers, "pool"_a, "rounds"_a, release_gil(),
          "How often a worker that had passed a barrier saw another that had not come to it.");
    m.def("count_visits", &count_visits, "pool"_a, "dynamic"_a, "cut"_a, "counts"_a, "size"_a, release_gil(),
          "Add 1 to every int32 in counts by the static or the dynamic schedule, cut at multiples of `cut`.");
    m.def("sum_f64", &sum_f64, "pool"_a, "x"_a, "size"_a, release_gil(), "The sum; its bits depend on x alone.");
    m.def("running_sum_f64", &running_sum_f64, "pool"_a, "x"_a, "out"_a, "size"_a, release_gil(),
          "Write x[0] + ... + x[i] to out[i]; the bits depend on x alone.");
    m.def("stream_f64", &stream_f64, "pool"_a, "size"_a, "rounds"_a, "huge_pages"_a = false, release_gil(),
          "Run STREAM: seconds of every round of copy, scale, add and triad, and the worst relative error.");
}

}  // namespace steelyard
