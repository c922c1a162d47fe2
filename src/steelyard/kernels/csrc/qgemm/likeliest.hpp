// The largest element of each row of a product, and where it stands, without the product: of a language model's output
// projection a greedy choice needs nothing else.
//
// The first step of the rows (FineRows) meets all weights, and of every group of 32 features only the largest sum is kept.
// What the second step can add is bounded by the norms of both factors (Cauchy–Schwarz), so all groups but a few are out
// of the question; those are multiplied again, by both steps. The result is that of qgemm_fine, to the last bit.
#pragma once

#include "qgemm.hpp"

namespace steelyard {

constexpr std::size_t feature_group = 2 * panel_width;

constexpr std::size_t feature_groups_of(std::size_t num_rows) { return (num_rows + feature_group - 1) / feature_group; }

// out [feature_groups_of(num_rows)] = the largest norm of a feature's weights in each group. The worker's share.
void feature_group_norms(const PackedMatrix& weight, float* out, Worker worker);

struct LikeliestArgs {
    PackedMatrix weight;
    FineRows rows;
    const float* norms;  // feature_group_norms of the weight
    float* maxima;       // room for [num_tokens, feature groups]
    float* largest;      // [num_tokens]; NaN if any element of the row is
    std::int64_t* position;  // [num_tokens]: the first among equals, or a NaN
};

// The worker's share, inside a job of `pool`, in which all workers call it: there are barriers inside.
void qgemm_likeliest(const LikeliestArgs& args, Isa isa, ThreadPool& pool, Worker worker);

}  // namespace steelyard
