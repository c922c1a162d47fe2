// Activation rows to 8 bits, compiled once per instruction set (isa.hpp). The same bits on all of them.

#include <math.h>
#include <string.h>

#include "qgemm.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

constexpr float smallest_amax = 0x1p-100f;  // below it 127 / amax comes too near to infinity
constexpr float rounder = 0x1.8p23f;        // adding it rounds to an integer, half to even, which ends the sum's bits

inline std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

inline float from_bits(std::uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

// As integers, magnitudes order like the numbers, and NaN comes out largest.
inline float largest_magnitude(const float* x) {
    std::int32_t largest = 0;
    for (std::size_t i = 0; i < block_length; ++i) {
        const std::int32_t magnitude = static_cast<std::int32_t>(bits_of(x[i]) & 0x7fffffffu);
        largest = magnitude > largest ? magnitude : largest;
    }
    return from_bits(static_cast<std::uint32_t>(largest));
}

inline void quantise_block(const float* x, ActivationBlock& out) {
    const float amax = largest_magnitude(x);
    const bool vanishes = amax < smallest_amax;
    const float inverse = vanishes ? 0.0f : 127.0f / amax;
    std::int32_t total = 0;
    for (std::size_t i = 0; i < block_length; ++i) {
        const std::int32_t rounded = static_cast<std::int32_t>(bits_of(x[i] * inverse + rounder) - bits_of(rounder));
        out.values[i] = static_cast<std::int8_t>(rounded);
        total += static_cast<std::int8_t>(rounded);
    }
    out.scale = vanishes ? 0.0f : amax / 127.0f;
    out.sum = out.scale * static_cast<float>(total);
    out.negative_sum = -total;
}

// Row blocks of 32 numbers at(i) … at(i + 31), the last filled up with zeros.
template <class At>
inline void quantise_row(std::size_t length, ActivationBlock* out, const At& at) {
    for (std::size_t start = 0; start < length; start += block_length, ++out) {
        const std::size_t count = length - start < block_length ? length - start : block_length;
        float block[block_length] = {};
        if (count == block_length) {
            for (std::size_t i = 0; i < block_length; ++i) block[i] = at(start + i);
        } else {
            for (std::size_t i = 0; i < count; ++i) block[i] = at(start + i);
        }
        quantise_block(block, *out);
    }
}

// The sum of squares in the order of rms_norm_kernel.cpp, so that fused and separate norms have the same bits.
constexpr std::size_t num_lanes = 32;

float sum_of_squares(const float* x, std::size_t length) {
    float lanes[num_lanes] = {};
    std::size_t start = 0;
    for (; start + num_lanes <= length; start += num_lanes) {
        for (std::size_t lane = 0; lane < num_lanes; ++lane) lanes[lane] += x[start + lane] * x[start + lane];
    }
    for (std::size_t lane = 0; start + lane < length; ++lane) lanes[lane] += x[start + lane] * x[start + lane];
    for (std::size_t half = num_lanes / 2; half > 0; half /= 2) {
        for (std::size_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    }
    return lanes[0];
}

}  // namespace

void quantise_rows(const QuantiseRowsArgs& args, Worker worker) {
    const Range rows = share(args.out.num_rows, worker);
    for (std::size_t row = rows.begin; row < rows.end; ++row) {
        const float* x = args.x + row * args.x_stride;
        quantise_row(args.out.num_inputs, args.out.row(row), [x](std::size_t i) { return x[i]; });
    }
}

void rms_norm_quantise_rows(const RmsNormQuantiseArgs& args, Worker worker) {
    const std::size_t length = args.rows.out.num_inputs;
    const Range rows = share(args.rows.out.num_rows, worker);
    for (std::size_t row = rows.begin; row < rows.end; ++row) {
        const float* x = args.rows.x + row * args.rows.x_stride;
        const float* weight = args.weight;
        const float mean = sum_of_squares(x, length) / static_cast<float>(length);
        const float scale = 1.0f / sqrtf(mean + args.eps);
        quantise_row(length, args.rows.out.row(row), [=](std::size_t i) { return x[i] * scale * weight[i]; });
    }
}

}  // namespace steelyard::STEELYARD_ISA
