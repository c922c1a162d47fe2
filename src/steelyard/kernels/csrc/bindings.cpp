#include "bindings.hpp"

#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <vector>

namespace steelyard {
namespace {

std::vector<std::string> available_isa_names() {
    std::vector<std::string> names;
    for (Isa isa : all_isas) {
        if (isa_available(isa)) names.emplace_back(isa_name(isa));
    }
    return names;
}

}  // namespace

Isa isa_named(const std::string& name) {
    for (Isa isa : all_isas) {
        if (name == isa_name(isa) && isa_available(isa)) return isa;
    }
    throw std::invalid_argument("instruction set '" + name + "' is not available here");
}

}  // namespace steelyard

NB_MODULE(_native, m) {
    // Thread pools live as long as the process, and whether Python drops them before it leaves depends on who holds them.
    nanobind::set_leak_warnings(false);
    m.def("isas", &steelyard::available_isa_names, "Instruction sets of this CPU that kernels exist for, widest last.");
    steelyard::bind_argmax(m);
    steelyard::bind_attention(m);
    steelyard::bind_parallel(m);
    steelyard::bind_probe(m);
    steelyard::bind_program(m);
    steelyard::bind_qgemm(m);
    steelyard::bind_rms_norm(m);
}
