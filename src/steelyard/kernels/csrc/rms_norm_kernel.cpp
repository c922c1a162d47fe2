// The loop over rows, compiled once per instruction set (isa.hpp).
//
// Floating-point contraction is off (CMakeLists.txt), so a multiply-add rounds twice wherever it runs and all
// instruction sets give the same bits.

#include <math.h>

#include "rms_norm.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

// Partial sums kept side by side: two vectors of the widest instruction set, eight of the narrowest.
constexpr std::size_t num_lanes = 32;

float fold(float* lanes) {
    for (std::size_t half = num_lanes / 2; half > 0; half /= 2) {
        for (std::size_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    }
    return lanes[0];
}

float sum_of_squares(const float* x, std::size_t length) {
    float lanes[num_lanes] = {};
    std::size_t start = 0;
    for (; start + num_lanes <= length; start += num_lanes) {
        for (std::size_t lane = 0; lane < num_lanes; ++lane) lanes[lane] += x[start + lane] * x[start + lane];
    }
    for (std::size_t lane = 0; start + lane < length; ++lane) lanes[lane] += x[start + lane] * x[start + lane];
    return fold(lanes);
}

}  // namespace

void rms_norm_rows(const RmsNormArgs& args) {
    for (std::size_t row = 0; row < args.rows; ++row) {
        const float* x = args.x + row * args.hidden;
        float* out = args.out + row * args.hidden;
        const float mean = sum_of_squares(x, args.hidden) / static_cast<float>(args.hidden);
        const float scale = 1.0f / sqrtf(mean + args.eps);
        for (std::size_t i = 0; i < args.hidden; ++i) out[i] = x[i] * scale * args.weight[i];
    }
}

}  // namespace steelyard::STEELYARD_ISA
