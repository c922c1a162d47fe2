#include <nanobind/stl/optional.h>

#include <optional>

#include "../bindings.hpp"
#include "../parallel/thread_pool.hpp"
#include "likeliest.hpp"
#include "names.hpp"

namespace steelyard {
namespace {

Isa isa_or_best(const std::optional<std::string>& isa) { return isa ? isa_named(*isa) : best_isa(); }

void pack_gguf(ThreadPool& pool, const std::string& format, Address source, std::size_t row_bytes, std::size_t num_rows,
               Address destinations, Address packed, std::size_t num_inputs) {
    const PackRowsArgs args{at<const std::uint8_t>(source),
                            row_bytes,
                            source_format_named(format),
                            num_rows,
                            at<const std::int32_t>(destinations),
                            at<std::uint8_t>(packed),
                            num_inputs};
    pool.run([&](Worker worker) { pack_rows(args, worker); });
}

QuantiseRowsArgs quantise_args(Address x, std::size_t x_stride, std::size_t num_rows, std::size_t num_inputs,
                               Address blocks) {
    return {at<const float>(x), x_stride, {at<ActivationBlock>(blocks), num_rows, num_inputs}};
}

void quantise(ThreadPool& pool, Address x, std::size_t x_stride, std::size_t num_rows, std::size_t num_inputs,
              Address blocks, const std::optional<std::string>& isa_name) {
    const Isa isa = isa_or_best(isa_name);
    const QuantiseRowsArgs args = quantise_args(x, x_stride, num_rows, num_inputs, blocks);
    pool.run([&](Worker worker) { quantise_rows(args, isa, worker); });
}

void rms_norm_quantise(ThreadPool& pool, Address x, std::size_t x_stride, Address weight, float eps,
                       std::size_t num_rows, std::size_t num_inputs, Address blocks,
                       const std::optional<std::string>& isa_name) {
    const Isa isa = isa_or_best(isa_name);
    const RmsNormQuantiseArgs args{quantise_args(x, x_stride, num_rows, num_inputs, blocks), at<const float>(weight),
                                   eps};
    pool.run([&](Worker worker) { rms_norm_quantise_rows(args, isa, worker); });
}

void multiply(ThreadPool& pool, const std::string& format, Address packed, std::size_t num_rows, std::size_t num_inputs,
              Address blocks, std::size_t num_tokens, Address out, std::size_t out_stride, Address bias,
              const std::string& epilogue, const std::optional<std::string>& isa_name) {
    const Isa isa = isa_or_best(isa_name);
    const QgemmArgs args{{at<const std::uint8_t>(packed), packed_format_named(format), num_rows, num_inputs},
                         {at<ActivationBlock>(blocks), num_tokens, num_inputs},
                         at<float>(out),
                         out_stride,
                         at<const float>(bias),
                         epilogue_named(epilogue)};
    pool.run([&](Worker worker) { qgemm(args, isa, worker); });
}

void multiply_fine(ThreadPool& pool, const std::string& format, Address packed, std::size_t num_rows,
                   std::size_t num_inputs, Address x, std::size_t x_stride, std::size_t num_tokens, Address rest,
                   Address blocks, Address sums, Address out) {
    const PackedMatrix weight{at<const std::uint8_t>(packed), packed_format_named(format), num_rows, num_inputs};
    const FineRows rows{at<const float>(x), x_stride, num_tokens, at<float>(rest), at<ActivationBlock>(blocks)};
    const FineQgemmArgs args{weight, rows, at<float>(sums), at<float>(out)};
    pool.run([&](Worker worker) { qgemm_fine(args, best_isa(), pool, worker); });
}

void find_norms(ThreadPool& pool, const std::string& format, Address packed, std::size_t num_rows,
                std::size_t num_inputs, Address out) {
    const PackedMatrix weight{at<const std::uint8_t>(packed), packed_format_named(format), num_rows, num_inputs};
    pool.run([&](Worker worker) { feature_group_norms(weight, at<float>(out), worker); });
}

void find_likeliest(ThreadPool& pool, const std::string& format, Address packed, std::size_t num_rows,
                    std::size_t num_inputs, Address x, std::size_t x_stride, std::size_t num_tokens, Address rest,
                    Address blocks, Address norms, Address maxima, Address largest, Address position,
                    const std::optional<std::string>& isa_name) {
    const PackedMatrix weight{at<const std::uint8_t>(packed), packed_format_named(format), num_rows, num_inputs};
    const FineRows rows{at<const float>(x), x_stride, num_tokens, at<float>(rest), at<ActivationBlock>(blocks)};
    const LikeliestArgs args{weight, rows, at<const float>(norms), at<float>(maxima), at<float>(largest),
                             at<std::int64_t>(position)};
    const Isa isa = isa_or_best(isa_name);
    pool.run([&](Worker worker) { qgemm_likeliest(args, isa, pool, worker); });
}

void dequantise(ThreadPool& pool, const std::string& format, Address packed, std::size_t num_rows,
                std::size_t num_inputs, Address rows, std::size_t count, Address out) {
    const PackedMatrix weight{at<const std::uint8_t>(packed), packed_format_named(format), num_rows,
                              num_inputs};
    pool.run([&](Worker worker) {
        const Range mine = share(count, worker);
        for (std::size_t i = mine.begin; i < mine.end; ++i) {
            dequantise_row(weight, static_cast<std::size_t>(at<const std::int64_t>(rows)[i]),
                           at<float>(out) + i * num_inputs);
        }
    });
}

}  // namespace

void bind_qgemm(nanobind::module_& m) {
    using namespace nanobind::literals;
    m.def("pack_gguf", &pack_gguf, "pool"_a, "format"_a, "source"_a, "row_bytes"_a, "num_rows"_a, "destinations"_a,
          "packed"_a, "num_inputs"_a, release_gil(), "Pack rows of GGUF blocks into panels.");
    m.def("quantise_rows", &quantise, "pool"_a, "x"_a, "x_stride"_a, "num_rows"_a, "num_inputs"_a, "blocks"_a,
          "isa"_a = nanobind::none(), release_gil(), "Quantise float32 rows to 8 bits.");
    m.def("rms_norm_quantise_rows", &rms_norm_quantise, "pool"_a, "x"_a, "x_stride"_a, "weight"_a, "eps"_a,
          "num_rows"_a, "num_inputs"_a, "blocks"_a, "isa"_a = nanobind::none(), release_gil(),
          "Norm float32 rows and quantise them to 8 bits.");
    m.def("qgemm", &multiply, "pool"_a, "format"_a, "packed"_a, "num_rows"_a, "num_inputs"_a, "blocks"_a,
          "num_tokens"_a, "out"_a, "out_stride"_a, "bias"_a, "epilogue"_a, "isa"_a = nanobind::none(), release_gil(),
          "Multiply quantised rows by a packed matrix.");
    m.def("qgemm_fine", &multiply_fine, "pool"_a, "format"_a, "packed"_a, "num_rows"_a, "num_inputs"_a, "x"_a,
          "x_stride"_a, "num_tokens"_a, "rest"_a, "blocks"_a, "sums"_a, "out"_a, release_gil(),
          "Multiply float32 rows, taken in two steps of 8 bits, by a packed matrix.");
    m.def("feature_group_norms", &find_norms, "pool"_a, "format"_a, "packed"_a, "num_rows"_a, "num_inputs"_a, "out"_a,
          release_gil(), "Write the largest norm of a packed matrix's rows, of 32 after another.");
    m.def("qgemm_likeliest", &find_likeliest, "pool"_a, "format"_a, "packed"_a, "num_rows"_a, "num_inputs"_a, "x"_a,
          "x_stride"_a, "num_tokens"_a, "rest"_a, "blocks"_a, "norms"_a, "maxima"_a, "largest"_a, "position"_a,
          "isa"_a = nanobind::none(), release_gil(), "Find the largest element of each row of a fine product.");
    m.def("dequantise_rows", &dequantise, "pool"_a, "format"_a, "packed"_a, "num_rows"_a, "num_inputs"_a, "rows"_a,
          "count"_a, "out"_a, release_gil(), "Write the chosen rows of a packed matrix as float32.");
}

}  // namespace steelyard
