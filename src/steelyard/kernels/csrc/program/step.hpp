// What changes from one model step to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../attention/attention_plan.hpp"
#include "../attention/kv_layout.hpp"

namespace steelyard {

// A rotary embedding by position.
struct RotationTable {
    const float* cos;  // [positions, dim], every position of the step among them
    const float* sin;  // [positions, dim], the first half negated
};

struct Step {
    std::size_t num_tokens;
    const std::int64_t* token_ids;    // [tokens]
    AttentionPlan* plan;              // of the same tokens
    KVLayout layout;
    std::vector<std::byte*> caches;    // each layer's blocks
    std::vector<RotationTable> tables;  // of each rotary embedding that the model has
    float* out;                        // [tokens, hidden]
};

}  // namespace steelyard
