// The two matrix products of attention on small tiles that stay in registers, for each element type of the cache.
//
// `scores` multiplies a few query rows with the keys of a block, `weighted_values` adds the block's values to a few
// output rows. Each element of a result is one chain of multiply-adds in the order of head elements or of keys, whatever
// the size of the tile it is computed in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "../simd/lanes.hpp"
#include "kv_layout.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

constexpr std::size_t block_keys = 64;
constexpr std::size_t block_groups = block_keys / key_group;

// Rows and vectors of a register tile.
#if defined(__AVX512F__)
constexpr int max_rows = 6, max_width = 4;
#elif defined(__AVX2__)
constexpr int max_rows = 4, max_width = 1;
#else
constexpr int max_rows = 2, max_width = 1;
#endif

// An element type loads sixteen neighbours of one of the lines that are taken together: head elements of keys, tokens of
// values. `first` is where these lines begin, `stride` the length of one, `offset` a place in it.
struct Float32 {
    using Stored = float;
    static constexpr std::size_t lines = 2;
    template <std::size_t number>
    static STEELYARD_INLINE Lanes line(const Stored* first, std::size_t stride, std::size_t offset) {
        return load(first + number * stride + offset);
    }
};

struct Float16 {
    using Stored = std::uint16_t;
    static constexpr std::size_t lines = 2;
    template <std::size_t number>
    static STEELYARD_INLINE Lanes line(const Stored* first, std::size_t stride, std::size_t offset) {
        return load_half(first + number * stride + offset);
    }
};

// The lines of these two are interleaved.
struct BFloat16 {
    using Stored = std::uint16_t;
    static constexpr std::size_t lines = 2;
    template <std::size_t number>
    static STEELYARD_INLINE Lanes line(const Stored* first, std::size_t, std::size_t offset) {
        return number == 0 ? load_bfloat16_even(first + 2 * offset) : load_bfloat16_odd(first + 2 * offset);
    }
};

struct Int8 {
    using Stored = std::int8_t;
    static constexpr std::size_t lines = 4;
    template <std::size_t number>
    static STEELYARD_INLINE Lanes line(const Stored* first, std::size_t, std::size_t offset) {
        return load_int8_of_four<number>(first + 4 * offset);
    }
};

// Calls body with each line's number as a constant.
template <class Element, class Body>
STEELYARD_INLINE void for_each_line(const Body& body) {
    body(std::integral_constant<std::size_t, 0>{});
    body(std::integral_constant<std::size_t, 1>{});
    if constexpr (Element::lines == 4) {
        body(std::integral_constant<std::size_t, 2>{});
        body(std::integral_constant<std::size_t, 3>{});
    }
}

// Sixty-four keys and their values; a group of sixteen may lie anywhere.
struct KeyBlock {
    const void* keys[block_groups];
    const void* values[block_groups];
    const void* next_keys[block_groups];  // of the block after, to be asked for while this one is computed
    const void* next_values[block_groups];
    const float* key_scales[block_groups];  // null where elements are what they say
    const float* value_scales[block_groups];
    std::int64_t position;  // of the first key
};

// Adds, for each row, its factor times each line: one step of a register tile.
template <int rows, int width>
STEELYARD_INLINE void add_products(const float* factors, std::size_t stride, const Lanes (&line)[width],
                                   Lanes (&sum)[rows][width]) {
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        const Lanes factor = splat(factors[static_cast<std::size_t>(r) * stride]);
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) sum[r][w] = multiply_add(factor, line[w], sum[r][w]);
    }
}

// Asks for what lies at the same place of the next block. With few rows there is too little to compute for the CPU to look
// that far ahead by itself, and the blocks of a sequence are not neighbours.
template <class Element, bool ahead>
STEELYARD_INLINE void look_ahead(const void* next, std::size_t offset) {
    if constexpr (ahead) STEELYARD_PREFETCH(static_cast<const typename Element::Stored*>(next) + offset);
}

template <std::size_t number, class Element, bool ahead, int rows, int width>
STEELYARD_INLINE void add_head_element(const float* q, std::size_t head_dim, const void* const* keys,
                                       const void* const* next, std::size_t d, Lanes (&sum)[rows][width]) {
    constexpr std::size_t line_bytes = key_group * sizeof(typename Element::Stored);
    Lanes line[width];
    STEELYARD_UNROLL
    for (int w = 0; w < width; ++w) {
        const auto* group = static_cast<const typename Element::Stored*>(keys[w]);
        line[w] = Element::template line<number>(group + d * key_group, key_group, 0);
        look_ahead<Element, ahead && number * line_bytes % 64 == 0>(next[w], (d + number) * key_group);
    }
    add_products<rows, width>(q + d + number, head_dim, line, sum);
}

// Dot products of `rows` queries [rows, head_dim] with `width` groups of keys into `out` [rows, block_keys].
template <class Element, bool ahead, int rows, int width>
void scores_tile(const float* q, std::size_t head_dim, const void* const* keys, const void* const* next, float* out) {
    Lanes sum[rows][width];
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) sum[r][w] = splat(0.0f);
    }
    for (std::size_t d = 0; d < head_dim; d += Element::lines) {
        for_each_line<Element>([&](auto number) STEELYARD_INLINE_LAMBDA {
            add_head_element<number, Element, ahead, rows, width>(q, head_dim, keys, next, d, sum);
        });
    }
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            store(out + static_cast<std::size_t>(r) * block_keys + static_cast<std::size_t>(w) * num_lanes, sum[r][w]);
        }
    }
}

// The same for the groups from `begin` to `end` of a block.
template <class Element, bool ahead, int rows>
void scores(const float* q, std::size_t head_dim, const KeyBlock& block, std::size_t begin, std::size_t end,
            float* out) {
    const void* const* keys = block.keys;
    const void* const* next = block.next_keys;
    std::size_t g = begin;
    if constexpr (max_width == 4) {
        if (end - g == 4) return scores_tile<Element, ahead, rows, 4>(q, head_dim, keys, next, out);
        if (end - g >= 2) {
            scores_tile<Element, ahead, rows, 2>(q, head_dim, keys + g, next + g, out + g * key_group);
            g += 2;
        }
    }
    for (; g < end; ++g) scores_tile<Element, ahead, rows, 1>(q, head_dim, keys + g, next + g, out + g * key_group);
}

template <std::size_t number, class Element, int rows, int width>
STEELYARD_INLINE void add_token(const float* weights, const typename Element::Stored* first, std::size_t head_dim,
                                std::size_t column, Lanes (&sum)[rows][width]) {
    Lanes line[width];
    STEELYARD_UNROLL
    for (int w = 0; w < width; ++w) {
        line[w] = Element::template line<number>(first, head_dim, column + static_cast<std::size_t>(w) * num_lanes);
    }
    add_products<rows, width>(weights + number, block_keys, line, sum);
}

// out [rows, head_dim] = out · factors [rows] + weights [rows, block_keys] · values, in `width` vectors from `column` on.
template <class Element, bool ahead, int rows, int width>
void values_tile(const float* weights, const KeyBlock& block, std::size_t begin, std::size_t end,
                 const float* factors, std::size_t head_dim, std::size_t column, float* out) {
    Lanes sum[rows][width];
    float* const corner = out + column;
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        const Lanes factor = splat(factors[r]);
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            const std::size_t place = static_cast<std::size_t>(r) * head_dim + static_cast<std::size_t>(w) * num_lanes;
            sum[r][w] = load(corner + place) * factor;
        }
    }
    for (std::size_t g = begin / key_group; g * key_group < end; ++g) {
        const auto* values = static_cast<const typename Element::Stored*>(block.values[g]);
        const std::size_t first = g * key_group;
        const std::size_t from = begin > first ? (begin - first) & ~(Element::lines - 1) : 0;
        const std::size_t to = end - first < key_group ? end - first : key_group;
        const float* weight = weights + first;
        for (std::size_t token = from; token < to; token += Element::lines) {
            for_each_line<Element>([&](auto number) STEELYARD_INLINE_LAMBDA {
                if (token + number >= to) return;  // what lies there belongs to nobody, and may be NaN
                const std::size_t line = (token + number) * head_dim + column;
                look_ahead<Element, ahead>(block.next_values[g], line);
                look_ahead<Element, ahead>(block.next_values[g], line + (width > 2 ? 32 : 0));
                add_token<number, Element, rows, width>(weight + token, values + token * head_dim, head_dim, column, sum);
            });
        }
    }
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            const std::size_t place = static_cast<std::size_t>(r) * head_dim + static_cast<std::size_t>(w) * num_lanes;
            store(corner + place, sum[r][w]);
        }
    }
}

// The same over the whole head, for the keys from `begin` to `end` of a block.
template <class Element, bool ahead, int rows>
void weighted_values(const float* weights, const KeyBlock& block, std::size_t begin, std::size_t end,
                     const float* factors, std::size_t head_dim, float* out) {
    std::size_t column = 0;
    if constexpr (max_width == 4) {
        for (; column + 64 <= head_dim; column += 64) {
            values_tile<Element, ahead, rows, 4>(weights, block, begin, end, factors, head_dim, column, out);
        }
        for (; column + 32 <= head_dim; column += 32) {
            values_tile<Element, ahead, rows, 2>(weights, block, begin, end, factors, head_dim, column, out);
        }
    }
    for (; column < head_dim; column += num_lanes) {
        values_tile<Element, ahead, rows, 1>(weights, block, begin, end, factors, head_dim, column, out);
    }
}

// Copies a block as float32 into `keys` [groups][head_dim][16] and `values` [keys][head_dim], and points `block` there.
template <class Element>
void unpack(KeyBlock& block, std::size_t num_groups, std::size_t head_dim, float* keys, float* values) {
    using Stored = typename Element::Stored;
    const std::size_t group_floats = key_group * head_dim;
    for (std::size_t g = 0; g < num_groups; ++g) {
        const Stored* key = static_cast<const Stored*>(block.keys[g]);
        const Stored* value = static_cast<const Stored*>(block.values[g]);
        float* const key_out = keys + g * group_floats;
        float* const value_out = values + g * group_floats;
        for_each_line<Element>([&](auto number) STEELYARD_INLINE_LAMBDA {
            for (std::size_t d = 0; d < head_dim; d += Element::lines) {
                store(key_out + (d + number) * key_group,
                      Element::template line<number>(key + d * key_group, key_group, 0));
            }
            for (std::size_t token = 0; token < key_group; token += Element::lines) {
                for (std::size_t column = 0; column < head_dim; column += num_lanes) {
                    store(value_out + (token + number) * head_dim + column,
                          Element::template line<number>(value + token * head_dim, head_dim, column));
                }
            }
        });
        block.keys[g] = key_out;
        block.values[g] = value_out;
    }
}

#if defined(__AVX512BF16__)

// Products of pairs of bfloat16, added up in float32: queries and weights are rounded to bfloat16 as well, and nothing is
// unpacked. The order is that of pairs of head elements and pairs of keys.
struct BFloat16Pairs {
    using Stored = std::uint16_t;
};

STEELYARD_INLINE __m512 add_pair(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

STEELYARD_INLINE void store_bfloat16(std::uint16_t* p, Lanes a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a.v)));
}

template <int rows, int width>
STEELYARD_INLINE void add_pairs(const std::uint32_t* factors, std::size_t stride, const __m512i (&line)[width],
                                __m512 (&sum)[rows][width]) {
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        const __m512i factor = _mm512_set1_epi32(static_cast<int>(factors[static_cast<std::size_t>(r) * stride]));
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) sum[r][w] = add_pair(sum[r][w], factor, line[w]);
    }
}

// As scores_tile; `q` is [rows, head_dim] bfloat16 pairs.
template <bool ahead, int rows, int width>
void pair_scores_tile(const std::uint32_t* q, std::size_t head_dim, const void* const* keys, const void* const* next,
                      float* out) {
    __m512 sum[rows][width];
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) sum[r][w] = _mm512_setzero_ps();
    }
    for (std::size_t d = 0; d < head_dim; d += 2) {
        __m512i line[width];
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            line[w] = _mm512_loadu_si512(static_cast<const std::uint16_t*>(keys[w]) + d * key_group);
            look_ahead<BFloat16Pairs, ahead>(next[w], d * key_group);
        }
        add_pairs<rows, width>(q + d / 2, head_dim / 2, line, sum);
    }
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            const std::size_t place = static_cast<std::size_t>(r) * block_keys + static_cast<std::size_t>(w) * num_lanes;
            _mm512_storeu_ps(out + place, sum[r][w]);
        }
    }
}

template <bool ahead, int rows>
void pair_scores(const std::uint32_t* q, std::size_t head_dim, const KeyBlock& block, std::size_t begin,
                 std::size_t end, float* out) {
    const void* const* keys = block.keys;
    const void* const* next = block.next_keys;
    std::size_t g = begin;
    if (end - g == 4) return pair_scores_tile<ahead, rows, 4>(q, head_dim, keys, next, out);
    if (end - g >= 2) {
        pair_scores_tile<ahead, rows, 2>(q, head_dim, keys + g, next + g, out + g * key_group);
        g += 2;
    }
    if (g < end) pair_scores_tile<ahead, rows, 1>(q, head_dim, keys + g, next + g, out + g * key_group);
}

// As values_tile; `weights` is [rows, block_keys] bfloat16 pairs.
template <bool ahead, int rows, int width>
void pair_values_tile(const std::uint32_t* weights, const KeyBlock& block, std::size_t begin, std::size_t end,
                      const float* factors, std::size_t head_dim, std::size_t column, float* out) {
    __m512 sum[rows][width];
    float* const corner = out + column;
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            const std::size_t place = static_cast<std::size_t>(r) * head_dim + static_cast<std::size_t>(w) * num_lanes;
            sum[r][w] = _mm512_mul_ps(_mm512_loadu_ps(corner + place), _mm512_set1_ps(factors[r]));
        }
    }
    for (std::size_t key = begin & ~std::size_t{1}; key < end; key += 2) {
        const std::size_t g = key / key_group, offset = key % key_group * head_dim + 2 * column;
        const auto* values = static_cast<const std::uint16_t*>(block.values[g]) + offset;
        __m512i line[width];
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            line[w] = _mm512_loadu_si512(values + static_cast<std::size_t>(w) * 2 * num_lanes);
            look_ahead<BFloat16Pairs, ahead>(block.next_values[g], offset + static_cast<std::size_t>(w) * 2 * num_lanes);
        }
        if (key + 1 == end) {  // what lies in the second half belongs to nobody, and may be NaN
            STEELYARD_UNROLL
            for (int w = 0; w < width; ++w) line[w] = _mm512_and_si512(line[w], _mm512_set1_epi32(0xffff));
        }
        add_pairs<rows, width>(weights + key / 2, block_keys / 2, line, sum);
    }
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            const std::size_t place = static_cast<std::size_t>(r) * head_dim + static_cast<std::size_t>(w) * num_lanes;
            _mm512_storeu_ps(corner + place, sum[r][w]);
        }
    }
}

template <bool ahead, int rows>
void pair_values(const std::uint32_t* weights, const KeyBlock& block, std::size_t begin, std::size_t end,
                 const float* factors, std::size_t head_dim, float* out) {
    std::size_t column = 0;
    for (; column + 64 <= head_dim; column += 64) {
        pair_values_tile<ahead, rows, 4>(weights, block, begin, end, factors, head_dim, column, out);
    }
    for (; column + 32 <= head_dim; column += 32) {
        pair_values_tile<ahead, rows, 2>(weights, block, begin, end, factors, head_dim, column, out);
    }
    if (column < head_dim) pair_values_tile<ahead, rows, 1>(weights, block, begin, end, factors, head_dim, column, out);
}

#endif

#if defined(__AVX512VNNI__)

// Integer products of int8, four at a time and exact. Queries and weights are taken in two steps of 8 bits, the second 1/256
// of the first: next to what the cache has lost by its 8 bits, nothing more is lost.
struct Int8Dots {
    using Stored = std::int8_t;
};

// A query row, in the room of its floats: `num_fours` times four bytes of the first step, then as many of the second, then
// this.
struct DotQueryTail {
    float scale;               // of the second step
    std::int32_t negative[2];  // −128 · the sum of each step
};

STEELYARD_INLINE const DotQueryTail& tail_of(const std::int32_t* row, std::size_t head_dim) {
    return *reinterpret_cast<const DotQueryTail*>(row + head_dim / 2);
}

// Rounds a row to bytes in its place.
inline void quantise_query(float* row, std::size_t head_dim) {
    Lanes most_lanes = splat(0.0f);
    for (std::size_t i = 0; i < head_dim; i += num_lanes) {
        most_lanes = larger(larger(load(row + i), splat(0.0f) - load(row + i)), most_lanes);
    }
    const float most = largest(most_lanes);
    const Lanes inverse = splat(most > 0.0f ? 127.0f / most : 0.0f);
    __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    std::int8_t steps[2][256];
    for (std::size_t i = 0; i < head_dim; i += num_lanes) {
        const Lanes scaled = load(row + i) * inverse, first = round_to_integer(scaled);
        const Lanes second = smaller(round_to_integer((scaled - first) * splat(256.0f)), splat(127.0f));
        const __m512i integers[2] = {_mm512_cvtps_epi32(first.v), _mm512_cvtps_epi32(second.v)};
        for (int step = 0; step < 2; ++step) {
            sums[step] = _mm512_add_epi32(sums[step], integers[step]);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(steps[step] + i), _mm512_cvtepi32_epi8(integers[step]));
        }
    }
    auto* const bytes = reinterpret_cast<std::int8_t*>(row);
    memcpy(bytes, steps[0], head_dim);
    memcpy(bytes + head_dim, steps[1], head_dim);
    const DotQueryTail tail{most / (127.0f * 256.0f),
                            {-128 * _mm512_reduce_add_epi32(sums[0]), -128 * _mm512_reduce_add_epi32(sums[1])}};
    memcpy(bytes + 2 * head_dim, &tail, sizeof tail);
}

// Sixteen sums. Of __m512i, which is eight longs to it, gcc 12 makes a copy before and after every product.
using Sums = __v16si;

// unsigned · signed bytes
STEELYARD_INLINE Sums add_four(Sums sum, __m512i a, __m512i b) {
    return reinterpret_cast<Sums>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), a, b));
}

STEELYARD_INLINE __m512 both_steps(Sums first, Sums second) {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(reinterpret_cast<__m512i>(first), 8),
                                               reinterpret_cast<__m512i>(second)));
}

// Both steps of `rows` rows, a step a row.
template <int rows, int width>
STEELYARD_INLINE void add_fours(const std::int32_t* q, std::size_t num_fours, const __m512i (&line)[width],
                                Sums (&sum)[2 * rows][width]) {
    STEELYARD_UNROLL
    for (int i = 0; i < 2 * rows; ++i) {
        const auto row = static_cast<std::size_t>(i / 2), step = static_cast<std::size_t>(i % 2);
        const __m512i four = _mm512_set1_epi32(q[row * 4 * num_fours + step * num_fours]);
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) sum[i][w] = add_four(sum[i][w], line[w], four);
    }
}

// As scores_tile; `q` is [rows, head_dim] as quantise_query leaves them.
template <bool ahead, int rows, int width>
void dot_scores_tile(const std::int32_t* q, std::size_t head_dim, const void* const* keys, const void* const* next,
                     float* out) {
    const std::size_t num_fours = head_dim / 4;
    Sums sum[2 * rows][width];
    STEELYARD_UNROLL
    for (int i = 0; i < 2 * rows; ++i) {
        const DotQueryTail& tail = tail_of(q + static_cast<std::size_t>(i / 2) * head_dim, head_dim);
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) sum[i][w] = reinterpret_cast<Sums>(_mm512_set1_epi32(tail.negative[i % 2]));
    }
    for (std::size_t i = 0; i < num_fours; ++i) {
        __m512i line[width];
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            const __m512i bytes = _mm512_loadu_si512(static_cast<const std::int8_t*>(keys[w]) + i * 4 * key_group);
            line[w] = _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));  // + 128, as the instruction's first factor is unsigned
            look_ahead<Int8Dots, ahead>(next[w], i * 4 * key_group);
        }
        add_fours<rows, width>(q + i, num_fours, line, sum);
    }
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        const __m512 scale = _mm512_set1_ps(tail_of(q + static_cast<std::size_t>(r) * head_dim, head_dim).scale);
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            const std::size_t place = static_cast<std::size_t>(r) * block_keys + static_cast<std::size_t>(w) * num_lanes;
            _mm512_storeu_ps(out + place, _mm512_mul_ps(both_steps(sum[2 * r][w], sum[2 * r + 1][w]), scale));
        }
    }
}

template <bool ahead, int rows>
void dot_scores(const std::int32_t* q, std::size_t head_dim, const KeyBlock& block, std::size_t begin, std::size_t end,
                float* out) {
    const void* const* keys = block.keys;
    const void* const* next = block.next_keys;
    std::size_t g = begin;
    if constexpr (rows <= 3) {
        if (end - g == 4) return dot_scores_tile<ahead, rows, 4>(q, head_dim, keys, next, out);
    }
    for (; g + 2 <= end; g += 2) dot_scores_tile<ahead, rows, 2>(q, head_dim, keys + g, next + g, out + g * key_group);
    if (g < end) dot_scores_tile<ahead, rows, 1>(q, head_dim, keys + g, next + g, out + g * key_group);
}

// A row's weights of a block in two steps.
struct DotWeights {
    std::uint8_t first[block_keys];
    std::uint8_t second[block_keys];
    float scale;  // of the second step
};

// Rounds the weights of the groups from `begin` to `end` to 65535ths of the largest.
inline void quantise_weights(const float* weights, std::size_t begin, std::size_t end, DotWeights& out) {
    Lanes most_lanes = splat(0.0f);
    for (std::size_t g = begin; g < end; ++g) most_lanes = larger(load(weights + g * key_group), most_lanes);
    const float most = largest(most_lanes);
    const Lanes inverse = splat(most > 0.0f ? 65535.0f / most : 0.0f);
    for (std::size_t g = begin; g < end; ++g) {
        const Lanes scaled = smaller(load(weights + g * key_group) * inverse, splat(65535.0f));
        const __m512i both = _mm512_cvtps_epi32(scaled.v);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out.first + g * key_group),
                         _mm512_cvtepi32_epi8(_mm512_srli_epi32(both, 8)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out.second + g * key_group), _mm512_cvtepi32_epi8(both));
    }
    out.scale = most / 65535.0f;
}

template <int rows, int width>
STEELYARD_INLINE void add_four_tokens(const DotWeights* weights, std::size_t key, const __m512i (&line)[width],
                                      Sums (&sum)[2 * rows][width]) {
    STEELYARD_UNROLL
    for (int i = 0; i < 2 * rows; ++i) {
        const std::uint8_t* step = i % 2 == 0 ? weights[i / 2].first : weights[i / 2].second;
        std::int32_t bytes;
        memcpy(&bytes, step + key, sizeof bytes);
        const __m512i four = _mm512_set1_epi32(bytes);
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) sum[i][w] = add_four(sum[i][w], four, line[w]);
    }
}

// As values_tile.
template <bool ahead, int rows, int width>
void dot_values_tile(const DotWeights* weights, const KeyBlock& block, std::size_t begin, std::size_t end,
                     const float* factors, std::size_t head_dim, std::size_t column, float* out) {
    Sums sum[2 * rows][width];
    STEELYARD_UNROLL
    for (int i = 0; i < 2 * rows; ++i) {
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) sum[i][w] = Sums{};
    }
    for (std::size_t key = begin & ~std::size_t{3}; key < end; key += 4) {
        const std::size_t g = key / key_group, offset = key % key_group * head_dim + 4 * column;
        const auto* values = static_cast<const std::int8_t*>(block.values[g]) + offset;
        __m512i line[width];
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            line[w] = _mm512_loadu_si512(values + static_cast<std::size_t>(w) * 4 * num_lanes);
            look_ahead<Int8Dots, ahead>(block.next_values[g], offset + static_cast<std::size_t>(w) * 4 * num_lanes);
        }
        add_four_tokens<rows, width>(weights, key, line, sum);
    }
    STEELYARD_UNROLL
    for (int r = 0; r < rows; ++r) {
        float* const row = out + static_cast<std::size_t>(r) * head_dim + column;
        STEELYARD_UNROLL
        for (int w = 0; w < width; ++w) {
            float* const place = row + static_cast<std::size_t>(w) * num_lanes;
            const __m512 before = _mm512_mul_ps(_mm512_loadu_ps(place), _mm512_set1_ps(factors[r]));
            const __m512 added = both_steps(sum[2 * r][w], sum[2 * r + 1][w]);
            _mm512_storeu_ps(place, _mm512_fmadd_ps(added, _mm512_set1_ps(weights[r].scale), before));
        }
    }
}

template <bool ahead, int rows>
void dot_values(const DotWeights* weights, const KeyBlock& block, std::size_t begin, std::size_t end,
                const float* factors, std::size_t head_dim, float* out) {
    constexpr int width = rows <= 3 ? 4 : 2;
    constexpr std::size_t step = width * num_lanes;
    std::size_t column = 0;
    for (; column + step <= head_dim; column += step) {
        dot_values_tile<ahead, rows, width>(weights, block, begin, end, factors, head_dim, column, out);
    }
    for (; column < head_dim; column += num_lanes) {
        dot_values_tile<ahead, rows, 1>(weights, block, begin, end, factors, head_dim, column, out);
    }
}

#endif

}  // namespace
}  // namespace steelyard::STEELYARD_ISA
