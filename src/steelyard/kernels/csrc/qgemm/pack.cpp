#include "pack.hpp"

#include <cstring>

#include "half.hpp"

namespace steelyard {
namespace {

// Where one feature of a panel lies: its lane's bytes within the groups of 64.
struct Lane {
    std::uint8_t* record;
    std::size_t index;

    void put_quants(std::size_t group, const std::uint8_t* four) const {
        std::memcpy(record + 64 * group + 4 * index, four, 4);
    }
    void put_half(std::size_t offset, const std::uint8_t* half) const {
        std::memcpy(record + offset + 2 * index, half, 2);
    }
    void put_float(std::size_t offset, float value) const { std::memcpy(record + offset + 4 * index, &value, 4); }
};

float half_at(const std::uint8_t* p) {
    std::uint16_t half;
    std::memcpy(&half, p, sizeof(half));
    return float_from_half(half);
}

// {half d; u8 low[16]}: the lower halves are inputs 0–15, the upper ones 16–31, as in a record.
void pack_q4_0(const std::uint8_t* block, Lane lane) {
    for (std::size_t g = 0; g < 4; ++g) lane.put_quants(g, block + 2 + 4 * g);
    lane.put_half(quant_bytes(PackedFormat::q4_0), block);
}

// {half d, m; u8 low[16]}
void pack_q4_1(const std::uint8_t* block, Lane lane) {
    for (std::size_t g = 0; g < 4; ++g) lane.put_quants(g, block + 4 + 4 * g);
    lane.put_half(quant_bytes(PackedFormat::q4_1), block);
    lane.put_half(quant_bytes(PackedFormat::q4_1) + scale_bytes(PackedFormat::q4_1), block + 2);
}

// {half d; i8 q[32]}
void pack_q8_0(const std::uint8_t* block, Lane lane) {
    for (std::size_t g = 0; g < 8; ++g) {
        std::uint32_t four;
        std::memcpy(&four, block + 2 + 4 * g, sizeof(four));
        four ^= 0x80808080u;  // signed to offset 128
        lane.put_quants(g, reinterpret_cast<const std::uint8_t*>(&four));
    }
    lane.put_half(quant_bytes(PackedFormat::q8_0), block);
}

// Scale and minimum j of eight: six bits each, the last four pairs with their upper two bits in the first eight bytes.
void q4_k_scale(const std::uint8_t* packed, std::size_t j, unsigned& scale, unsigned& minimum) {
    if (j < 4) {
        scale = packed[j] & 63u;
        minimum = packed[j + 4] & 63u;
    } else {
        scale = (packed[j + 4] & 15u) | (packed[j - 4] >> 6) << 4;
        minimum = static_cast<unsigned>(packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
    }
}

// {half d, m; u8 scales[12]; u8 low[4][32]}: eight blocks of 32, two to every 32 bytes. The factors become float32.
void pack_q4_k(const std::uint8_t* block, Lane lane) {
    constexpr PackedFormat format = PackedFormat::q4_k;
    for (std::size_t j = 0; j < 8; ++j, lane.record += record_bytes(format)) {
        const std::uint8_t* low = block + 16 + 32 * (j / 2);
        const unsigned shift = j % 2 ? 4 : 0;
        for (std::size_t g = 0; g < 4; ++g) {
            std::uint8_t four[4];
            for (std::size_t i = 0; i < 4; ++i) {
                const unsigned first = (low[4 * g + i] >> shift) & 15u, second = (low[16 + 4 * g + i] >> shift) & 15u;
                four[i] = static_cast<std::uint8_t>(first | second << 4);
            }
            lane.put_quants(g, four);
        }
        unsigned scale, minimum;
        q4_k_scale(block + 4, j, scale, minimum);
        lane.put_float(quant_bytes(format), half_at(block) * static_cast<float>(scale));
        lane.put_float(quant_bytes(format) + scale_bytes(format), -(half_at(block + 2) * static_cast<float>(minimum)));
    }
}

template <class PackBlock>
void pack_row(const std::uint8_t* source, std::size_t source_bytes, std::size_t num_blocks, std::size_t step, Lane lane,
              PackBlock pack_block) {
    for (std::size_t b = 0; b < num_blocks; ++b, source += source_bytes, lane.record += step) pack_block(source, lane);
}

}  // namespace

void pack_rows(const PackRowsArgs& args, Worker worker) {
    const std::size_t num_blocks = blocks_of(args.num_inputs);
    const std::size_t step = record_bytes(packed_format(args.source_format));
    const Range rows = share(args.num_rows, worker, panel_width);
    for (std::size_t row = rows.begin; row < rows.end; ++row) {
        const std::size_t to = static_cast<std::size_t>(args.destinations[row]);
        const std::uint8_t* source = args.source + row * args.row_bytes;
        const Lane lane{args.packed + to / panel_width * num_blocks * step, to % panel_width};
        switch (args.source_format) {
            case SourceFormat::q4_0: pack_row(source, 18, num_blocks, step, lane, pack_q4_0); break;
            case SourceFormat::q4_1: pack_row(source, 20, num_blocks, step, lane, pack_q4_1); break;
            case SourceFormat::q8_0: pack_row(source, 34, num_blocks, step, lane, pack_q8_0); break;
            case SourceFormat::q4_k: pack_row(source, 144, num_blocks / 8, 8 * step, lane, pack_q4_k); break;
        }
    }
}

}  // namespace steelyard
