// What to compute: loops over 0 … size − 1 that read like the standard library's and run on any executor.
//
// A schedule says who gets which part. Sums and scans cut their input into blocks of a fixed length, whoever works on
// them, so that their bits depend on the input alone and never on the number of workers.
//
// For sources that are compiled once. Kernels, compiled once per instruction set, take their part with share (isa.hpp).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <vector>

#include "executors.hpp"

namespace steelyard {

// Each worker gets one part, the same in every loop of this size; cut at multiples of `granule` elements. For even work,
// and for memory that lies where it is used.
struct Static {
    std::size_t granule = 1;
};

// Workers take the next `chunk` elements whenever they are free. For uneven work.
struct Dynamic {
    std::size_t chunk = 1;
};

// Elements of a block of reduce and inclusive_scan.
inline constexpr std::size_t reduction_block = 4096;

// Calls body(Range) on parts that together are 0 … size − 1.
template <Executor E, class Body>
void for_each_range(const E& executor, Static schedule, std::size_t size, const Body& body) {
    executor.run_on_all([&](Worker worker) {
        const Range part = share(size, worker, schedule.granule);
        if (part.begin < part.end) body(part);
    });
}

template <Executor E, class Body>
void for_each_range(const E& executor, Dynamic schedule, std::size_t size, const Body& body) {
    const std::size_t num_chunks = (size + schedule.chunk - 1) / schedule.chunk;
    std::atomic<std::size_t> next{0};
    executor.run_on_all([&](Worker) {
        for (std::size_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < num_chunks;) {
            const std::size_t begin = chunk * schedule.chunk;
            body(Range{begin, std::min(begin + schedule.chunk, size)});
        }
    });
}

// out[i] = function(in[i]...); `out` may be one of `in`, and must not overlap them otherwise.
template <Executor E, class Schedule, class Out, class Function, class... In>
void transform(const E& executor, Schedule schedule, std::size_t size, Out* out, const Function& function,
               const In*... in) {
    for_each_range(executor, schedule, size, [=](Range part) {
        for (std::size_t i = part.begin; i < part.end; ++i) out[i] = function(in[i]...);
    });
}

// combine(combine(block 0, block 1), combine(block 2, block 3)) … in a tree whose shape depends on `size` alone, where a
// block is leaf(Range) of at most reduction_block elements; `identity` if there are none.
template <Executor E, class T, class Leaf, class Combine>
T reduce(const E& executor, std::size_t size, T identity, const Leaf& leaf, const Combine& combine) {
    std::vector<T> blocks((size + reduction_block - 1) / reduction_block);
    for_each_range(executor, Static{reduction_block}, size, [&](Range part) {
        for (std::size_t begin = part.begin; begin < part.end; begin += reduction_block) {
            blocks[begin / reduction_block] = leaf(Range{begin, std::min(begin + reduction_block, part.end)});
        }
    });
    for (std::size_t step = 1; step < blocks.size(); step *= 2) {
        for (std::size_t i = 0; i + step < blocks.size(); i += 2 * step) {
            blocks[i] = combine(blocks[i], blocks[i + step]);
        }
    }
    return blocks.empty() ? identity : blocks[0];
}

// out[i] = in[0] combined with … in[i], from the left; `out` may be `in`. Blocks are summed up side by side, their sums
// one after another, and each block is written from the sum before it.
template <Executor E, class T, class Combine>
void inclusive_scan(const E& executor, std::size_t size, const T* in, T* out, T identity, const Combine& combine) {
    std::vector<T> before((size + reduction_block - 1) / reduction_block + 1, identity);
    const auto scan_blocks = [&](const auto& store) {
        for_each_range(executor, Static{reduction_block}, size, [&](Range part) {
            for (std::size_t begin = part.begin; begin < part.end; begin += reduction_block) {
                store(begin / reduction_block, Range{begin, std::min(begin + reduction_block, part.end)});
            }
        });
    };
    scan_blocks([&](std::size_t block, Range range) {
        T sum = identity;
        for (std::size_t i = range.begin; i < range.end; ++i) sum = combine(sum, in[i]);
        before[block + 1] = sum;
    });
    for (std::size_t block = 1; block < before.size(); ++block) before[block] = combine(before[block - 1], before[block]);
    scan_blocks([&](std::size_t block, Range range) {
        T sum = before[block];
        for (std::size_t i = range.begin; i < range.end; ++i) out[i] = sum = combine(sum, in[i]);
    });
}

}  // namespace steelyard
