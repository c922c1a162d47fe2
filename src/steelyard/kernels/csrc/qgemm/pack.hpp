// GGUF's blocks into panels (formats.hpp), without loss.
#pragma once

#include "../parallel/thread_pool.hpp"
#include "formats.hpp"

namespace steelyard {

// The GGUF formats packed here; each becomes one packed format. Others take the way through integers in Python.
enum class SourceFormat : int { q4_0, q4_1, q4_k, q8_0 };

constexpr PackedFormat packed_format(SourceFormat source) {
    switch (source) {
        case SourceFormat::q4_0: return PackedFormat::q4_0;
        case SourceFormat::q4_1: return PackedFormat::q4_1;
        case SourceFormat::q4_k: return PackedFormat::q4_k;
        case SourceFormat::q8_0: break;
    }
    return PackedFormat::q8_0;
}

struct PackRowsArgs {
    const std::uint8_t* source;  // row i begins at source + i · row_bytes
    std::size_t row_bytes;
    SourceFormat source_format;
    std::size_t num_rows;              // of the source
    const std::int32_t* destinations;  // [num_rows]: where each row goes in the packed matrix
    std::uint8_t* packed;              // the matrix, of packed_format(source_format)
    std::size_t num_inputs;            // a multiple of the source's block
};

// Packs the worker's share of source rows. Rows that no source row goes to are left alone.
void pack_rows(const PackRowsArgs& args, Worker worker);

}  // namespace steelyard
