#include <nanobind/stl/optional.h>

#include <optional>
#include <stdexcept>

#include "../bindings.hpp"
#include "paged_attention.hpp"
#include "rope_write_kv.hpp"

namespace steelyard {
namespace {

using IsaName = std::optional<std::string>;

Isa chosen_isa(const IsaName& name) { return name ? isa_named(*name) : best_isa(); }

KVType kv_type_named(const std::string& name) {
    if (name == "float32") return KVType::float32;
    if (name == "float16") return KVType::float16;
    if (name == "bfloat16") return KVType::bfloat16;
    if (name == "int8") return KVType::int8;
    throw std::invalid_argument("no KV cache of type '" + name + "'");
}

// Everything but the tensors of one attention call.
struct Call {
    float scale;
    std::size_t window;
    float softcap;
};

void check(const AttentionPlan& plan, const KVLayout& layout, const ThreadPool& pool) {
    const AttentionShape& shape = plan.shape();
    if (shape.num_kv_heads != layout.num_kv_heads || shape.head_dim != layout.head_dim ||
        shape.block_size != layout.block_size) {
        throw std::invalid_argument("the plan was built for another KV layout");
    }
    if (plan.num_workers() < pool.num_workers()) throw std::invalid_argument("the plan was built for fewer workers");
}

void build_plan(AttentionPlan& plan, const KVLayout& layout, std::size_t num_heads, Address query_starts,
                Address context_lens, Address table_starts, Address blocks, std::size_t num_sequences,
                std::size_t num_blocks, std::size_t num_workers) {
    const StepSequences sequences{at<const std::int32_t>(query_starts), at<const std::int32_t>(context_lens),
                                  at<const std::int32_t>(table_starts), at<const std::int32_t>(blocks), num_sequences};
    plan.build({num_heads, layout.num_kv_heads, layout.head_dim, layout.block_size}, sequences, num_blocks, num_workers);
}

RopeWriteKVArgs write_args(const AttentionPlan& plan, const KVLayout& layout, Address cache, Address k,
                           std::size_t k_stride, Address v, std::size_t v_stride) {
    RopeWriteKVArgs args{};
    args.layout = layout;
    args.cache = at<std::byte>(cache);
    args.k = at<float>(k);
    args.k_stride = k_stride;
    args.v = at<const float>(v);
    args.v_stride = v_stride;
    args.num_tokens = plan.num_tokens();
    args.slots = plan.slots();
    return args;
}

void rope_write_kv_on(ThreadPool& pool, const AttentionPlan& plan, const KVLayout& layout, Address cache, Address q,
                      std::size_t q_stride, Address k, std::size_t k_stride, Address v, std::size_t v_stride,
                      Address cos, Address sin, std::size_t rotary_dim, Address q_norm, Address k_norm, float eps,
                      const IsaName& isa) {
    const Isa chosen = chosen_isa(isa);
    check(plan, layout, pool);
    if (rotary_dim % 2 != 0 || rotary_dim > layout.head_dim) throw std::invalid_argument("rotary_dim does not fit");
    RopeWriteKVArgs args = write_args(plan, layout, cache, k, k_stride, v, v_stride);
    args.q = at<float>(q);
    args.q_stride = q_stride;
    args.num_heads = plan.shape().num_heads;
    args.cos = at<const float>(cos);
    args.sin = at<const float>(sin);
    args.rotary_dim = rotary_dim;
    args.q_norm = at<const float>(q_norm);
    args.k_norm = at<const float>(k_norm);
    args.eps = eps;
    const nanobind::gil_scoped_release released;
    pool.run([&](Worker worker) { rope_write_kv(args, chosen, worker); });
}

PagedAttentionArgs attention_args(AttentionPlan& plan, const KVLayout& layout, Address cache, Address q,
                                  std::size_t q_stride, Address out, std::size_t out_stride, const Call& call) {
    return {&plan, layout, at<const std::byte>(cache), at<const float>(q), q_stride,
            at<float>(out), out_stride, call.scale, call.window, call.softcap};
}

void paged_attention_on(ThreadPool& pool, AttentionPlan& plan, const KVLayout& layout, Address cache, Address q,
                        std::size_t q_stride, Address out, std::size_t out_stride, float scale, std::size_t window,
                        float softcap, const IsaName& isa) {
    const Isa chosen = chosen_isa(isa);
    check(plan, layout, pool);
    const PagedAttentionArgs args = attention_args(plan, layout, cache, q, q_stride, out, out_stride, {scale, window, softcap});
    const nanobind::gil_scoped_release released;
    pool.run([&](Worker worker) { paged_attention(args, chosen, worker); });
}

void write_and_attend_on(ThreadPool& pool, AttentionPlan& plan, const KVLayout& layout, Address cache, Address q,
                         std::size_t q_stride, Address k, std::size_t k_stride, Address v, std::size_t v_stride,
                         Address out, std::size_t out_stride, float scale, std::size_t window, float softcap,
                         const IsaName& isa) {
    const Isa chosen = chosen_isa(isa);
    check(plan, layout, pool);
    const RopeWriteKVArgs written = write_args(plan, layout, cache, k, k_stride, v, v_stride);
    const PagedAttentionArgs args = attention_args(plan, layout, cache, q, q_stride, out, out_stride, {scale, window, softcap});
    const nanobind::gil_scoped_release released;
    pool.run([&](Worker worker) {
        rope_write_kv(written, chosen, worker);
        pool.barrier();
        paged_attention(args, chosen, worker);
    });
}

}  // namespace

void bind_attention(nanobind::module_& m) {
    using namespace nanobind::literals;
    nanobind::class_<KVLayout>(m, "KVLayout", "How keys and values lie in a block of the paged cache.")
        .def_ro("block_bytes", &KVLayout::block_bytes)
        .def_ro("head_bytes", &KVLayout::head_bytes)
        .def_ro("group_bytes", &KVLayout::group_bytes)
        .def_ro("values_bytes", &KVLayout::values_bytes)
        .def_ro("scales_bytes", &KVLayout::scales_bytes);
    m.def("make_kv_layout", [](const std::string& type, std::size_t num_kv_heads, std::size_t head_dim, std::size_t block_size,
                               std::size_t num_layers) {
        return make_kv_layout(kv_type_named(type), num_kv_heads, head_dim, block_size, num_layers);
    }, "type"_a, "num_kv_heads"_a, "head_dim"_a, "block_size"_a, "num_layers"_a);
    nanobind::class_<AttentionPlan>(m, "AttentionPlan", "Who attends to what in one step.")
        .def(nanobind::init<>())
        .def("build", &build_plan, "layout"_a, "num_heads"_a, "query_starts"_a, "context_lens"_a, "table_starts"_a,
             "blocks"_a, "num_sequences"_a, "num_blocks"_a, "num_workers"_a)
        .def_prop_ro("num_tokens", &AttentionPlan::num_tokens)
        .def_prop_ro("address", [](const AttentionPlan& plan) { return reinterpret_cast<Address>(&plan); })
        .def_prop_ro("slots", [](const AttentionPlan& plan) { return reinterpret_cast<Address>(plan.slots()); })
        .def_prop_ro("positions", [](const AttentionPlan& plan) { return reinterpret_cast<Address>(plan.positions()); });
    m.def("rope_write_kv", &rope_write_kv_on, "pool"_a, "plan"_a, "layout"_a, "cache"_a, "q"_a, "q_stride"_a, "k"_a,
          "k_stride"_a, "v"_a, "v_stride"_a, "cos"_a, "sin"_a, "rotary_dim"_a, "q_norm"_a, "k_norm"_a, "eps"_a,
          "isa"_a = nanobind::none(), "Norm and rotate q and k, and put k and v into the cache.");
    m.def("paged_attention", &paged_attention_on, "pool"_a, "plan"_a, "layout"_a, "cache"_a, "q"_a, "q_stride"_a,
          "out"_a, "out_stride"_a, "scale"_a, "window"_a, "softcap"_a, "isa"_a = nanobind::none(),
          "Attend the step's queries to the cache.");
    m.def("write_and_attend", &write_and_attend_on, "pool"_a, "plan"_a, "layout"_a, "cache"_a, "q"_a, "q_stride"_a,
          "k"_a, "k_stride"_a, "v"_a, "v_stride"_a, "out"_a, "out_stride"_a, "scale"_a, "window"_a, "softcap"_a,
          "isa"_a = nanobind::none(), "Put k and v into the cache as they are, then attend: one job.");
}

}  // namespace steelyard
