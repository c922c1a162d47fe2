// McCalpin's STREAM on the layer of this folder: copy c = a, scale b = 3 c, add c = a + b, triad a = b + 3 c, float64.
// It measures how this layer places pages and divides loops; probe/stream_kernel.cpp is another measure, of what the
// widest instructions get from each cache and from memory: float32, once per instruction set, without placement.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "targets.hpp"

namespace steelyard {

struct StreamResult {
    std::array<std::vector<double>, 4> seconds;  // of copy, scale, add and triad, one per round
    double worst_error;                          // largest relative error of an element after the last round
};

// Makes three arrays of `size` elements and runs the four loops, in turn, `rounds` times.
StreamResult stream(ThreadPool& pool, std::size_t size, std::size_t rounds, Pages pages);

}  // namespace steelyard
