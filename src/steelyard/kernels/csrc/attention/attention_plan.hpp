// Who attends to what in one step: the packed tokens' places, and the work cut into items that workers claim one by one.
//
// Built once per step and used by every layer. It owns everything that attention needs besides tensors: block tables,
// items, the workers' scratch memory and the partial results of long contexts. Building reuses the memory of the step
// before.
//
// A context is cut into segments of `segment_keys` keys. A tile of queries is either one item, or, where it has few
// queries or there are few tiles for the workers, one item per segment, whose last finisher merges the partial results.
// Both merge the same segments in the same order by the same function, so that the cut never shows in a result.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace steelyard {

constexpr std::size_t segment_keys = 512;
// Queries that few: their keys are worth sharing among workers.
constexpr std::size_t max_split_queries = 8;
constexpr std::uint32_t not_split = 0xffffffffu;

struct AttentionShape {
    std::size_t num_heads;
    std::size_t num_kv_heads;
    std::size_t head_dim;
    std::size_t block_size;
};

// One step's sequences, packed one after another.
struct StepSequences {
    const std::int32_t* query_starts;  // [sequences + 1]: packed rows
    const std::int32_t* context_lens;  // [sequences]: keys in the cache once the step's own are written
    const std::int32_t* table_starts;  // [sequences + 1]: into `blocks`
    const std::int32_t* blocks;        // block tables one after another
    std::size_t num_sequences;
};

struct AttentionItem {
    std::uint32_t row;          // of the first query among the packed tokens
    std::uint32_t num_queries;
    std::uint32_t position;     // of the first query in its sequence
    std::uint32_t context_len;
    std::uint32_t table_start;
    std::uint32_t first_segment;
    std::uint32_t end_segment;
    std::uint32_t split;        // index of the tile's AttentionSplit, or not_split
};

// A tile whose segments are items of their own.
struct AttentionSplit {
    std::size_t first_partial;  // floats from the start of the partial results
    std::uint32_t num_segments;
};

// What kernels see: bare arrays.
struct AttentionPlanView {
    AttentionShape shape;
    const std::int32_t* blocks;
    const AttentionItem* items;
    std::size_t num_items;
    const AttentionSplit* splits;
    float* partials;                       // per split, kv head, segment and row: a record of partial_floats(head_dim)
    std::atomic<std::uint32_t>* pending;   // [splits · num_kv_heads]: segments to come; the last finisher restores it
    std::atomic<std::size_t>* next_claim;  // zero between layers; the last worker to leave restores it
    float* workspace;                      // [workers][workspace_floats]
    std::size_t workspace_floats;
    std::size_t tile_rows;                 // most query rows of an item
};

// A partial result: reference of the weights, sum of weights, padding, weighted sum of values.
static constexpr std::size_t partial_floats(std::size_t head_dim) { return 16 + head_dim; }

class AttentionPlan {
  public:
    // Plans a step; throws std::invalid_argument if the arrays contradict each other or name a block past `num_blocks`.
    void build(const AttentionShape& shape, const StepSequences& sequences, std::size_t num_blocks,
               std::size_t num_workers);

    std::size_t num_tokens() const { return slots_.size(); }
    std::size_t num_workers() const { return num_workers_; }
    const std::int64_t* slots() const { return slots_.data(); }          // [tokens]: block · block_size + offset
    const std::int64_t* positions() const { return positions_.data(); }  // [tokens]
    const AttentionShape& shape() const { return shape_; }
    AttentionPlanView view();

  private:
    void place_tokens(const StepSequences& sequences);
    void add_items(const StepSequences& sequences, std::size_t num_workers);
    void add_tile(AttentionItem tile, bool split);
    void reserve_scratch(std::size_t num_workers);

    AttentionShape shape_{};
    std::size_t num_workers_ = 0;
    std::size_t tile_queries_ = 1;
    std::vector<std::int64_t> slots_, positions_;
    std::vector<std::int32_t> blocks_;
    std::vector<AttentionItem> items_;
    std::vector<AttentionSplit> splits_;
    std::size_t num_partial_floats_ = 0;
    std::vector<float> partials_, workspace_;
    std::size_t workspace_floats_ = 0;
    std::unique_ptr<std::atomic<std::uint32_t>[]> pending_;
    std::size_t pending_capacity_ = 0;
    std::atomic<std::size_t> next_claim_{0};
};

}  // namespace steelyard
