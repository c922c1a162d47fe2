#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <tuple>

#include "../bindings.hpp"
#include "../qgemm/names.hpp"
#include "operations.hpp"

namespace steelyard {
namespace {

using Rows = std::pair<std::size_t, std::size_t>;                                // buffer, width
using Matrix = std::tuple<Address, std::string, std::size_t, std::size_t>;      // data, format, rows, inputs
using RotationRows = std::pair<Rows, Rows>;                                     // cos, sin

FloatRows floats(Rows rows) { return {rows.first, rows.second}; }
QuantisedBuffer quantised(Rows rows) { return {rows.first, rows.second}; }

PackedMatrix matrix(const Matrix& given) {
    const auto& [data, format, num_rows, num_inputs] = given;
    return {at<const std::uint8_t>(data), packed_format_named(format), num_rows, num_inputs};
}

std::optional<Rotation> rotation_of(const std::optional<RotationRows>& given) {
    if (!given) return std::nullopt;
    return Rotation{floats(given->first), floats(given->second)};
}

template <class T, class... Arguments>
void add(Program& program, const std::string& kind, Arguments&&... arguments) {
    program.add(kind, std::make_unique<T>(std::forward<Arguments>(arguments)...));
}

void run(Program& program, ThreadPool& pool, std::size_t num_tokens, Address token_ids, AttentionPlan& plan,
         const KVLayout& layout, const std::vector<Address>& caches,
         const std::vector<std::pair<Address, Address>>& tables, Address out) {
    if (plan.num_tokens() != num_tokens) throw std::invalid_argument("the plan is for another number of tokens");
    if (plan.num_workers() < pool.num_workers()) throw std::invalid_argument("the plan is for fewer workers");
    Step step{num_tokens, at<const std::int64_t>(token_ids), &plan, layout, {}, {}, at<float>(out)};
    for (Address cache : caches) step.caches.push_back(at<std::byte>(cache));
    for (const auto& [cos, sin] : tables) step.tables.push_back({at<const float>(cos), at<const float>(sin)});
    const nanobind::gil_scoped_release release;
    program.run(step, pool);
}

}  // namespace

void bind_program(nanobind::module_& m) {
    using namespace nanobind::literals;
    nanobind::class_<Program>(m, "Program", "A model step as a list of operations; see csrc/program/operations.hpp.")
        .def("add_float_rows", [](Program& p, std::size_t width) { return p.arena().add(width * sizeof(float)); })
        .def("add_quantised_rows",
             [](Program& p, std::size_t num_inputs) {
                 return p.arena().add(blocks_of(num_inputs) * sizeof(ActivationBlock));
             })
        .def("embed",
             [](Program& p, const Matrix& table, Rows x, float scale) {
                 add<Embed>(p, "embedding", matrix(table), floats(x), scale);
             })
        .def("gather_rotation",
             [](Program& p, std::size_t table, const RotationRows& rotation) {
                 add<GatherRotation>(p, "embedding", table, *rotation_of(rotation));
             })
        .def("norm_quantise",
             [](Program& p, Rows x, Rows q, Address weight, float eps) {
                 add<NormQuantise>(p, "norm", floats(x), quantised(q), at<const float>(weight), eps);
             })
        .def("quantise", [](Program& p, Rows x, Rows q) { add<Quantise>(p, "quantise", floats(x), quantised(q)); })
        .def("project",
             [](Program& p, const std::string& kind, const Matrix& weight, Rows q, Rows out, Address bias,
                const std::string& epilogue) {
                 add<Project>(p, kind, matrix(weight), quantised(q), floats(out), at<const float>(bias),
                              epilogue_named(epilogue));
             })
        .def("rope_write_kv",
             [](Program& p, std::size_t layer, Rows qkv, std::size_t num_heads, std::size_t num_kv_heads,
                std::size_t head_dim, const std::optional<RotationRows>& rotation, Address q_norm, Address k_norm,
                float eps) {
                 add<RopeWriteKV>(p, "rope and KV write", layer, floats(qkv), Heads{num_heads, num_kv_heads, head_dim},
                                  rotation_of(rotation), at<const float>(q_norm), at<const float>(k_norm), eps);
             },
             "layer"_a, "qkv"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "rotation"_a.none(), "q_norm"_a,
             "k_norm"_a, "eps"_a)
        .def("attend",
             [](Program& p, std::size_t layer, Rows qkv, Rows out, float scale, std::size_t window, float softcap) {
                 add<Attend>(p, "attention", layer, floats(qkv), floats(out), scale, window, softcap);
             })
        .def("norm_add",
             [](Program& p, Rows y, Rows x, Address weight, float eps) {
                 add<NormAdd>(p, "norm", floats(y), floats(x), at<const float>(weight), eps);
             })
        .def("final_norm",
             [](Program& p, Rows x, Address weight, float eps) {
                 add<FinalNorm>(p, "norm", floats(x), at<const float>(weight), eps);
             })
        .def("run", &run)
        .def("take_profile", &Program::take_profile);
    m.def("make_program", [] { return new Program(best_isa()); }, nanobind::rv_policy::take_ownership,
          "Return an empty program.");
}

}  // namespace steelyard
