// Causal attention of packed queries over the paged cache, in place: no gathered copies of keys and values, no mask larger
// than a row of one block (FlashAttention's online softmax; FastAttention's two levels of tiles and its tiling-mask).
//
// Keys are visited in blocks of 64 at fixed positions of their sequence, and segments of 512 are merged in order. A
// query's result depends on its own row, its position and the keys and values it may see, to the last bit: not on the
// queries beside it, on the tile it falls in, on how a prompt was cut into steps, or on the number of workers.
#pragma once

#include <cstddef>

#include "../isa.hpp"
#include "../parallel/thread_pool.hpp"
#include "attention_plan.hpp"
#include "kv_layout.hpp"

namespace steelyard {

struct PagedAttentionArgs {
    AttentionPlan* plan;  // of this step, built for at least as many workers as run
    KVLayout layout;
    const std::byte* cache;  // one layer's blocks, the step's own keys and values written
    const float* q;          // [tokens, num_heads, head_dim]
    std::size_t q_stride;    // floats from one token to the next
    float* out;              // [tokens, num_heads · head_dim]
    std::size_t out_stride;
    float scale;             // on q · k
    std::size_t window;      // a token sees itself and the window − 1 tokens before it; 0 for all
    float softcap;           // scores become softcap · tanh(score / softcap); 0 for none
};

// Works until no item is left; every worker of the job must call it once. Needs no barrier inside: results are complete
// once all workers are back. A later call with the same plan needs a barrier between, as always.
void paged_attention(const PagedAttentionArgs& args, Isa isa, Worker worker);

}  // namespace steelyard
