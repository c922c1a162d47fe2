// How keys and values lie in a block of the paged cache, so that sixteen dot products run side by side without a
// horizontal sum.
//
// A block of all layers lies together, layer after layer, so that memory comes into use block by block. In one layer it
// holds, for each kv head one after another:
//   keys    in groups of 16 tokens, each [head_dim][16]: sixteen tokens' element d are neighbours
//   values  [block_size][head_dim]
//   key scales [block_size], value scales [block_size], float32: int8 only, one per token (and head)
// bfloat16 and int8 are laid out for instructions that take n = 2 or 4 factors at once: keys [head_dim / n][16][n], values
// [block_size / n][head_dim][n].
#pragma once

#include <cstddef>

namespace steelyard {

enum class KVType { float32, float16, bfloat16, int8 };

constexpr std::size_t key_group = 16;

struct KVLayout {
    KVType type;
    std::size_t num_kv_heads;
    std::size_t head_dim;      // a multiple of 16
    std::size_t block_size;    // tokens, a multiple of 16
    std::size_t group_bytes;   // of 16 tokens' keys, and of 16 tokens' values
    std::size_t values_bytes;  // from a head's start to its values
    std::size_t scales_bytes;  // from a head's start to its key scales; the value scales follow
    std::size_t head_bytes;    // of one kv head in a block, a multiple of 64
    std::size_t block_bytes;   // of a block in one layer
    std::size_t block_stride;  // from a layer's part of a block to that of the next block
};

KVLayout make_kv_layout(KVType type, std::size_t num_kv_heads, std::size_t head_dim, std::size_t block_size,
                        std::size_t num_layers);

}  // namespace steelyard
