// Sums over dense arrays, each one call of an algorithm.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "algorithms.hpp"

namespace steelyard {

// The sum of x[0 … size − 1], the same bits on any executor.
template <Executor E>
double sum(const E& executor, const double* x, std::size_t size) {
    constexpr std::size_t num_lanes = 8;  // running sums side by side, which the compiler makes vectors of
    const auto sum_block = [x](Range block) {
        std::array<double, num_lanes> lanes{};
        std::size_t i = block.begin;
        for (; i + num_lanes <= block.end; i += num_lanes) {
            for (std::size_t lane = 0; lane < num_lanes; ++lane) lanes[lane] += x[i + lane];
        }
        for (std::size_t lane = 0; i + lane < block.end; ++lane) lanes[lane] += x[i + lane];
        return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
    };
    return reduce(executor, size, 0.0, sum_block, [](double left, double right) { return left + right; });
}

// out[i] = x[0] + … + x[i]; `out` may be `x`.
template <Executor E>
void running_sum(const E& executor, const double* x, double* out, std::size_t size) {
    inclusive_scan(executor, size, x, out, 0.0, [](double left, double right) { return left + right; });
}

}  // namespace steelyard
