// What changes from one model step to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../attention/attention_plan.hpp"
#include "../attention/kv_layout.hpp"

namespace steelyard {

// A rotary embedding at the step's positions.
struct Rotation {
    const float* cos;  // [tokens, dim]
    const float* sin;  // [tokens, dim], the first half negated
    std::size_t dim;
};

struct Step {
    std::size_t num_tokens;
    const std::int64_t* token_ids;    // [tokens]
    AttentionPlan* plan;              // of the same tokens
    KVLayout layout;
    std::vector<std::byte*> caches;   // each layer's blocks
    std::vector<Rotation> rotations;  // of each rotary embedding that the model has
    float* out;                       // [tokens, hidden]
};

}  // namespace steelyard
