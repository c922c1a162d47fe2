// What happens between a layer's projection and its attention: queries and keys normed (optional) and rotated (optional),
// keys and values put into the cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../isa.hpp"
#include "../parallel/thread_pool.hpp"
#include "kv_layout.hpp"

namespace steelyard {

struct RopeWriteKVArgs {
    KVLayout layout;
    std::byte* cache;     // one layer's blocks
    float* q;             // [tokens, num_heads, head_dim], normed and rotated in place
    float* k;             // [tokens, num_kv_heads, head_dim], left as it is
    const float* v;       // [tokens, num_kv_heads, head_dim]
    std::size_t q_stride;  // floats from one token to the next
    std::size_t k_stride;
    std::size_t v_stride;
    std::size_t num_tokens;
    std::size_t num_heads;          // 0 if q needs nothing
    const std::int64_t* slots;      // [tokens]: block · block_size + offset
    const float* cos;               // [tokens, rotary_dim]; null for no rotation
    const float* sin;               // [tokens, rotary_dim], the first half negated
    std::size_t rotary_dim;         // even, at most head_dim: element i pairs with i + rotary_dim / 2
    const float* q_norm;            // [head_dim]: per-head RMS norm before the rotation; null for none
    const float* k_norm;            // [head_dim]
    float eps;
};

// Does the worker's share of (token, head) pairs. float16 saturates at ±65504; int8 is x / scale rounded to nearest even,
// scale = max|x| / 127. Rotation and norm round as kernels/rms_norm and models/rope do. head_dim is at most 256.
void rope_write_kv(const RopeWriteKVArgs& args, Isa isa, Worker worker);

}  // namespace steelyard
