// Sixteen floats side by side, for kernels that are written once and compiled per instruction set (isa.hpp).
//
// One register with AVX-512, two with AVX2, a plain array elsewhere. Everything lives in the namespace of the
// instruction set and has no external linkage. Multiply-adds round once where the CPU fuses them and twice on the
// baseline: bits are equal between two calls on one instruction set, not between two instruction sets.
#pragma once

#include <math.h>
#include <string.h>

#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(_MSC_VER)
#define STEELYARD_INLINE __forceinline
#define STEELYARD_INLINE_LAMBDA
#define STEELYARD_UNROLL
#define STEELYARD_PREFETCH(address)
#else
#define STEELYARD_INLINE inline __attribute__((always_inline))
#define STEELYARD_INLINE_LAMBDA __attribute__((always_inline))
#define STEELYARD_UNROLL _Pragma("GCC unroll 16")
#define STEELYARD_PREFETCH(address) __builtin_prefetch(address, 0, 2)
#endif

namespace steelyard::STEELYARD_ISA {
namespace {

constexpr std::size_t num_lanes = 16;

#if defined(__AVX512F__)

struct Lanes {
    __m512 v;
};

STEELYARD_INLINE Lanes splat(float x) { return {_mm512_set1_ps(x)}; }
STEELYARD_INLINE Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
STEELYARD_INLINE void store(float* p, Lanes a) { _mm512_storeu_ps(p, a.v); }
STEELYARD_INLINE Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
STEELYARD_INLINE Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
STEELYARD_INLINE Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
STEELYARD_INLINE Lanes operator/(Lanes a, Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }
STEELYARD_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
STEELYARD_INLINE Lanes larger(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
STEELYARD_INLINE Lanes smaller(Lanes a, Lanes b) { return {_mm512_min_ps(a.v, b.v)}; }
STEELYARD_INLINE Lanes round_to_integer(Lanes a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a · 2^n for integral n of any size; underflows through the subnormals to zero.
STEELYARD_INLINE Lanes times_power_of_two(Lanes a, Lanes n) { return {_mm512_scalef_ps(a.v, n.v)}; }
// x − ⌊x⌋, 0 for an infinity.
STEELYARD_INLINE Lanes fraction(Lanes x) {
    return {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
// a · 2^⌊x⌋; 0 for x = −∞.
STEELYARD_INLINE Lanes times_power_of_floor(Lanes a, Lanes x) { return {_mm512_scalef_ps(a.v, x.v)}; }
STEELYARD_INLINE float largest(Lanes a) { return _mm512_reduce_max_ps(a.v); }
STEELYARD_INLINE bool any_above(Lanes a, Lanes limit) { return _mm512_cmp_ps_mask(a.v, limit.v, _CMP_GT_OQ) != 0; }
// `a` in the lanes from `first` to `last`, both counted in, and `other` elsewhere.
STEELYARD_INLINE Lanes keep_between(Lanes a, int first, int last, Lanes other) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 kept = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(first)) &
                           _mm512_cmple_epi32_mask(lane, _mm512_set1_epi32(last));
    return {_mm512_mask_blend_ps(kept, other.v, a.v)};
}

STEELYARD_INLINE Lanes load_half(const std::uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
STEELYARD_INLINE void store_half(std::uint16_t* p, Lanes a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Every fourth of 64 bytes, from byte `number` on.
template <int number>
STEELYARD_INLINE Lanes load_int8_of_four(const std::int8_t* p) {
    const __m512i top = _mm512_slli_epi32(_mm512_loadu_si512(p), 24 - 8 * number);
    return {_mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24))};
}
// The even and the odd ones of 32 bfloat16 numbers.
STEELYARD_INLINE Lanes load_bfloat16_even(const std::uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
}
STEELYARD_INLINE Lanes load_bfloat16_odd(const std::uint16_t* p) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), high))};
}

#elif defined(__AVX2__)

struct Lanes {
    __m256 low, high;
};

STEELYARD_INLINE Lanes splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
STEELYARD_INLINE Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
STEELYARD_INLINE void store(float* p, Lanes a) {
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
}
STEELYARD_INLINE Lanes operator+(Lanes a, Lanes b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
STEELYARD_INLINE Lanes operator-(Lanes a, Lanes b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
STEELYARD_INLINE Lanes operator*(Lanes a, Lanes b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
STEELYARD_INLINE Lanes operator/(Lanes a, Lanes b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
STEELYARD_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
STEELYARD_INLINE Lanes larger(Lanes a, Lanes b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
STEELYARD_INLINE Lanes smaller(Lanes a, Lanes b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
STEELYARD_INLINE Lanes round_to_integer(Lanes a) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.low, mode), _mm256_round_ps(a.high, mode)};
}
STEELYARD_INLINE __m256 power_of_two_8(__m256 n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
STEELYARD_INLINE __m256 times_power_of_two_8(__m256 a, __m256 n) {
    // In two halves, as a float's exponent alone does not reach into the subnormals.
    n = _mm256_min_ps(_mm256_max_ps(n, _mm256_set1_ps(-250.0f)), _mm256_set1_ps(250.0f));
    const __m256 half = _mm256_floor_ps(_mm256_mul_ps(n, _mm256_set1_ps(0.5f)));
    return _mm256_mul_ps(_mm256_mul_ps(a, power_of_two_8(half)), power_of_two_8(_mm256_sub_ps(n, half)));
}
// a · 2^n for integral n of any size; underflows through the subnormals to zero.
STEELYARD_INLINE Lanes times_power_of_two(Lanes a, Lanes n) {
    return {times_power_of_two_8(a.low, n.low), times_power_of_two_8(a.high, n.high)};
}
STEELYARD_INLINE Lanes floor_of(Lanes x) { return {_mm256_floor_ps(x.low), _mm256_floor_ps(x.high)}; }
STEELYARD_INLINE bool any_above(Lanes a, Lanes limit) {
    const __m256 above = _mm256_or_ps(_mm256_cmp_ps(a.low, limit.low, _CMP_GT_OQ),
                                      _mm256_cmp_ps(a.high, limit.high, _CMP_GT_OQ));
    return _mm256_movemask_ps(above) != 0;
}
STEELYARD_INLINE float largest(Lanes a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
STEELYARD_INLINE __m256 keep_between_8(__m256 a, int first, int last, __m256 other, int offset) {
    const __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(offset));
    const __m256i kept = _mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1)),
                                          _mm256_cmpgt_epi32(_mm256_set1_epi32(last + 1), lane));
    return _mm256_blendv_ps(other, a, _mm256_castsi256_ps(kept));
}
// `a` in the lanes from `first` to `last`, both counted in, and `other` elsewhere.
STEELYARD_INLINE Lanes keep_between(Lanes a, int first, int last, Lanes other) {
    return {keep_between_8(a.low, first, last, other.low, 0), keep_between_8(a.high, first, last, other.high, 8)};
}

STEELYARD_INLINE __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
STEELYARD_INLINE __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
STEELYARD_INLINE Lanes load_half(const std::uint16_t* p) {
    return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 8))};
}
STEELYARD_INLINE void store_half(std::uint16_t* p, Lanes a) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.low, mode));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.high, mode));
}
template <int number>
STEELYARD_INLINE __m256 load_int8_of_four_8(const std::int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(load_256(p), 24 - 8 * number), 24));
}
// Every fourth of 64 bytes, from byte `number` on.
template <int number>
STEELYARD_INLINE Lanes load_int8_of_four(const std::int8_t* p) {
    return {load_int8_of_four_8<number>(p), load_int8_of_four_8<number>(p + 32)};
}
// The even and the odd ones of 32 bfloat16 numbers.
STEELYARD_INLINE Lanes load_bfloat16_even(const std::uint16_t* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(load_256(p), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(load_256(p + 16), 16))};
}
STEELYARD_INLINE Lanes load_bfloat16_odd(const std::uint16_t* p) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm256_castsi256_ps(_mm256_and_si256(load_256(p), high)),
            _mm256_castsi256_ps(_mm256_and_si256(load_256(p + 16), high))};
}

#else

struct Lanes {
    float lane[num_lanes];
};

template <class Function>
STEELYARD_INLINE Lanes each_lane(Function function) {
    Lanes out;
    for (std::size_t i = 0; i < num_lanes; ++i) out.lane[i] = function(i);
    return out;
}

STEELYARD_INLINE float float_of_bits(std::uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
STEELYARD_INLINE std::uint32_t bits_of_float(float x) {
    std::uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

STEELYARD_INLINE float float_of_half(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t rest = half & 0x7fffu;
    if (rest >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    // A half's exponent starts 112 below a float's; the product is exact, for subnormals too.
    return float_of_bits(sign | bits_of_float(float_of_bits(rest << 13) * 0x1p112f));
}
// Rounds to nearest, ties to even.
STEELYARD_INLINE std::uint16_t half_of_float(float x) {
    const std::uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
    if (rest >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (rest < 0x38800000u) {  // subnormal: the sum's last bit is a half's smallest step
        return static_cast<std::uint16_t>(sign | (bits_of_float(float_of_bits(rest) + 0.5f) - 0x3f000000u));
    }
    return static_cast<std::uint16_t>(sign | (rest + 0xfffu + (rest >> 13 & 1u) - 0x38000000u) >> 13);
}

STEELYARD_INLINE Lanes splat(float x) {
    return each_lane([&](std::size_t) { return x; });
}
STEELYARD_INLINE Lanes load(const float* p) {
    return each_lane([&](std::size_t i) { return p[i]; });
}
STEELYARD_INLINE void store(float* p, const Lanes& a) {
    for (std::size_t i = 0; i < num_lanes; ++i) p[i] = a.lane[i];
}
STEELYARD_INLINE Lanes operator+(const Lanes& a, const Lanes& b) {
    return each_lane([&](std::size_t i) { return a.lane[i] + b.lane[i]; });
}
STEELYARD_INLINE Lanes operator-(const Lanes& a, const Lanes& b) {
    return each_lane([&](std::size_t i) { return a.lane[i] - b.lane[i]; });
}
STEELYARD_INLINE Lanes operator*(const Lanes& a, const Lanes& b) {
    return each_lane([&](std::size_t i) { return a.lane[i] * b.lane[i]; });
}
STEELYARD_INLINE Lanes operator/(const Lanes& a, const Lanes& b) {
    return each_lane([&](std::size_t i) { return a.lane[i] / b.lane[i]; });
}
STEELYARD_INLINE Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& c) {
    return each_lane([&](std::size_t i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
STEELYARD_INLINE Lanes larger(const Lanes& a, const Lanes& b) {
    return each_lane([&](std::size_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
STEELYARD_INLINE Lanes smaller(const Lanes& a, const Lanes& b) {
    return each_lane([&](std::size_t i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
STEELYARD_INLINE Lanes round_to_integer(const Lanes& a) {
    return each_lane([&](std::size_t i) { return rintf(a.lane[i]); });
}
// a · 2^n for integral n of any size; underflows through the subnormals to zero.
STEELYARD_INLINE Lanes times_power_of_two(const Lanes& a, const Lanes& n) {
    return each_lane([&](std::size_t i) { return ldexpf(a.lane[i], static_cast<int>(n.lane[i])); });
}
STEELYARD_INLINE Lanes floor_of(const Lanes& x) {
    return each_lane([&](std::size_t i) { return floorf(x.lane[i]); });
}
STEELYARD_INLINE bool any_above(const Lanes& a, const Lanes& limit) {
    bool found = false;
    for (std::size_t i = 0; i < num_lanes; ++i) found |= a.lane[i] > limit.lane[i];
    return found;
}
STEELYARD_INLINE float largest(const Lanes& a) {
    float found = a.lane[0];
    for (std::size_t i = 1; i < num_lanes; ++i) found = a.lane[i] > found ? a.lane[i] : found;
    return found;
}
// `a` in the lanes from `first` to `last`, both counted in, and `other` elsewhere.
STEELYARD_INLINE Lanes keep_between(const Lanes& a, int first, int last, const Lanes& other) {
    return each_lane([&](std::size_t i) {
        return static_cast<int>(i) >= first && static_cast<int>(i) <= last ? a.lane[i] : other.lane[i];
    });
}

STEELYARD_INLINE Lanes load_half(const std::uint16_t* p) {
    return each_lane([&](std::size_t i) { return float_of_half(p[i]); });
}
STEELYARD_INLINE void store_half(std::uint16_t* p, const Lanes& a) {
    for (std::size_t i = 0; i < num_lanes; ++i) p[i] = half_of_float(a.lane[i]);
}
// Every fourth of 64 bytes, from byte `number` on.
template <int number>
STEELYARD_INLINE Lanes load_int8_of_four(const std::int8_t* p) {
    return each_lane([&](std::size_t i) { return static_cast<float>(p[4 * i + number]); });
}
// The even and the odd ones of 32 bfloat16 numbers.
STEELYARD_INLINE Lanes load_bfloat16_even(const std::uint16_t* p) {
    return each_lane([&](std::size_t i) { return float_of_bits(static_cast<std::uint32_t>(p[2 * i]) << 16); });
}
STEELYARD_INLINE Lanes load_bfloat16_odd(const std::uint16_t* p) {
    return each_lane([&](std::size_t i) { return float_of_bits(static_cast<std::uint32_t>(p[2 * i + 1]) << 16); });
}

#endif

#if !defined(__AVX512F__)
// x − ⌊x⌋, 0 for what lies far below where 2^x is 0.
STEELYARD_INLINE Lanes fraction(Lanes x) {
    x = larger(x, splat(-200.0f));
    return x - floor_of(x);
}
// a · 2^⌊x⌋; 0 for x = −∞.
STEELYARD_INLINE Lanes times_power_of_floor(Lanes a, Lanes x) {
    return times_power_of_two(a, floor_of(larger(x, splat(-200.0f))));
}
#endif

// The sum of all lanes, in an order that does not depend on the instruction set.
STEELYARD_INLINE float total(Lanes a) {
    float lane[num_lanes];
    store(lane, a);
    for (std::size_t half = num_lanes / 2; half > 0; half /= 2) {
        for (std::size_t i = 0; i < half; ++i) lane[i] += lane[i + half];
    }
    return lane[0];
}

// bfloat16 of a float, rounded to nearest, ties to even; NaN stays NaN.
STEELYARD_INLINE std::uint16_t bfloat16_of_float(float x) {
    std::uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace
}  // namespace steelyard::STEELYARD_ISA
