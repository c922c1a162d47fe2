// The streams, compiled once per instruction set (isa.hpp).
//
// Stores are ordinary ones, so a copy to memory that is not in a cache reads the target first; the bytes counted by the
// caller leave that out, as STREAM does (McCalpin 1995).

#include "probe.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

// Eight vectors of the widest instruction set: enough sums side by side to hide an addition's latency.
constexpr std::size_t num_lanes = 128;
// Shares begin at cache lines.
constexpr std::size_t line_floats = 16;

inline float sum(const float* b, Range part) {
    float lanes[num_lanes] = {};
    std::size_t i = part.begin;
    for (; i + num_lanes <= part.end; i += num_lanes) {
        for (std::size_t lane = 0; lane < num_lanes; ++lane) lanes[lane] += b[i + lane];
    }
    for (std::size_t lane = 0; i + lane < part.end; ++lane) lanes[lane] += b[i + lane];
    float total = 0;
    for (float lane : lanes) total += lane;
    return total;
}

// A library's copy may use stores that bypass the caches; this one is the loop it looks like.
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("no-tree-loop-distribute-patterns")))
#endif
void copy(float* __restrict a, const float* __restrict b, Range part) {
    for (std::size_t i = part.begin; i < part.end; ++i) a[i] = b[i];
}

void triad(float* __restrict a, const float* __restrict b, const float* __restrict c, Range part) {
    for (std::size_t i = part.begin; i < part.end; ++i) a[i] = b[i] + 3.0f * c[i];
}

}  // namespace

void stream_share(const StreamArgs& args, Worker worker) {
    const Range part = share(args.size, worker, line_floats);
    float total = 0;
    for (std::size_t round = 0; round < args.rounds; ++round) {
        switch (args.stream) {
            case Stream::read: total += sum(args.b, part); break;
            case Stream::copy: copy(args.a, args.b, part); break;
            case Stream::triad: triad(args.a, args.b, args.c, part); break;
        }
#if defined(__GNUC__)
        asm volatile("" ::: "memory");  // every round reads and writes again
#endif
    }
    args.sums[worker.index] = total;
}

}  // namespace steelyard::STEELYARD_ISA
