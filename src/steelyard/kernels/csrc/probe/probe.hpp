// Loops that measure a processor: streams through memory, a chain of dependent loads, and chains of arithmetic that
// never leave the registers. They compute something checkable and count what they did; who calls them keeps the time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../isa.hpp"
#include "../parallel/thread_pool.hpp"

namespace steelyard {

enum class Stream { read, copy, triad };

// Runs `rounds` times over `size` floats: sums b, or a = b, or a = b + 3 c. Every worker takes its share, always the
// same one, and leaves its part of the sum in sums[worker.index]; the others leave 0 there.
struct StreamArgs {
    Stream stream;
    float* a;        // written by copy and triad
    const float* b;  // read by all
    const float* c;  // read by triad
    float* sums;     // [workers]
    std::size_t size;
    std::size_t rounds;
};

void probe_stream(const StreamArgs& args, Worker worker, Isa isa);

// Follows `next` from `start`: each load waits for the one before. Returns where it is after `steps`.
std::int64_t probe_chase(const std::int64_t* next, std::int64_t start, std::size_t steps);

enum class Arithmetic { float32, bfloat16, int8 };

// Multiply-adds in registers. `flop` is how many multiplications and additions the worker did (0 if the instruction
// set has no instruction of that kind), `result` keeps the compiler from leaving them out.
struct PeakArgs {
    Arithmetic arithmetic;
    std::size_t rounds;
    double* flop;   // [workers]
    float* result;  // [workers]
};

void probe_peak(const PeakArgs& args, Worker worker, Isa isa);

}  // namespace steelyard
