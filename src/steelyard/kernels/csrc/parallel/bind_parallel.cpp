#include "../bindings.hpp"
#include "thread_pool.hpp"

namespace steelyard {

void bind_parallel(nanobind::module_& m) {
    using namespace nanobind::literals;
    nanobind::class_<ThreadPool>(m, "ThreadPool", "Threads that kernels run on; the calling thread is one of them.")
        .def_prop_ro("num_workers", &ThreadPool::num_workers);
    m.def("make_thread_pool", [](std::size_t num_workers, bool pin) { return new ThreadPool(num_workers, pin); },
          "num_workers"_a, "pin"_a = false, nanobind::rv_policy::take_ownership,
          "Start num_workers - 1 threads; with pin each stays on a core of its own.");
}

}  // namespace steelyard
