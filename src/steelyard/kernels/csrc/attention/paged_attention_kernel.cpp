// Items of an attention plan, compiled once per instruction set (isa.hpp).
//
// Two levels of tiles: an item's query rows against a block of 64 keys, unpacked to float32 once if many rows will read
// it; within, a few rows at a time whose scores, weights and outputs stay in registers and first-level cache. A query and
// each head of its group are rows side by side, so a group's heads share every load of a key. Scores are kept in powers of two
// (log₂ e is folded into the queries). Blocks that no row may see are never touched; a mask is made, from positions
// alone, only where a block crosses the diagonal or the window's border.

#include <math.h>

#include <atomic>
#include <type_traits>

#include "../simd/exponential.hpp"
#include "attention_tiles.hpp"
#include "paged_attention.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

constexpr float log2_e = 1.44269504f;
constexpr float minus_infinity = -INFINITY;
// Weights are powers of two relative to a reference. A row's scores may rise above it by so much before it is moved to the
// largest and what was summed is scaled to it: mostly once or twice per segment.
constexpr float headroom = 8.0f;
// So few rows read the cache's own elements; unpacking them first would cost more than converting them twice.
constexpr std::size_t max_direct_rows = 2 * max_rows;

// The softmax of some rows over some keys so far: out / sum is the attention over them.
struct Softmax {
    float* reference;  // [rows]: weights are relative to 2^this; −∞ before the first key
    float* sum;        // [rows, 16] while keys are added; [rows] in the total
    float* out;        // [rows, head_dim]
};

// How a cache of bfloat16 or int8 is computed with here, and whether an element type is converted before it is.
#if defined(__AVX512BF16__)
using NativeBFloat16 = BFloat16Pairs;
#else
using NativeBFloat16 = BFloat16;
#endif
template <class Element>
constexpr bool converts = !std::is_same_v<Element, Float32>;
#if defined(__AVX512BF16__)
template <>
constexpr bool converts<BFloat16Pairs> = false;
#endif
#if defined(__AVX512VNNI__)
using NativeInt8 = Int8Dots;
template <>
constexpr bool converts<Int8Dots> = false;
#else
using NativeInt8 = Int8;
#endif

// A worker's memory for one item.
struct Scratch {
    float* q;        // [rows, head_dim], scaled; rounded in its place where bfloat16 or int8 are multiplied
    Softmax segment;
    Softmax whole;
    float* keys;     // an unpacked block
    float* values;
};

// One kv head's share of an item.
struct Tile {
    const PagedAttentionArgs* args;
    const AttentionPlanView* plan;
    const AttentionItem* item;
    const std::byte* head;  // the kv head's part of block 0
    std::size_t kv_head;
    std::size_t group;  // query heads of the kv head
    std::size_t num_rows;
    std::size_t head_dim;
    Scratch scratch;
    const Tile* next;  // what the worker will probably do after this, or null

    // Position of a row's query.
    std::int64_t position(std::size_t row) const {
        return static_cast<std::int64_t>(item->position) + static_cast<std::int64_t>(row / group);
    }
    // The first key that a query there may see.
    std::int64_t first_key(std::int64_t query) const {
        const std::int64_t window = static_cast<std::int64_t>(args->window);
        return window > 0 && query >= window ? query - window + 1 : 0;
    }
};

float power_of_two_of(float x) {
    float lane[num_lanes];
    store(lane, power_of_two(splat(x)));
    return lane[0];
}

Scratch carve(float* memory, std::size_t rows, std::size_t head_dim) {
    const auto take = [&memory](std::size_t size) {
        float* const taken = memory;
        memory += (size + 15) / 16 * 16;
        return taken;
    };
    Scratch scratch;
    memory = reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(memory) + 63) / 64 * 64);
    scratch.q = take(rows * head_dim);
    scratch.segment = {take(rows), take(rows * num_lanes), take(rows * head_dim)};
    scratch.whole = {take(rows), take(rows), take(rows * head_dim)};
    scratch.keys = take(block_keys * head_dim);
    scratch.values = take(block_keys * head_dim);
    return scratch;
}

void load_queries(const Tile& tile) {
    const PagedAttentionArgs& args = *tile.args;
    const float factor = args.softcap > 0.0f ? args.scale / args.softcap : args.scale * log2_e;
    for (std::size_t query = 0; query < tile.item->num_queries; ++query) {
        const float* from = args.q + (tile.item->row + query) * args.q_stride + tile.kv_head * tile.group * tile.head_dim;
        float* to = tile.scratch.q + query * tile.group * tile.head_dim;
        for (std::size_t i = 0; i < tile.group * tile.head_dim; ++i) to[i] = from[i] * factor;
    }
#if defined(__AVX512VNNI__)
    if (args.layout.type == KVType::int8) {
        for (std::size_t row = 0; row < tile.num_rows; ++row) {
            quantise_query(tile.scratch.q + row * tile.head_dim, tile.head_dim);
        }
    }
#endif
#if defined(__AVX512BF16__)
    if (args.layout.type != KVType::bfloat16) return;
    auto* const pairs = reinterpret_cast<std::uint16_t*>(tile.scratch.q);  // behind what is still to be read
    for (std::size_t i = 0; i < tile.num_rows * tile.head_dim; i += num_lanes) {
        store_bfloat16(pairs + i, load(tile.scratch.q + i));
    }
#endif
}

// Keys in the block at `position`, in groups; the last group may be filled in part.
std::size_t num_groups_at(const Tile& tile, std::int64_t position) {
    const std::int64_t left = static_cast<std::int64_t>(tile.item->context_len) - position;
    return left < static_cast<std::int64_t>(block_keys) ? (static_cast<std::size_t>(left) + key_group - 1) / key_group
                                                       : block_groups;
}

// Where a token's group begins: the kv head's part of its block, and the token's offset there.
const std::byte* head_of(const Tile& tile, std::size_t token) {
    const KVLayout& layout = tile.args->layout;
    const std::int32_t number = tile.plan->blocks[tile.item->table_start + token / layout.block_size];
    return tile.head + static_cast<std::size_t>(number) * layout.block_stride;
}

// Addresses of the groups at `position`; those past the context are the last one's, so that all may be touched.
void locate(const Tile& tile, std::int64_t position, const void** keys, const void** values) {
    const KVLayout& layout = tile.args->layout;
    const std::size_t num_groups = num_groups_at(tile, position);
    for (std::size_t g = 0; g < block_groups; ++g) {
        const std::size_t token = static_cast<std::size_t>(position) + (g < num_groups ? g : num_groups - 1) * key_group;
        const std::byte* group = head_of(tile, token) + token % layout.block_size / key_group * layout.group_bytes;
        keys[g] = group;
        values[g] = group + layout.values_bytes;
    }
}

void locate_scales(const Tile& tile, std::size_t num_groups, KeyBlock& block) {
    const KVLayout& layout = tile.args->layout;
    for (std::size_t g = 0; g < num_groups; ++g) {
        const std::size_t token = static_cast<std::size_t>(block.position) + g * key_group;
        const float* scales = reinterpret_cast<const float*>(head_of(tile, token) + layout.scales_bytes);
        const bool scaled = layout.type == KVType::int8;
        block.key_scales[g] = scaled ? scales + token % layout.block_size : nullptr;
        block.value_scales[g] = scaled ? scales + layout.block_size + token % layout.block_size : nullptr;
    }
}

// Turns a row's dot products into scores (powers of two), masked where the query may not look unless it sees the `whole`
// block.
template <bool whole>
STEELYARD_INLINE Lanes score(const Tile& tile, const KeyBlock& block, std::size_t g, Lanes product, std::int64_t query) {
    if (block.key_scales[g] != nullptr) product = product * load(block.key_scales[g]);
    if (tile.args->softcap > 0.0f) product = hyperbolic_tangent(product) * splat(tile.args->softcap * log2_e);
    if constexpr (whole) return product;
    const std::int64_t start = block.position + static_cast<std::int64_t>(g * key_group);
    const std::int64_t first = tile.first_key(query) - start, last = query - start;
    const int low = first > 0 ? (first < 16 ? static_cast<int>(first) : 16) : 0;
    const int high = last < 16 ? (last > -1 ? static_cast<int>(last) : -1) : 16;
    return keep_between(product, low, high, splat(minus_infinity));
}

// Hands the weights of a row's scores of the groups from `begin` to `end` to `keep`, and returns the factor on what was
// summed before.
template <bool whole, class Keep>
STEELYARD_INLINE float weigh(const Tile& tile, const KeyBlock& block, std::size_t row, std::size_t begin, std::size_t end,
                             const float* scores_row, const Keep& keep) {
    const Softmax& state = tile.scratch.segment;
    const std::int64_t query = tile.position(row);
    Lanes found[block_groups];
    Lanes most = splat(minus_infinity);
    for (std::size_t g = begin; g < end; ++g) {
        found[g] = score<whole>(tile, block, g, load(scores_row + g * key_group), query);
        most = larger(most, found[g]);
    }
    float* const sums = state.sum + row * num_lanes;
    Lanes sum = load(sums);
    float factor = 1.0f;
    if (any_above(most, splat(state.reference[row] + headroom))) {
        const float top = largest(most);
        factor = power_of_two_of(state.reference[row] - top);
        state.reference[row] = top;
        sum = sum * splat(factor);
    }
    const Lanes reference = splat(state.reference[row] == minus_infinity ? 0.0f : state.reference[row]);
    for (std::size_t g = begin; g < end; ++g) {
        const Lanes weight = power_of_two(found[g] - reference);
        sum = sum + weight;
        keep(g, block.value_scales[g] != nullptr ? weight * load(block.value_scales[g]) : weight);
    }
    store(sums, sum);
    return factor;
}

// The keys of a block that any of some rows may see.
struct Seen {
    std::size_t begin, end;
    bool whole;  // whether all of them see all of it

    std::size_t first_group() const { return begin / key_group; }
    std::size_t end_group() const { return (end + key_group - 1) / key_group; }
};

// Weighs `rows` rows; keep(r, g, weights) takes those of row r's group g.
template <int rows, class Keep>
STEELYARD_INLINE void weigh_rows(const Tile& tile, const KeyBlock& block, std::size_t row, const Seen& seen,
                                 const float* scores, float* factors, const Keep& keep) {
    for (std::size_t r = 0; r < rows; ++r) {
        const float* scores_row = scores + r * block_keys;
        const auto keep_row = [&](std::size_t g, Lanes weights) STEELYARD_INLINE_LAMBDA { keep(r, g, weights); };
        factors[r] = seen.whole ? weigh<true>(tile, block, row + r, 0, block_groups, scores_row, keep_row)
                                : weigh<false>(tile, block, row + r, seen.first_group(), seen.end_group(), scores_row,
                                               keep_row);
    }
}

// Adds to a few rows what they see of a block.
template <class Element, bool ahead, int rows>
void attend_seen(const Tile& tile, const KeyBlock& block, std::size_t row, const Seen& seen) {
    const std::size_t first_group = seen.first_group(), end_group = seen.end_group(), head_dim = tile.head_dim;
    alignas(64) float scratch[static_cast<std::size_t>(rows) * block_keys];
    float factors[rows];
    float* const out = tile.scratch.segment.out + row * head_dim;
#if defined(__AVX512BF16__)
    if constexpr (std::is_same_v<Element, BFloat16Pairs>) {
        alignas(64) std::uint16_t weights[static_cast<std::size_t>(rows) * block_keys];
        const auto* q = reinterpret_cast<const std::uint32_t*>(tile.scratch.q) + row * head_dim / 2;
        pair_scores<ahead, rows>(q, head_dim, block, first_group, end_group, scratch);
        weigh_rows<rows>(tile, block, row, seen, scratch, factors,
                         [&](std::size_t r, std::size_t g, Lanes weight) STEELYARD_INLINE_LAMBDA {
                             store_bfloat16(weights + r * block_keys + g * key_group, weight);
                         });
        return pair_values<ahead, rows>(reinterpret_cast<const std::uint32_t*>(weights), block, seen.begin, seen.end,
                                        factors, head_dim, out);
    } else
#endif
    {
        const auto weigh_in_place = [&] {
            weigh_rows<rows>(tile, block, row, seen, scratch, factors,
                             [&](std::size_t r, std::size_t g, Lanes weight) STEELYARD_INLINE_LAMBDA {
                                 store(scratch + r * block_keys + g * key_group, weight);
                             });
        };
#if defined(__AVX512VNNI__)
        if constexpr (std::is_same_v<Element, Int8Dots>) {
            alignas(64) DotWeights steps[rows];
            const auto* q = reinterpret_cast<const std::int32_t*>(tile.scratch.q) + row * head_dim;
            dot_scores<ahead, rows>(q, head_dim, block, first_group, end_group, scratch);
            weigh_in_place();
            for (std::size_t r = 0; r < rows; ++r) {
                quantise_weights(scratch + r * block_keys, first_group, end_group, steps[r]);
            }
            return dot_values<ahead, rows>(steps, block, seen.begin, seen.end, factors, head_dim, out);
        } else
#endif
        {
            scores<Element, ahead, rows>(tile.scratch.q + row * head_dim, head_dim, block, first_group, end_group, scratch);
            weigh_in_place();
            weighted_values<Element, ahead, rows>(scratch, block, seen.begin, seen.end, factors, head_dim, out);
        }
    }
}

// Adds a block to a few rows.
template <class Element, bool ahead, int rows>
void attend_rows(const Tile& tile, const KeyBlock& block, std::size_t row) {
    constexpr auto length = static_cast<std::int64_t>(block_keys);
    const std::int64_t top = tile.position(row), bottom = tile.position(row + rows - 1);
    const std::int64_t last = bottom - block.position, first = tile.first_key(top) - block.position;
    if (last < 0 || first >= length) return;
    const std::size_t end = last + 1 < length ? static_cast<std::size_t>(last) + 1 : block_keys;
    const std::size_t begin = first > 0 ? static_cast<std::size_t>(first) : 0;
    const bool whole = top - block.position >= length - 1 && tile.first_key(bottom) <= block.position;
    attend_seen<Element, ahead, rows>(tile, block, row, {begin, end, whole});
}

template <class Element, bool ahead>
void attend_block(const Tile& tile, const KeyBlock& block) {
    std::size_t row = 0;
    for (; row + max_rows <= tile.num_rows; row += max_rows) attend_rows<Element, ahead, max_rows>(tile, block, row);
    const std::size_t left = tile.num_rows - row;
    if constexpr (max_rows > 4) {
        if (left == 5) return attend_rows<Element, ahead, 5>(tile, block, row);
        if (left == 4) return attend_rows<Element, ahead, 4>(tile, block, row);
    }
    if constexpr (max_rows > 2) {
        if (left == 3) return attend_rows<Element, ahead, 3>(tile, block, row);
        if (left == 2) return attend_rows<Element, ahead, 2>(tile, block, row);
    }
    if (left == 1) attend_rows<Element, ahead, 1>(tile, block, row);
}

// As the elements lie in the cache for few rows; for many, those that need a conversion are converted once.
template <class Element>
void attend_stored(const Tile& tile, KeyBlock& block, std::size_t num_groups) {
    if (tile.num_rows <= max_direct_rows) return attend_block<Element, true>(tile, block);
    if constexpr (!converts<Element>) {
        attend_block<Element, false>(tile, block);
    } else {
        unpack<Element>(block, num_groups, tile.head_dim, tile.scratch.keys, tile.scratch.values);
        attend_block<Float32, false>(tile, block);
    }
}

// The first block that a segment's rows may see.
std::int64_t first_position(const Tile& tile, std::size_t segment) {
    const auto length = static_cast<std::int64_t>(block_keys);
    const std::int64_t begin = static_cast<std::int64_t>(segment * segment_keys);
    const std::int64_t first = tile.first_key(tile.position(0)) / length * length;
    return first > begin ? first : begin;
}

// The end of an item's keys.
std::int64_t end_position(const Tile& tile, std::size_t end_segment) {
    const auto context = static_cast<std::int64_t>(tile.item->context_len);
    const std::int64_t limit = static_cast<std::int64_t>(end_segment * segment_keys);
    return context < limit ? context : limit;
}

// What is computed after the block before `position`: the tile's next block, or the first of the worker's next tile.
void locate_next(const Tile& tile, std::int64_t position, KeyBlock& block) {
    if (position < end_position(tile, tile.item->end_segment)) {
        return locate(tile, position, block.next_keys, block.next_values);
    }
    const Tile& next = tile.next != nullptr ? *tile.next : tile;
    const std::int64_t first = first_position(next, next.item->first_segment);
    locate(next, first < end_position(next, next.item->end_segment) ? first : 0, block.next_keys, block.next_values);
}

void attend_position(const Tile& tile, std::int64_t position) {
    const std::size_t num_groups = num_groups_at(tile, position);
    KeyBlock block;
    block.position = position;
    locate(tile, position, block.keys, block.values);
    locate_scales(tile, num_groups, block);
    locate_next(tile, position + static_cast<std::int64_t>(block_keys), block);
    switch (tile.args->layout.type) {
        case KVType::float32: return attend_stored<Float32>(tile, block, num_groups);
        case KVType::float16: return attend_stored<Float16>(tile, block, num_groups);
        case KVType::bfloat16: return attend_stored<NativeBFloat16>(tile, block, num_groups);
        case KVType::int8: return attend_stored<NativeInt8>(tile, block, num_groups);
    }
}

void clear(const Tile& tile, const Softmax& state, std::size_t sums_per_row) {
    for (std::size_t row = 0; row < tile.num_rows; ++row) state.reference[row] = minus_infinity;
    memset(state.sum, 0, tile.num_rows * sums_per_row * sizeof(float));
    memset(state.out, 0, tile.num_rows * tile.head_dim * sizeof(float));
}

// Attends to a segment; returns whether any row sees any of it.
bool attend_segment(const Tile& tile, std::size_t segment) {
    const std::int64_t first = first_position(tile, segment), end = end_position(tile, segment + 1);
    if (first >= end) return false;
    clear(tile, tile.scratch.segment, num_lanes);
    for (std::int64_t position = first; position < end; position += static_cast<std::int64_t>(block_keys)) {
        attend_position(tile, position);
    }
    return true;
}

// Adds one row's softmax over a segment to its softmax over all segments before.
void merge(float* reference, float* sum, float* out, float segment_reference, float segment_sum,
           const float* segment_out, std::size_t head_dim) {
    if (segment_reference == minus_infinity) return;
    if (*reference == minus_infinity) {
        *reference = segment_reference;
        *sum = segment_sum;
        memcpy(out, segment_out, head_dim * sizeof(float));
        return;
    }
    const float top = *reference > segment_reference ? *reference : segment_reference;
    const float old_factor = power_of_two_of(*reference - top), new_factor = power_of_two_of(segment_reference - top);
    for (std::size_t i = 0; i < head_dim; i += num_lanes) {
        const Lanes added = load(segment_out + i) * splat(new_factor);
        store(out + i, multiply_add(load(out + i), splat(old_factor), added));
    }
    *reference = top;
    *sum = *sum * old_factor + segment_sum * new_factor;
}

void merge_segment(const Tile& tile) {
    const Softmax &part = tile.scratch.segment, &whole = tile.scratch.whole;
    for (std::size_t row = 0; row < tile.num_rows; ++row) {
        merge(whole.reference + row, whole.sum + row, whole.out + row * tile.head_dim, part.reference[row],
              total(load(part.sum + row * num_lanes)), part.out + row * tile.head_dim, tile.head_dim);
    }
}

void write_results(const Tile& tile) {
    const PagedAttentionArgs& args = *tile.args;
    for (std::size_t row = 0; row < tile.num_rows; ++row) {
        const std::size_t head = tile.kv_head * tile.group + row % tile.group;
        float* to = args.out + (tile.item->row + row / tile.group) * args.out_stride + head * tile.head_dim;
        const float* from = tile.scratch.whole.out + row * tile.head_dim;
        const Lanes inverse = splat(1.0f / tile.scratch.whole.sum[row]);
        // Adding zero makes −0, which depends on the keys skipped, the same as 0.
        for (std::size_t i = 0; i < tile.head_dim; i += num_lanes) {
            store(to + i, load(from + i) * inverse + splat(0.0f));
        }
    }
}

// The record of a row's partial result.
float* partial(const Tile& tile, std::size_t segment, std::size_t row) {
    const AttentionSplit& split = tile.plan->splits[tile.item->split];
    const std::size_t record = (tile.kv_head * split.num_segments + segment) * tile.num_rows + row;
    return tile.plan->partials + split.first_partial + record * partial_floats(tile.head_dim);
}

void store_partials(const Tile& tile, std::size_t segment, bool seen) {
    const Softmax& part = tile.scratch.segment;
    for (std::size_t row = 0; row < tile.num_rows; ++row) {
        float* record = partial(tile, segment, row);
        record[0] = seen ? part.reference[row] : minus_infinity;
        if (!seen) continue;
        record[1] = total(load(part.sum + row * num_lanes));
        memcpy(record + 16, part.out + row * tile.head_dim, tile.head_dim * sizeof(float));
    }
}

void merge_partials(const Tile& tile) {
    const Softmax& whole = tile.scratch.whole;
    for (std::size_t segment = 0; segment < tile.plan->splits[tile.item->split].num_segments; ++segment) {
        for (std::size_t row = 0; row < tile.num_rows; ++row) {
            const float* record = partial(tile, segment, row);
            merge(whole.reference + row, whole.sum + row, whole.out + row * tile.head_dim, record[0], record[1],
                  record + 16, tile.head_dim);
        }
    }
}

// One segment of a tile; whoever finishes its last segment merges them all.
void attend_split(const Tile& tile) {
    const std::size_t segment = tile.item->first_segment;
    store_partials(tile, segment, attend_segment(tile, segment));
    const std::size_t num_kv_heads = tile.plan->shape.num_kv_heads;
    std::atomic<std::uint32_t>& pending = tile.plan->pending[tile.item->split * num_kv_heads + tile.kv_head];
    if (pending.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    pending.store(tile.plan->splits[tile.item->split].num_segments, std::memory_order_relaxed);
    clear(tile, tile.scratch.whole, 1);
    merge_partials(tile);
    write_results(tile);
}

void attend_whole(const Tile& tile) {
    clear(tile, tile.scratch.whole, 1);
    for (std::size_t segment = tile.item->first_segment; segment < tile.item->end_segment; ++segment) {
        if (attend_segment(tile, segment)) merge_segment(tile);
    }
    write_results(tile);
}

}  // namespace

void attend_items(const PagedAttentionArgs& args, const AttentionPlanView& plan, Worker worker) {
    const AttentionShape& shape = plan.shape;
    const std::size_t group = shape.num_heads / shape.num_kv_heads;
    const Scratch scratch = carve(plan.workspace + worker.index * plan.workspace_floats, plan.tile_rows, shape.head_dim);
    const std::size_t num_claims = plan.num_items * shape.num_kv_heads;
    const auto tile_of = [&](std::size_t claim, const Tile* next) {
        const AttentionItem& item = plan.items[claim / shape.num_kv_heads];
        const std::size_t kv_head = claim % shape.num_kv_heads;
        return Tile{&args, &plan, &item, args.cache + kv_head * args.layout.head_bytes, kv_head, group,
                    item.num_queries * group, shape.head_dim, scratch, next};
    };
    std::size_t claim = plan.next_claim->fetch_add(1, std::memory_order_relaxed);
    for (; claim < num_claims; claim = plan.next_claim->fetch_add(1, std::memory_order_relaxed)) {
        // Workers that take equal items in turn come back to this one.
        const std::size_t expected = claim + worker.count;
        const Tile next = tile_of(expected < num_claims ? expected : claim, nullptr);
        const Tile tile = tile_of(claim, expected < num_claims ? &next : nullptr);
        load_queries(tile);
        tile.item->split == not_split ? attend_whole(tile) : attend_split(tile);
    }
    // Each worker is refused once; after the last refusal nobody counts any more.
    if (claim == num_claims + worker.count - 1) plan.next_claim->store(0, std::memory_order_relaxed);
}

}  // namespace steelyard::STEELYARD_ISA
