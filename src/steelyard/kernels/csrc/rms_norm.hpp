// Root-mean-square norm of float32 rows: out = (x / sqrt(mean(x^2) + eps)) * weight.
#pragma once

#include <cstddef>

#include "isa.hpp"

namespace steelyard {

struct RmsNormArgs {
    const float* x;       // [rows, hidden], dense
    const float* weight;  // [hidden]
    float* out;           // [rows, hidden], dense; may be x itself, must not overlap it otherwise
    std::size_t rows;
    std::size_t hidden;
    float eps;
};

// The order of summation depends on `hidden` alone, so a row's bits depend neither on the other rows nor on the
// instruction set. Runs on the calling thread. `isa` must be available.
void rms_norm(const RmsNormArgs& args, Isa isa);

}  // namespace steelyard
