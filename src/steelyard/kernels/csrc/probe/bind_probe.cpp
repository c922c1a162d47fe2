#include <stdexcept>

#include "../bindings.hpp"
#include "probe.hpp"

namespace steelyard {
namespace {

Stream stream_named(const std::string& name) {
    if (name == "read") return Stream::read;
    if (name == "copy") return Stream::copy;
    if (name == "triad") return Stream::triad;
    throw std::invalid_argument("there is no stream '" + name + "'");
}

Arithmetic arithmetic_named(const std::string& name) {
    if (name == "float32") return Arithmetic::float32;
    if (name == "bfloat16") return Arithmetic::bfloat16;
    if (name == "int8") return Arithmetic::int8;
    throw std::invalid_argument("there is no arithmetic in '" + name + "'");
}

void stream(ThreadPool& pool, const std::string& isa_name, const std::string& name, Address a, Address b, Address c,
            Address sums, std::size_t size, std::size_t rounds) {
    const Isa isa = isa_named(isa_name);
    const StreamArgs args{stream_named(name), at<float>(a),    at<const float>(b), at<const float>(c),
                          at<float>(sums),    size,            rounds};
    pool.run([&](Worker worker) { probe_stream(args, worker, isa); });
}

void peak(ThreadPool& pool, const std::string& isa_name, const std::string& arithmetic, std::size_t rounds,
          Address flop, Address result) {
    const Isa isa = isa_named(isa_name);
    const PeakArgs args{arithmetic_named(arithmetic), rounds, at<double>(flop), at<float>(result)};
    pool.run([&](Worker worker) { probe_peak(args, worker, isa); });
}

std::int64_t chase(Address next, std::int64_t start, std::size_t steps) {
    return probe_chase(at<const std::int64_t>(next), start, steps);
}

void empty_jobs(ThreadPool& pool, std::size_t count) {
    for (std::size_t job = 0; job < count; ++job) pool.run([](Worker) {});
}

void barriers(ThreadPool& pool, std::size_t count) {
    pool.run([&](Worker) {
        for (std::size_t i = 0; i < count; ++i) pool.barrier();
    });
}

}  // namespace

void bind_probe(nanobind::module_& m) {
    using namespace nanobind::literals;
    m.def("probe_stream", &stream, "pool"_a, "isa"_a, "name"_a, "a"_a, "b"_a, "c"_a, "sums"_a, "size"_a, "rounds"_a,
          release_gil(), "Read b, copy b to a, or set a = b + 3 c, all of size floats, so many times.");
    m.def("probe_peak", &peak, "pool"_a, "isa"_a, "arithmetic"_a, "rounds"_a, "flop"_a, "result"_a, release_gil(),
          "Multiply and add in registers; flop and result hold one number per worker.");
    m.def("probe_chase", &chase, "next"_a, "start"_a, "steps"_a, release_gil(),
          "Follow a chain of int64 indices and return where it ends.");
    m.def("probe_empty_jobs", &empty_jobs, "pool"_a, "count"_a, release_gil(), "Run so many jobs that do nothing.");
    m.def("probe_barriers", &barriers, "pool"_a, "count"_a, release_gil(), "Run one job of so many barriers.");
}

}  // namespace steelyard
