// Multiply-adds in registers, compiled once per instruction set (isa.hpp).
//
// Each chain waits for itself alone; there are more chains than the units' latency times their number. Contraction is
// off for all kernels, so the fused instructions are asked for by name; the baseline multiplies and adds.

#include "probe.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace steelyard::STEELYARD_ISA {
namespace {

constexpr std::size_t num_chains = 12;
// Values stay of ordinary size for ever: x = x · 0.5 + 0.5 goes to 1.
constexpr float half = 0.5f;

struct Counted {
    double flop;
    float result;
};

#if defined(__GNUC__)
// Keeps the compiler from working a chain out beforehand, or from moving it out of the loop.
#define STEELYARD_OPAQUE(value) asm volatile("" : "+x"(value))
#define STEELYARD_OPAQUE_WIDE(value) asm volatile("" : "+v"(value))
#else
#define STEELYARD_OPAQUE(value)
#define STEELYARD_OPAQUE_WIDE(value)
#endif

#if defined(__AVX512F__)

Counted float32_chains(std::size_t rounds) {
    __m512 factor = _mm512_set1_ps(half), sums[num_chains];
    for (__m512& sum : sums) sum = factor;
    for (std::size_t round = 0; round < rounds; ++round) {
        STEELYARD_OPAQUE_WIDE(factor);
#pragma GCC unroll 12
        for (std::size_t chain = 0; chain < num_chains; ++chain) {
            sums[chain] = _mm512_fmadd_ps(sums[chain], factor, factor);
        }
    }
    __m512 total = _mm512_setzero_ps();
    for (const __m512& sum : sums) total = _mm512_add_ps(total, sum);
    return {2.0 * 16 * num_chains * static_cast<double>(rounds), _mm512_reduce_add_ps(total)};
}

#elif defined(__AVX2__)

Counted float32_chains(std::size_t rounds) {
    __m256 factor = _mm256_set1_ps(half), sums[num_chains];
    for (__m256& sum : sums) sum = factor;
    for (std::size_t round = 0; round < rounds; ++round) {
        STEELYARD_OPAQUE(factor);
#pragma GCC unroll 12
        for (std::size_t chain = 0; chain < num_chains; ++chain) {
            sums[chain] = _mm256_fmadd_ps(sums[chain], factor, factor);
        }
    }
    __m256 total = _mm256_setzero_ps();
    for (const __m256& sum : sums) total = _mm256_add_ps(total, sum);
    float lanes[8], result = 0;
    _mm256_storeu_ps(lanes, total);
    for (float lane : lanes) result += lane;
    return {2.0 * 8 * num_chains * static_cast<double>(rounds), result};
}

#else

// Four lanes are what every 64-bit processor has; the compiler turns them into vectors.
Counted float32_chains(std::size_t rounds) {
    constexpr std::size_t num_lanes = 4 * num_chains;
    float sums[num_lanes], factor = half, result = 0;
    for (float& sum : sums) sum = factor;
    for (std::size_t round = 0; round < rounds; ++round) {
        for (std::size_t lane = 0; lane < num_lanes; ++lane) sums[lane] = sums[lane] * factor + factor;
    }
    for (float sum : sums) result += sum;
    return {2.0 * num_lanes * static_cast<double>(rounds), result};
}

#endif

#if defined(__AVX512BF16__)

Counted bfloat16_chains(std::size_t rounds) {
    const __m512 quarter = _mm512_set1_ps(0.25f);
    __m512bh factor = _mm512_cvtne2ps_pbh(quarter, quarter);
    __m512 sums[num_chains];
    for (__m512& sum : sums) sum = _mm512_setzero_ps();
    for (std::size_t round = 0; round < rounds; ++round) {
        STEELYARD_OPAQUE_WIDE(factor);
#pragma GCC unroll 12
        for (std::size_t chain = 0; chain < num_chains; ++chain) {
            sums[chain] = _mm512_dpbf16_ps(sums[chain], factor, factor);
        }
    }
    __m512 total = _mm512_setzero_ps();
    for (const __m512& sum : sums) total = _mm512_add_ps(total, sum);
    return {2.0 * 32 * num_chains * static_cast<double>(rounds), _mm512_reduce_add_ps(total)};
}

#else

Counted bfloat16_chains(std::size_t) { return {0, 0}; }

#endif

#if defined(__AVX512VNNI__)

Counted int8_chains(std::size_t rounds) {
    __m512i factor = _mm512_set1_epi8(1), sums[num_chains];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    for (std::size_t round = 0; round < rounds; ++round) {
        STEELYARD_OPAQUE_WIDE(factor);
#pragma GCC unroll 12
        for (std::size_t chain = 0; chain < num_chains; ++chain) {
            sums[chain] = _mm512_dpbusd_epi32(sums[chain], factor, factor);
        }
    }
    __m512i total = _mm512_setzero_si512();
    for (const __m512i& sum : sums) total = _mm512_add_epi32(total, sum);
    return {2.0 * 64 * num_chains * static_cast<double>(rounds), static_cast<float>(_mm512_reduce_add_epi32(total))};
}

#else

Counted int8_chains(std::size_t) { return {0, 0}; }

#endif

Counted run(const PeakArgs& args) {
    switch (args.arithmetic) {
        case Arithmetic::bfloat16: return bfloat16_chains(args.rounds);
        case Arithmetic::int8: return int8_chains(args.rounds);
        default: return float32_chains(args.rounds);
    }
}

}  // namespace

void peak_share(const PeakArgs& args, Worker worker) {
    const Counted counted = run(args);
    args.flop[worker.index] = counted.flop;
    args.result[worker.index] = counted.result;
}

}  // namespace steelyard::STEELYARD_ISA
