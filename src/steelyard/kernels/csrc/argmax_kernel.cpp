// The loop over rows, compiled once per instruction set (isa.hpp).
//
// A row is read once, block by block, for each block's maximum alone, which vectors find fast; positions are looked for
// only in the block that holds the row's, which the first-level cache still has or the second.

#include "argmax.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

// Maxima kept side by side: two vectors of the widest instruction set, eight of the narrowest.
constexpr std::size_t num_lanes = 32;
constexpr std::size_t block_size = 32 * num_lanes;

struct Block {
    float largest;  // of what is not NaN
    bool has_nan;
};

// `x` holds block_size elements.
Block look_at(const float* x) {
    float largest[num_lanes];
    std::uint32_t nans[num_lanes] = {};
    for (std::size_t lane = 0; lane < num_lanes; ++lane) largest[lane] = -__builtin_inff();
    for (std::size_t i = 0; i < block_size; i += num_lanes) {
        for (std::size_t lane = 0; lane < num_lanes; ++lane) {
            const float here = x[i + lane];
            largest[lane] = here > largest[lane] ? here : largest[lane];
            nans[lane] |= here != here;
        }
    }
    for (std::size_t half = num_lanes / 2; half > 0; half /= 2) {
        for (std::size_t lane = 0; lane < half; ++lane) {
            largest[lane] = largest[lane + half] > largest[lane] ? largest[lane + half] : largest[lane];
            nans[lane] |= nans[lane + half];
        }
    }
    return {largest[0], nans[0] != 0};
}

// The position of the largest of x[begin … end − 1], one after another.
std::size_t scan(const float* x, std::size_t begin, std::size_t end) {
    std::size_t best = begin;
    for (std::size_t i = begin; i < end; ++i) {
        if (x[i] != x[i]) return i;
        if (x[i] > x[best]) best = i;
    }
    return best;
}

std::size_t argmax_row(const float* x, std::size_t columns) {
    const std::size_t whole = columns / block_size * block_size;
    std::size_t best_block = 0;
    float largest = -__builtin_inff();
    for (std::size_t begin = 0; begin < whole; begin += block_size) {
        const Block block = look_at(x + begin);
        if (block.has_nan) return scan(x, begin, begin + block_size);
        if (block.largest > largest) {
            largest = block.largest;
            best_block = begin;
        }
    }
    const std::size_t best = scan(x, best_block, whole > 0 ? best_block + block_size : columns);
    if (whole == 0 || whole == columns) return best;
    const std::size_t last = scan(x, whole, columns);
    return x[last] > x[best] || x[last] != x[last] ? last : best;
}

}  // namespace

void argmax_rows(const ArgmaxArgs& args, Worker worker) {
    const Range rows = share(args.rows, worker);
    for (std::size_t row = rows.begin; row < rows.end; ++row) {
        const float* x = args.x + row * args.columns;
        const std::size_t position = argmax_row(x, args.columns);
        args.position[row] = static_cast<std::int64_t>(position);
        args.largest[row] = x[position];
    }
}

}  // namespace steelyard::STEELYARD_ISA
