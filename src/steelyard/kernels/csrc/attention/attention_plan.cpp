#include "attention_plan.hpp"

#include <algorithm>
#include <stdexcept>

namespace steelyard {
namespace {

// Query rows and floats of an item at most: what stays in a core's second-level cache beside the keys.
constexpr std::size_t max_tile_rows = 192;
constexpr std::size_t max_tile_floats = 12288;
// With fewer tiles per worker than this, tiles are split.
constexpr std::size_t tiles_per_worker = 4;

void check(const AttentionShape& shape, const StepSequences& sequences, std::size_t num_blocks) {
    if (shape.head_dim % 16 != 0 || shape.head_dim == 0 || shape.head_dim > 256) {
        throw std::invalid_argument("head_dim must be a multiple of 16, at most 256");
    }
    if (shape.block_size % 16 != 0 || shape.block_size == 0) {
        throw std::invalid_argument("block_size must be a multiple of 16");
    }
    if (shape.num_kv_heads == 0 || shape.num_heads % shape.num_kv_heads != 0) {
        throw std::invalid_argument("num_heads must be a multiple of num_kv_heads");
    }
    for (std::size_t i = 0; i < sequences.num_sequences; ++i) {
        const std::int32_t num_queries = sequences.query_starts[i + 1] - sequences.query_starts[i];
        const std::int32_t context = sequences.context_lens[i];
        const std::int64_t room = std::int64_t{sequences.table_starts[i + 1] - sequences.table_starts[i]} *
                                  static_cast<std::int64_t>(shape.block_size);
        if (num_queries < 0 || context < num_queries || context > room) {
            throw std::invalid_argument("a sequence needs 0 <= queries <= context <= its blocks' tokens");
        }
        for (std::int32_t j = sequences.table_starts[i]; j < sequences.table_starts[i + 1]; ++j) {
            if (sequences.blocks[j] < 0 || static_cast<std::size_t>(sequences.blocks[j]) >= num_blocks) {
                throw std::invalid_argument("a block table names a block that does not exist");
            }
        }
    }
}

std::uint32_t num_segments_of(std::uint32_t num_keys) {
    return static_cast<std::uint32_t>((num_keys + segment_keys - 1) / segment_keys);
}

std::uint64_t cost_of(const AttentionItem& item) {
    return std::uint64_t{item.num_queries} * (item.position + item.num_queries);
}

}  // namespace

void AttentionPlan::build(const AttentionShape& shape, const StepSequences& sequences, std::size_t num_blocks,
                          std::size_t num_workers) {
    check(shape, sequences, num_blocks);
    shape_ = shape;
    num_workers_ = num_workers;
    const std::size_t group = shape.num_heads / shape.num_kv_heads;
    const std::size_t rows = std::min(max_tile_rows, max_tile_floats / shape.head_dim);
    tile_queries_ = std::max<std::size_t>(1, rows / group);
    place_tokens(sequences);
    add_items(sequences, num_workers);
    reserve_scratch(num_workers);
}

void AttentionPlan::place_tokens(const StepSequences& sequences) {
    const std::size_t num_sequences = sequences.num_sequences;
    const std::int32_t block_size = static_cast<std::int32_t>(shape_.block_size);
    blocks_.assign(sequences.blocks, sequences.blocks + (num_sequences > 0 ? sequences.table_starts[num_sequences] : 0));
    slots_.clear();
    positions_.clear();
    for (std::size_t i = 0; i < num_sequences; ++i) {
        const std::int32_t num_queries = sequences.query_starts[i + 1] - sequences.query_starts[i];
        const std::int32_t* table = sequences.blocks + sequences.table_starts[i];
        for (std::int32_t position = sequences.context_lens[i] - num_queries; position < sequences.context_lens[i];
             ++position) {
            positions_.push_back(position);
            slots_.push_back(std::int64_t{table[position / block_size]} * block_size + position % block_size);
        }
    }
}

void AttentionPlan::add_items(const StepSequences& sequences, std::size_t num_workers) {
    items_.clear();
    splits_.clear();
    num_partial_floats_ = 0;
    std::vector<AttentionItem> tiles;
    for (std::size_t i = 0; i < sequences.num_sequences; ++i) {
        const std::uint32_t start = static_cast<std::uint32_t>(sequences.query_starts[i]);
        const std::uint32_t end = static_cast<std::uint32_t>(sequences.query_starts[i + 1]);
        const std::uint32_t context = static_cast<std::uint32_t>(sequences.context_lens[i]);
        for (std::uint32_t row = start; row < end; row += static_cast<std::uint32_t>(tile_queries_)) {
            const std::uint32_t count = std::min(static_cast<std::uint32_t>(tile_queries_), end - row);
            const std::uint32_t position = context - (end - row);
            tiles.push_back({row, count, position, position + count,
                             static_cast<std::uint32_t>(sequences.table_starts[i]), 0,
                             num_segments_of(position + count), not_split});
        }
    }
    // The costliest first, so that workers finish together.
    std::stable_sort(tiles.begin(), tiles.end(),
                     [](const AttentionItem& a, const AttentionItem& b) { return cost_of(a) > cost_of(b); });
    const bool few = num_workers > 1 && tiles.size() * shape_.num_kv_heads < tiles_per_worker * num_workers;
    for (const AttentionItem& tile : tiles) add_tile(tile, few || tile.num_queries <= max_split_queries);
}

void AttentionPlan::add_tile(AttentionItem tile, bool split) {
    const std::uint32_t num_segments = tile.end_segment;
    if (!split || num_segments == 1) {
        items_.push_back(tile);
        return;
    }
    tile.split = static_cast<std::uint32_t>(splits_.size());
    splits_.push_back({num_partial_floats_, num_segments});
    const std::size_t records = num_segments * tile.num_queries * shape_.num_heads;
    num_partial_floats_ += records * partial_floats(shape_.head_dim);
    for (std::uint32_t segment = 0; segment < num_segments; ++segment) {
        tile.first_segment = segment;
        tile.end_segment = segment + 1;
        items_.push_back(tile);
    }
}

void AttentionPlan::reserve_scratch(std::size_t num_workers) {
    const std::size_t rows = tile_queries_ * (shape_.num_heads / shape_.num_kv_heads), dim = shape_.head_dim;
    // Queries twice (float32 and bfloat16 pairs), outputs twice, largest and sums, unpacked keys and values, alignment.
    workspace_floats_ = 4 * rows * dim + rows * 20 + 2 * 64 * dim + 1024;
    if (workspace_.size() < workspace_floats_ * num_workers) workspace_.resize(workspace_floats_ * num_workers);
    if (partials_.size() < num_partial_floats_) partials_.resize(num_partial_floats_);
    const std::size_t num_pending = splits_.size() * shape_.num_kv_heads;
    if (pending_capacity_ < num_pending) {
        pending_capacity_ = 2 * num_pending;
        pending_ = std::make_unique<std::atomic<std::uint32_t>[]>(pending_capacity_);
    }
    for (std::size_t i = 0; i < num_pending; ++i) {
        pending_[i].store(splits_[i / shape_.num_kv_heads].num_segments, std::memory_order_relaxed);
    }
    next_claim_.store(0, std::memory_order_relaxed);
}

AttentionPlanView AttentionPlan::view() {
    const std::size_t group = shape_.num_heads / shape_.num_kv_heads;
    return {shape_,          blocks_.data(), items_.data(), items_.size(),     splits_.data(),
            partials_.data(), pending_.get(), &next_claim_,  workspace_.data(), workspace_floats_,
            tile_queries_ * group};
}

}  // namespace steelyard
