// Activation rows to 8 bits, compiled once per instruction set (isa.hpp). The same bits on all of them.

#include <math.h>
#include <string.h>

#include "qgemm.hpp"
#include "vec.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

constexpr float smallest_amax = 0x1p-100f;  // below it 127 / amax comes too near to infinity
constexpr float rounder = 0x1.8p23f;        // adding it rounds to an integer, half to even, which ends the sum's bits
constexpr std::size_t num_lanes = 16;
static_assert(block_length == 2 * num_lanes);

// 32 numbers.
struct Pair {
    Floats first, second;
};

STEELYARD_INLINE Pair load_pair(const float* p) { return {load(p), load(p + num_lanes)}; }

// The first n of them, zeros after.
STEELYARD_INLINE Pair load_pair_first(const float* p, std::size_t n) {
    if (n <= num_lanes) return {load_first(p, n), zeros()};
    return {load(p), load_first(p + num_lanes, n - num_lanes)};
}

// As integers, magnitudes order like the numbers, and NaN comes out largest.
STEELYARD_INLINE float largest_magnitude(const Pair& x) {
    const std::int32_t bits = largest(larger(without_sign(bits_of(x.first)), without_sign(bits_of(x.second))));
    float magnitude;
    memcpy(&magnitude, &bits, sizeof(bits));
    return magnitude;
}

STEELYARD_INLINE Ints rounded(Floats x, float inverse) {
    return bits_of(x * all(inverse) + all(rounder)) - bits_of(all(rounder));
}

STEELYARD_INLINE void quantise_block(const Pair& x, ActivationBlock& out) {
    const float amax = largest_magnitude(x);
    const bool vanishes = amax < smallest_amax;
    const float inverse = vanishes ? 0.0f : 127.0f / amax;
    const Ints first = rounded(x.first, inverse), second = rounded(x.second, inverse);
    store_low_bytes(out.values, first);
    store_low_bytes(out.values + num_lanes, second);
    const std::int32_t sum = total(first + second);
    out.scale = vanishes ? 0.0f : amax / 127.0f;
    out.sum = out.scale * static_cast<float>(sum);
    out.negative_sum = -sum;
}

STEELYARD_INLINE Pair normed(const Pair& x, const Pair& weight, Floats scale) {
    return {x.first * scale * weight.first, x.second * scale * weight.second};
}

// The sum of squares in the order of rms_norm_kernel.cpp, so that fused and separate norms have the same bits.
float sum_of_squares(const float* x, std::size_t length) {
    Pair sums{zeros(), zeros()};
    const auto add = [&](const Pair& some) STEELYARD_INLINE_LAMBDA {
        sums = {sums.first + some.first * some.first, sums.second + some.second * some.second};
    };
    std::size_t start = 0;
    for (; start + block_length <= length; start += block_length) add(load_pair(x + start));
    if (start < length) add(load_pair_first(x + start, length - start));
    float lanes[num_lanes];
    store(lanes, sums.first + sums.second);
    for (std::size_t half = num_lanes / 2; half > 0; half /= 2) {
        for (std::size_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    }
    return lanes[0];
}

}  // namespace

void quantise_rows(const QuantiseRowsArgs& args, Worker worker) {
    const std::size_t length = args.out.num_inputs, whole = length / block_length;
    const Range rows = share(args.out.num_rows, worker);
    for (std::size_t row = rows.begin; row < rows.end; ++row) {
        const float* x = args.x + row * args.x_stride;
        ActivationBlock* out = args.out.row(row);
        for (std::size_t b = 0; b < whole; ++b, x += block_length) quantise_block(load_pair(x), out[b]);
        if (length % block_length) quantise_block(load_pair_first(x, length % block_length), out[whole]);
    }
}

void rms_norm_quantise_rows(const RmsNormQuantiseArgs& args, Worker worker) {
    const std::size_t length = args.rows.out.num_inputs, whole = length / block_length;
    const Range rows = share(args.rows.out.num_rows, worker);
    for (std::size_t row = rows.begin; row < rows.end; ++row) {
        const float *x = args.rows.x + row * args.rows.x_stride, *weight = args.weight;
        const float mean = sum_of_squares(x, length) / static_cast<float>(length);
        const Floats scale = all(1.0f / sqrtf(mean + args.eps));
        ActivationBlock* out = args.rows.out.row(row);
        for (std::size_t b = 0; b < whole; ++b, x += block_length, weight += block_length) {
            quantise_block(normed(load_pair(x), load_pair(weight), scale), out[b]);
        }
        if (const std::size_t rest = length % block_length) {
            quantise_block(normed(load_pair_first(x, rest), load_pair_first(weight, rest), scale), out[whole]);
        }
    }
}

}  // namespace steelyard::STEELYARD_ISA
