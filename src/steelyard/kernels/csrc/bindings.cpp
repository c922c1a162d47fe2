// The rim between Python and the kernels: no arithmetic, and no decisions but one refusal.
//
// Tensors arrive as addresses and sizes. Taking them as DLPack arrays costs several microseconds a call, more than most
// calls compute; kernels/*.py check dtype, layout and device instead, and hold the tensors while a kernel runs.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <stdexcept>

#include "isa.hpp"
#include "rms_norm.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace steelyard {
namespace {

std::vector<std::string> available_isa_names() {
    std::vector<std::string> names;
    for (Isa isa : all_isas) {
        if (isa_available(isa)) names.emplace_back(isa_name(isa));
    }
    return names;
}

Isa isa_named(const std::string& name) {
    for (Isa isa : all_isas) {
        if (name == isa_name(isa) && isa_available(isa)) return isa;
    }
    // Going on would end the process with an illegal instruction.
    throw std::invalid_argument("instruction set '" + name + "' is not available here");
}

RmsNormArgs rms_norm_args(std::uintptr_t x, std::uintptr_t weight, std::uintptr_t out, std::size_t rows,
                          std::size_t hidden, float eps) {
    return {reinterpret_cast<const float*>(x), reinterpret_cast<const float*>(weight), reinterpret_cast<float*>(out),
            rows, hidden, eps};
}

void rms_norm_f32(std::uintptr_t x, std::uintptr_t weight, std::uintptr_t out, std::size_t rows, std::size_t hidden,
                  float eps) {
    rms_norm(rms_norm_args(x, weight, out, rows, hidden, eps), best_isa());
}

void rms_norm_f32_on(const std::string& isa, std::uintptr_t x, std::uintptr_t weight, std::uintptr_t out,
                     std::size_t rows, std::size_t hidden, float eps) {
    rms_norm(rms_norm_args(x, weight, out, rows, hidden, eps), isa_named(isa));
}

}  // namespace
}  // namespace steelyard

NB_MODULE(_native, m) {
    using release_gil = nb::call_guard<nb::gil_scoped_release>;
    m.def("isas", &steelyard::available_isa_names, "Instruction sets of this CPU that kernels exist for, widest last.");
    m.def("rms_norm_f32", &steelyard::rms_norm_f32, "x"_a, "weight"_a, "out"_a, "rows"_a, "hidden"_a, "eps"_a,
          release_gil(), "Norm dense float32 rows at the addresses given, on the widest instruction set.");
    m.def("rms_norm_f32_on", &steelyard::rms_norm_f32_on, "isa"_a, "x"_a, "weight"_a, "out"_a, "rows"_a, "hidden"_a,
          "eps"_a, release_gil(), "As rms_norm_f32, on a named instruction set; ValueError if this CPU lacks it.");
}
