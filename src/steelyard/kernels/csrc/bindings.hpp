// The rim between Python and the kernels: no arithmetic, and no decisions but refusals that keep the process alive.
//
// Tensors arrive as addresses and sizes. Taking them as DLPack arrays costs several microseconds a call, more than most
// calls compute; kernels/*.py check dtype, layout and device instead, and hold the tensors while a kernel runs. Each
// bind_NAME.cpp adds one kernel's functions to the module.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <string>

#include "isa.hpp"

namespace steelyard {

using Address = std::uintptr_t;
using release_gil = nanobind::call_guard<nanobind::gil_scoped_release>;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

// The instruction set of this name; throws std::invalid_argument (ValueError in Python) if this CPU lacks it, as going
// on would end the process with an illegal instruction.
Isa isa_named(const std::string& name);

void bind_argmax(nanobind::module_& m);
void bind_attention(nanobind::module_& m);
void bind_parallel(nanobind::module_& m);
void bind_probe(nanobind::module_& m);
void bind_program(nanobind::module_& m);
void bind_qgemm(nanobind::module_& m);
void bind_rms_norm(nanobind::module_& m);

}  // namespace steelyard
