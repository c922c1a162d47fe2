// How quantised matrices and activations lie in memory.
//
// A weight is d·q + m (or d·(q − offset)) with one d, and maybe one m, per 32 inputs. Output features are cut into
// *panels* of 16; a panel is a run of *records*, one per block of 32 inputs, read front to back:
//
//   quants  8 groups of 64 bytes: group g holds, feature after feature, the unsigned q of inputs 4g … 4g + 3.
//           With 4 bits, group g lies in the lower and group g + 4 in the upper halves of the bytes of one 64.
//   d       16 scales, float16 or float32
//   m       16 minima likewise, in formats that have them
//
// One 64-byte load is thus what one dot-product instruction of 16 lanes of 4 bytes takes. Features and inputs past the
// end are zeros in q (the offset where there is one), d and m.
#pragma once

#include <cstddef>
#include <cstdint>

namespace steelyard {

constexpr std::size_t block_length = 32;
constexpr std::size_t panel_width = 16;

// q4_0: d·(q − 8)          4 bits, d float16
// q4_1: d·q + m            4 bits, float16
// q4_k: d·q + m            4 bits, float32
// q8_0: d·(q − 128)        8 bits, d float16
// q8_1: d·q + m            8 bits, float16
// q8_k: d·q + m            8 bits, float32
enum class PackedFormat : int { q4_0, q4_1, q4_k, q8_0, q8_1, q8_k };

constexpr int quant_bits(PackedFormat format) {
    return format == PackedFormat::q4_0 || format == PackedFormat::q4_1 || format == PackedFormat::q4_k ? 4 : 8;
}
constexpr bool has_mins(PackedFormat format) { return format != PackedFormat::q4_0 && format != PackedFormat::q8_0; }
constexpr bool has_wide_scales(PackedFormat format) {
    return format == PackedFormat::q4_k || format == PackedFormat::q8_k;
}
constexpr std::size_t quant_bytes(PackedFormat format) { return panel_width * block_length * quant_bits(format) / 8; }
constexpr std::size_t scale_bytes(PackedFormat format) { return panel_width * (has_wide_scales(format) ? 4 : 2); }
constexpr std::size_t record_bytes(PackedFormat format) {
    return quant_bytes(format) + scale_bytes(format) * (has_mins(format) ? 2 : 1);
}

constexpr std::size_t blocks_of(std::size_t num_inputs) { return (num_inputs + block_length - 1) / block_length; }
constexpr std::size_t panels_of(std::size_t num_rows) { return (num_rows + panel_width - 1) / panel_width; }

// A view of packed weights [num_rows, num_inputs].
struct PackedMatrix {
    const std::uint8_t* data;  // 64-byte aligned
    PackedFormat format;
    std::size_t num_rows;    // output features
    std::size_t num_inputs;  // what one output is summed over

    std::size_t num_panels() const { return panels_of(num_rows); }
    std::size_t num_blocks() const { return blocks_of(num_inputs); }
    std::size_t panel_bytes() const { return num_blocks() * record_bytes(format); }
    const std::uint8_t* panel(std::size_t index) const { return data + index * panel_bytes(); }
};

// 32 quantised activations: x ≈ scale · values, and what a weight's offset and minimum are multiplied by.
struct ActivationBlock {
    std::int8_t values[block_length];  // −127 … 127
    float scale;
    float sum;                  // scale · Σ values
    std::int32_t negative_sum;  // −Σ values
};
static_assert(sizeof(ActivationBlock) == 44);

// Activation rows, quantised; row after row, blocks_of(num_inputs) blocks each.
struct QuantisedRows {
    ActivationBlock* blocks;
    std::size_t num_rows;
    std::size_t num_inputs;

    std::size_t num_blocks() const { return blocks_of(num_inputs); }
    ActivationBlock* row(std::size_t index) const { return blocks + index * num_blocks(); }
};

}  // namespace steelyard
