#include "bindings.hpp"
#include "rms_norm.hpp"

namespace steelyard {
namespace {

void rms_norm_f32_on(const std::string& isa, Address x, Address weight, Address out, std::size_t rows,
                     std::size_t hidden, float eps) {
    rms_norm({at<const float>(x), at<const float>(weight), at<float>(out), rows, hidden, eps}, isa_named(isa));
}

void rms_norm_f32(Address x, Address weight, Address out, std::size_t rows, std::size_t hidden, float eps) {
    rms_norm({at<const float>(x), at<const float>(weight), at<float>(out), rows, hidden, eps}, best_isa());
}

}  // namespace

void bind_rms_norm(nanobind::module_& m) {
    using namespace nanobind::literals;
    m.def("rms_norm_f32", &rms_norm_f32, "x"_a, "weight"_a, "out"_a, "rows"_a, "hidden"_a, "eps"_a, release_gil(),
          "Norm dense float32 rows at the addresses given, on the widest instruction set.");
    m.def("rms_norm_f32_on", &rms_norm_f32_on, "isa"_a, "x"_a, "weight"_a, "out"_a, "rows"_a, "hidden"_a, "eps"_a,
          release_gil(), "As rms_norm_f32, on a named instruction set; ValueError if this CPU lacks it.");
}

}  // namespace steelyard
