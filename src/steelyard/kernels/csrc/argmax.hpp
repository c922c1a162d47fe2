// The largest element of each float32 row and where it stands: the greedy choice of a token.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.hpp"
#include "parallel/thread_pool.hpp"

namespace steelyard {

struct ArgmaxArgs {
    const float* x;          // [rows, columns], dense, columns > 0
    float* largest;          // [rows]
    std::int64_t* position;  // [rows]; the first among equals, and the first NaN if there is one
    std::size_t rows;
    std::size_t columns;
};

// The worker's rows. `isa` must be available.
void argmax(const ArgmaxArgs& args, Worker worker, Isa isa);

}  // namespace steelyard
