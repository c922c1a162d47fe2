// Sixteen lanes of float and int32 in whatever registers the instruction set has, and dot products of 4 bytes per lane.
//
// For inclusion by kernels only: everything is internal to the compilation (isa.hpp says why). The arithmetic is the same
// on all instruction sets, bit for bit.
#pragma once

#include <math.h>
#include <string.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "half.hpp"

#if defined(_MSC_VER)
#define STEELYARD_INLINE __forceinline
#define STEELYARD_INLINE_LAMBDA
#define STEELYARD_PREFETCH(address) (void)(address)
#else
#define STEELYARD_INLINE inline __attribute__((always_inline))
#define STEELYARD_INLINE_LAMBDA __attribute__((always_inline))
// Weights are read once a step: they are not to push activations, keys and the interpreter out of the caches.
#define STEELYARD_PREFETCH(address) __builtin_prefetch(address, 0, 0)
#endif

namespace steelyard::STEELYARD_ISA {
namespace {

#if defined(__AVX512F__)

struct Floats {
    __m512 v;
};
struct Ints {
    __m512i v;
};
struct Bytes {  // 16 lanes of 4 bytes
    __m512i v;
};

STEELYARD_INLINE __mmask16 first_lanes(std::size_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1); }
STEELYARD_INLINE Floats zeros() { return {_mm512_setzero_ps()}; }
STEELYARD_INLINE Floats all(float x) { return {_mm512_set1_ps(x)}; }
STEELYARD_INLINE Ints all_ints(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
STEELYARD_INLINE Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
STEELYARD_INLINE Floats load_first(const float* p, std::size_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
STEELYARD_INLINE void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
STEELYARD_INLINE void store_first(float* p, std::size_t n, Floats a) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
STEELYARD_INLINE Floats load_half(const void* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
STEELYARD_INLINE Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
STEELYARD_INLINE Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
STEELYARD_INLINE Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
STEELYARD_INLINE Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
STEELYARD_INLINE Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
STEELYARD_INLINE Floats at_least(Floats a, float low) { return {_mm512_max_ps(a.v, _mm512_set1_ps(low))}; }
STEELYARD_INLINE Floats at_most(Floats a, float high) { return {_mm512_min_ps(a.v, _mm512_set1_ps(high))}; }
STEELYARD_INLINE Floats to_floats(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
STEELYARD_INLINE Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
STEELYARD_INLINE Ints operator-(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
STEELYARD_INLINE Ints larger(Ints a, Ints b) { return {_mm512_max_epi32(a.v, b.v)}; }
STEELYARD_INLINE std::int32_t largest(Ints a) { return _mm512_reduce_max_epi32(a.v); }
STEELYARD_INLINE std::int32_t total(Ints a) { return _mm512_reduce_add_epi32(a.v); }
// The low byte of each lane.
STEELYARD_INLINE void store_low_bytes(std::int8_t* p, Ints a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
STEELYARD_INLINE Ints bits_of(Floats a) { return {_mm512_castps_si512(a.v)}; }
STEELYARD_INLINE Ints without_sign(Ints a) { return {_mm512_and_si512(a.v, _mm512_set1_epi32(0x7fffffff))}; }
STEELYARD_INLINE Floats from_bits(Ints a) { return {_mm512_castsi512_ps(a.v)}; }
template <int count>
STEELYARD_INLINE Ints shift_left(Ints a) {
    return {_mm512_slli_epi32(a.v, count)};
}
STEELYARD_INLINE Bytes load_bytes(const std::uint8_t* p) { return {_mm512_loadu_si512(p)}; }
STEELYARD_INLINE void store_bytes(std::uint8_t* p, Bytes a) { _mm512_storeu_si512(p, a.v); }
STEELYARD_INLINE Bytes lower_halves(Bytes a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
STEELYARD_INLINE Bytes upper_halves(Bytes a) {
    return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
}
STEELYARD_INLINE Bytes every_lane(const std::int8_t* four) {
    std::int32_t word;
    memcpy(&word, four, 4);
    return {_mm512_set1_epi32(word)};
}

#if defined(__AVX512VNNI__)

template <bool>
struct DotSum {
    Ints sum;
    STEELYARD_INLINE void begin(Ints start) { sum = start; }
    STEELYARD_INLINE void add(Bytes weights, Bytes values) { sum.v = _mm512_dpbusd_epi32(sum.v, weights.v, values.v); }
    STEELYARD_INLINE Ints total() const { return sum; }
};

#else

template <bool narrow>
struct DotSum;

// Weights of at most 15: eight sums of two products of bytes fit into 16 bits.
template <>
struct DotSum<true> {
    Ints first;
    __m512i pairs;
    STEELYARD_INLINE void begin(Ints start) {
        first = start;
        pairs = _mm512_setzero_si512();
    }
    STEELYARD_INLINE void add(Bytes weights, Bytes values) {
        pairs = _mm512_add_epi16(pairs, _mm512_maddubs_epi16(weights.v, values.v));
    }
    STEELYARD_INLINE Ints total() const {
        return {_mm512_add_epi32(first.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
    }
};

// Weights of any size: even and odd bytes apart, widened to 16 bits, as their sums in pairs may exceed 16 bits.
template <>
struct DotSum<false> {
    __m512i sum;
    STEELYARD_INLINE void begin(Ints start) { sum = start.v; }
    STEELYARD_INLINE void add(Bytes weights, Bytes values) {
        const __m512i even = _mm512_and_si512(weights.v, _mm512_set1_epi16(255));
        const __m512i odd = _mm512_srli_epi16(weights.v, 8);
        const __m512i even_values = _mm512_srai_epi16(_mm512_slli_epi16(values.v, 8), 8);
        const __m512i odd_values = _mm512_srai_epi16(values.v, 8);
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(even, even_values));
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(odd, odd_values));
    }
    STEELYARD_INLINE Ints total() const { return {sum}; }
};

#endif

#elif defined(__AVX2__)

struct Floats {
    __m256 a, b;
};
struct Ints {
    __m256i a, b;
};
struct Bytes {
    __m256i a, b;
};

STEELYARD_INLINE Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
STEELYARD_INLINE Floats all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
STEELYARD_INLINE Ints all_ints(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
STEELYARD_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
STEELYARD_INLINE void store(float* p, Floats x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
STEELYARD_INLINE Floats load_first(const float* p, std::size_t n) {
    alignas(32) float lanes[16] = {};
    memcpy(lanes, p, (n < 16 ? n : 16) * sizeof(float));
    return load(lanes);
}
STEELYARD_INLINE void store_first(float* p, std::size_t n, Floats x) {
    alignas(32) float lanes[16];
    store(lanes, x);
    memcpy(p, lanes, (n < 16 ? n : 16) * sizeof(float));
}
STEELYARD_INLINE Floats load_half(const void* p) {
    const __m128i* halves = static_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
STEELYARD_INLINE Floats operator+(Floats x, Floats y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
STEELYARD_INLINE Floats operator-(Floats x, Floats y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
STEELYARD_INLINE Floats operator*(Floats x, Floats y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
STEELYARD_INLINE Floats operator/(Floats x, Floats y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
STEELYARD_INLINE Floats fma(Floats x, Floats y, Floats z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
STEELYARD_INLINE Floats at_least(Floats x, float low) {
    return {_mm256_max_ps(x.a, _mm256_set1_ps(low)), _mm256_max_ps(x.b, _mm256_set1_ps(low))};
}
STEELYARD_INLINE Floats at_most(Floats x, float high) {
    return {_mm256_min_ps(x.a, _mm256_set1_ps(high)), _mm256_min_ps(x.b, _mm256_set1_ps(high))};
}
STEELYARD_INLINE Floats to_floats(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
STEELYARD_INLINE Ints operator+(Ints x, Ints y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
STEELYARD_INLINE Ints operator-(Ints x, Ints y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
STEELYARD_INLINE Ints larger(Ints x, Ints y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
STEELYARD_INLINE std::int32_t largest(Ints x) {
    const __m256i eight = _mm256_max_epi32(x.a, x.b);
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
STEELYARD_INLINE std::int32_t total(Ints x) {
    const __m256i eight = _mm256_add_epi32(x.a, x.b);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
// The low byte of each lane.
STEELYARD_INLINE void store_low_bytes(std::int8_t* p, Ints x) {
    const __m256i low = _mm256_set1_epi32(255);
    const __m256i words = _mm256_packus_epi32(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
STEELYARD_INLINE Ints without_sign(Ints x) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
STEELYARD_INLINE Ints bits_of(Floats x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
STEELYARD_INLINE Floats from_bits(Ints x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
template <int count>
STEELYARD_INLINE Ints shift_left(Ints x) {
    return {_mm256_slli_epi32(x.a, count), _mm256_slli_epi32(x.b, count)};
}
STEELYARD_INLINE Bytes load_bytes(const std::uint8_t* p) {
    const __m256i* halves = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
STEELYARD_INLINE void store_bytes(std::uint8_t* p, Bytes x) {
    __m256i* halves = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(halves, x.a);
    _mm256_storeu_si256(halves + 1, x.b);
}
STEELYARD_INLINE Bytes lower_halves(Bytes x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
STEELYARD_INLINE Bytes upper_halves(Bytes x) {
    return lower_halves({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}
STEELYARD_INLINE Bytes every_lane(const std::int8_t* four) {
    std::int32_t word;
    memcpy(&word, four, 4);
    return {_mm256_set1_epi32(word), _mm256_set1_epi32(word)};
}

template <bool narrow>
struct DotSum;

// Weights of at most 15: eight sums of two products of bytes fit into 16 bits.
template <>
struct DotSum<true> {
    Ints first;
    __m256i a, b;
    STEELYARD_INLINE void begin(Ints start) {
        first = start;
        a = b = _mm256_setzero_si256();
    }
    STEELYARD_INLINE void add(Bytes weights, Bytes values) {
        a = _mm256_add_epi16(a, _mm256_maddubs_epi16(weights.a, values.a));
        b = _mm256_add_epi16(b, _mm256_maddubs_epi16(weights.b, values.a));
    }
    STEELYARD_INLINE Ints total() const {
        const __m256i one = _mm256_set1_epi16(1);
        return first + Ints{_mm256_madd_epi16(a, one), _mm256_madd_epi16(b, one)};
    }
};

// Weights of any size: even and odd bytes apart, widened to 16 bits, as their sums in pairs may exceed 16 bits.
template <>
struct DotSum<false> {
    Ints sum;
    STEELYARD_INLINE void begin(Ints start) { sum = start; }
    STEELYARD_INLINE void add(Bytes weights, Bytes values) {
        const __m256i even_values = _mm256_srai_epi16(_mm256_slli_epi16(values.a, 8), 8);
        const __m256i odd_values = _mm256_srai_epi16(values.a, 8);
        sum = sum + Ints{both(weights.a, even_values, odd_values), both(weights.b, even_values, odd_values)};
    }
    STEELYARD_INLINE static __m256i both(__m256i weights, __m256i even_values, __m256i odd_values) {
        const __m256i even = _mm256_and_si256(weights, _mm256_set1_epi16(255));
        const __m256i odd = _mm256_srli_epi16(weights, 8);
        return _mm256_add_epi32(_mm256_madd_epi16(even, even_values), _mm256_madd_epi16(odd, odd_values));
    }
    STEELYARD_INLINE Ints total() const { return sum; }
};

#else

struct Floats {
    float v[16];
};
struct Ints {
    std::int32_t v[16];
};
struct Bytes {
    std::uint8_t v[64];
};

template <class To, class Function>
STEELYARD_INLINE To lanewise(Function function) {
    To out;
    for (std::size_t lane = 0; lane < 16; ++lane) out.v[lane] = function(lane);
    return out;
}
STEELYARD_INLINE Floats zeros() { return {}; }
STEELYARD_INLINE Floats all(float x) {
    return lanewise<Floats>([&](std::size_t) { return x; });
}
STEELYARD_INLINE Ints all_ints(std::int32_t x) {
    return lanewise<Ints>([&](std::size_t) { return x; });
}
STEELYARD_INLINE Floats load_first(const float* p, std::size_t n) {
    Floats out = {};
    memcpy(out.v, p, (n < 16 ? n : 16) * sizeof(float));
    return out;
}
STEELYARD_INLINE void store_first(float* p, std::size_t n, const Floats& a) {
    memcpy(p, a.v, (n < 16 ? n : 16) * sizeof(float));
}
STEELYARD_INLINE Floats load(const float* p) { return load_first(p, 16); }
STEELYARD_INLINE void store(float* p, const Floats& a) { store_first(p, 16, a); }
STEELYARD_INLINE Floats load_half(const void* p) {
    std::uint16_t halves[16];
    memcpy(halves, p, sizeof(halves));
    return lanewise<Floats>([&](std::size_t i) { return float_from_half(halves[i]); });
}
STEELYARD_INLINE Floats operator+(const Floats& a, const Floats& b) {
    return lanewise<Floats>([&](std::size_t i) { return a.v[i] + b.v[i]; });
}
STEELYARD_INLINE Floats operator-(const Floats& a, const Floats& b) {
    return lanewise<Floats>([&](std::size_t i) { return a.v[i] - b.v[i]; });
}
STEELYARD_INLINE Floats operator*(const Floats& a, const Floats& b) {
    return lanewise<Floats>([&](std::size_t i) { return a.v[i] * b.v[i]; });
}
STEELYARD_INLINE Floats operator/(const Floats& a, const Floats& b) {
    return lanewise<Floats>([&](std::size_t i) { return a.v[i] / b.v[i]; });
}
STEELYARD_INLINE Floats fma(const Floats& a, const Floats& b, const Floats& c) {
    return lanewise<Floats>([&](std::size_t i) { return fmaf(a.v[i], b.v[i], c.v[i]); });
}
STEELYARD_INLINE Floats at_least(const Floats& a, float low) {  // a NaN gives `low`, as the vector instructions do
    return lanewise<Floats>([&](std::size_t i) { return a.v[i] > low ? a.v[i] : low; });
}
STEELYARD_INLINE Floats at_most(const Floats& a, float high) {
    return lanewise<Floats>([&](std::size_t i) { return a.v[i] < high ? a.v[i] : high; });
}
STEELYARD_INLINE Floats to_floats(const Ints& a) {
    return lanewise<Floats>([&](std::size_t i) { return static_cast<float>(a.v[i]); });
}
STEELYARD_INLINE Ints operator+(const Ints& a, const Ints& b) {
    return lanewise<Ints>([&](std::size_t i) {
        return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) + static_cast<std::uint32_t>(b.v[i]));
    });
}
STEELYARD_INLINE Ints operator-(const Ints& a, const Ints& b) {
    return lanewise<Ints>([&](std::size_t i) {
        return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) - static_cast<std::uint32_t>(b.v[i]));
    });
}
STEELYARD_INLINE Ints larger(const Ints& a, const Ints& b) {
    return lanewise<Ints>([&](std::size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
STEELYARD_INLINE std::int32_t largest(const Ints& a) {
    std::int32_t found = a.v[0];
    for (std::size_t i = 1; i < 16; ++i) found = a.v[i] > found ? a.v[i] : found;
    return found;
}
STEELYARD_INLINE std::int32_t total(const Ints& a) {
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < 16; ++i) sum += static_cast<std::uint32_t>(a.v[i]);
    return static_cast<std::int32_t>(sum);
}
// The low byte of each lane.
STEELYARD_INLINE void store_low_bytes(std::int8_t* p, const Ints& a) {
    for (std::size_t i = 0; i < 16; ++i) p[i] = static_cast<std::int8_t>(a.v[i] & 255);
}
STEELYARD_INLINE Ints without_sign(const Ints& a) {
    return lanewise<Ints>([&](std::size_t i) { return a.v[i] & 0x7fffffff; });
}
STEELYARD_INLINE Ints bits_of(const Floats& a) {
    Ints out;
    memcpy(out.v, a.v, sizeof(out.v));
    return out;
}
STEELYARD_INLINE Floats from_bits(const Ints& a) {
    Floats out;
    memcpy(out.v, a.v, sizeof(out.v));
    return out;
}
template <int count>
STEELYARD_INLINE Ints shift_left(const Ints& a) {
    return lanewise<Ints>(
        [&](std::size_t i) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) << count); });
}
STEELYARD_INLINE Bytes load_bytes(const std::uint8_t* p) {
    Bytes out;
    memcpy(out.v, p, sizeof(out.v));
    return out;
}
STEELYARD_INLINE void store_bytes(std::uint8_t* p, const Bytes& a) { memcpy(p, a.v, sizeof(a.v)); }
STEELYARD_INLINE Bytes lower_halves(const Bytes& a) {
    Bytes out;
    for (std::size_t i = 0; i < 64; ++i) out.v[i] = a.v[i] & 15;
    return out;
}
STEELYARD_INLINE Bytes upper_halves(const Bytes& a) {
    Bytes out;
    for (std::size_t i = 0; i < 64; ++i) out.v[i] = static_cast<std::uint8_t>(a.v[i] >> 4);
    return out;
}
STEELYARD_INLINE Bytes every_lane(const std::int8_t* four) {
    Bytes out;
    for (std::size_t i = 0; i < 16; ++i) memcpy(out.v + 4 * i, four, 4);
    return out;
}

template <bool>
struct DotSum {
    Ints sum;
    STEELYARD_INLINE void begin(const Ints& start) { sum = start; }
    STEELYARD_INLINE void add(const Bytes& weights, const Bytes& values) {
        for (std::size_t i = 0; i < 64; ++i) {
            sum.v[i / 4] += static_cast<int>(weights.v[i]) * static_cast<std::int8_t>(values.v[i]);
        }
    }
    STEELYARD_INLINE Ints total() const { return sum; }
};

#endif

// Calls body(0) … body(count − 1) with the index as a constant, so that arrays it indexes can live in registers.
template <std::size_t count, class Body>
STEELYARD_INLINE void repeat(const Body& body) {
    [&]<std::size_t... i>(std::index_sequence<i...>) STEELYARD_INLINE_LAMBDA {
        (body(std::integral_constant<std::size_t, i>{}), ...);
    }(std::make_index_sequence<count>{});
}

// The largest of the first `n` lanes, or of all if there are fewer.
STEELYARD_INLINE float largest_of_first(const Floats& a, std::size_t n) {
#if defined(__AVX512F__)
    return _mm512_mask_reduce_max_ps(first_lanes(n), a.v);
#else
    float lane[16];
    store(lane, a);
    float most = lane[0];
    for (std::size_t i = 1; i < 16 && i < n; ++i) most = lane[i] > most ? lane[i] : most;
    return most;
#endif
}

}  // namespace
}  // namespace steelyard::STEELYARD_ISA
