#include "qgemm.hpp"

#include "half.hpp"

namespace steelyard {

STEELYARD_DECLARE(void quantise_rows(const QuantiseRowsArgs& args, Worker worker))
STEELYARD_DECLARE(void rms_norm_quantise_rows(const RmsNormQuantiseArgs& args, Worker worker))
STEELYARD_DECLARE(void qgemm(const QgemmArgs& args, Worker worker))

void quantise_rows(const QuantiseRowsArgs& args, Isa isa, Worker worker) {
    STEELYARD_CALL(isa, quantise_rows(args, worker));
}

void rms_norm_quantise_rows(const RmsNormQuantiseArgs& args, Isa isa, Worker worker) {
    STEELYARD_CALL(isa, rms_norm_quantise_rows(args, worker));
}

void qgemm(const QgemmArgs& args, Isa isa, Worker worker) { STEELYARD_CALL(isa, qgemm(args, worker)); }

namespace {

float number_at(const std::uint8_t* p, std::size_t lane, bool wide) {
    if (wide) {
        float value;
        std::memcpy(&value, p + 4 * lane, sizeof(value));
        return value;
    }
    std::uint16_t half;
    std::memcpy(&half, p + 2 * lane, sizeof(half));
    return float_from_half(half);
}

}  // namespace

void dequantise_row(const PackedMatrix& weight, std::size_t row, float* out) {
    const PackedFormat format = weight.format;
    const bool narrow = quant_bits(format) == 4, mins = has_mins(format), wide = has_wide_scales(format);
    const std::size_t lane = row % panel_width;
    const std::uint8_t* record = weight.panel(row / panel_width);
    for (std::size_t start = 0; start < weight.num_inputs; start += block_length, record += record_bytes(format)) {
        const float d = number_at(record + quant_bytes(format), lane, wide);
        const float m = mins ? number_at(record + quant_bytes(format) + scale_bytes(format), lane, wide) : 0.0f;
        const int offset = mins ? 0 : narrow ? 8 : 128;
        for (std::size_t i = 0; i < block_length && start + i < weight.num_inputs; ++i) {
            const std::size_t group = i / 4;
            const std::uint8_t byte = record[64 * (narrow ? group % 4 : group) + 4 * lane + i % 4];
            const int q = (narrow ? (group < 4 ? byte & 15 : byte >> 4) : byte) - offset;
            out[start + i] = mins ? static_cast<float>(q) * d + m : static_cast<float>(q) * d;
        }
    }
}

static void take_rest(const FineRows& args, const QuantisedRows& coarse, Range rows) {
    const std::size_t num_inputs = coarse.num_inputs;
    for (std::size_t row = rows.begin; row < rows.end; ++row) {
        for (std::size_t i = 0; i < num_inputs; ++i) {
            const ActivationBlock& block = coarse.row(row)[i / block_length];
            const float taken = static_cast<float>(block.values[i % block_length]) * block.scale;
            args.rest[row * num_inputs + i] = args.x[row * args.x_stride + i] - taken;
        }
    }
}

void quantise_fine(const FineRows& rows, std::size_t num_inputs, Isa isa, ThreadPool& pool, Worker worker) {
    const QuantisedRows coarse{rows.blocks, rows.num_tokens, num_inputs};
    const QuantisedRows fine{coarse.row(rows.num_tokens), rows.num_tokens, num_inputs};
    quantise_rows({rows.x, rows.x_stride, coarse}, isa, worker);
    pool.barrier();
    take_rest(rows, coarse, share(rows.num_tokens, worker));
    pool.barrier();
    quantise_rows({rows.rest, num_inputs, fine}, isa, worker);
    pool.barrier();
}

void qgemm_fine(const FineQgemmArgs& args, Isa isa, ThreadPool& pool, Worker worker) {
    const std::size_t num_tokens = args.rows.num_tokens, num_rows = args.weight.num_rows;
    quantise_fine(args.rows, args.weight.num_inputs, isa, pool, worker);
    const QuantisedRows both{args.rows.blocks, 2 * num_tokens, args.weight.num_inputs};
    qgemm({args.weight, both, args.sums, num_rows, nullptr, Epilogue::store}, isa, worker);
    pool.barrier();
    const std::size_t size = num_tokens * num_rows;
    const Range part = share(size, worker, panel_width);
    for (std::size_t i = part.begin; i < part.end; ++i) args.out[i] = args.sums[i] + args.sums[size + i];
}

}  // namespace steelyard
