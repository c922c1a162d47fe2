// What the machine can do at best, for benchmarks to compare with: reading memory, and dot products of bytes.
#pragma once

#include "../isa.hpp"
#include "../parallel/thread_pool.hpp"

namespace steelyard {

// Reads the worker's share of memory, once, as fast as it comes.
void read_bytes(const unsigned char* data, std::size_t num_bytes, Isa isa, Worker worker);

// Dot products of 4 bytes per lane between registers, as many independent ones as keep the CPU busy.
void dot_product_rounds(std::size_t rounds, Isa isa);

// Multiplications and additions in one round on one thread.
std::size_t operations_per_round(Isa isa);

}  // namespace steelyard
