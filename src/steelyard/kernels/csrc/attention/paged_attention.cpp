#include "paged_attention.hpp"

namespace steelyard {

STEELYARD_DECLARE(void attend_items(const PagedAttentionArgs& args, const AttentionPlanView& plan, Worker worker))

void paged_attention(const PagedAttentionArgs& args, Isa isa, Worker worker) {
    const AttentionPlanView plan = args.plan->view();
    STEELYARD_CALL(isa, attend_items(args, plan, worker));
}

}  // namespace steelyard
