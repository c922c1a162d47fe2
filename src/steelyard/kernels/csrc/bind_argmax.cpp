#include "argmax.hpp"
#include "bindings.hpp"

namespace steelyard {
namespace {

void argmax_f32_on(const std::string& isa, ThreadPool& pool, Address x, Address largest, Address position,
                   std::size_t rows, std::size_t columns) {
    const ArgmaxArgs args{at<const float>(x), at<float>(largest), at<std::int64_t>(position), rows, columns};
    const Isa chosen = isa_named(isa);
    pool.run([&](Worker worker) { argmax(args, worker, chosen); });
}

void argmax_f32(ThreadPool& pool, Address x, Address largest, Address position, std::size_t rows,
                std::size_t columns) {
    const ArgmaxArgs args{at<const float>(x), at<float>(largest), at<std::int64_t>(position), rows, columns};
    const Isa best = best_isa();
    pool.run([&](Worker worker) { argmax(args, worker, best); });
}

}  // namespace

void bind_argmax(nanobind::module_& m) {
    using namespace nanobind::literals;
    m.def("argmax_f32", &argmax_f32, "pool"_a, "x"_a, "largest"_a, "position"_a, "rows"_a, "columns"_a, release_gil(),
          "Write each dense float32 row's largest element and its first position, on the widest instruction set.");
    m.def("argmax_f32_on", &argmax_f32_on, "isa"_a, "pool"_a, "x"_a, "largest"_a, "position"_a, "rows"_a, "columns"_a,
          release_gil(), "As argmax_f32, on a named instruction set; ValueError if this CPU lacks it.");
}

}  // namespace steelyard
