// The two matrix products of attention on small tiles that stay in registers, for each element type of the cache.
//
// `scores` multiplies a few query rows with the keys of a block, `weighted_values` adds the block's values to a few
// output rows. Each element of a result is one chain of multiply-adds in the order of head elements or of keys, whatever
// the size of the tile it is computed in.
#pragma once

#include <cstddef>
#include <cstdint>

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

// An element type loads sixteen neighbours of the even (parity 0) or odd (1) line of a pair of lines: head elements of
// keys, tokens of values. `pair` is where the pair begins, `stride` the length of a line, `offset` a place in it.
struct Float32 {
    using Stored = float;
    template <int parity>
    static STEELYARD_INLINE Lanes line(const Stored* pair, std::size_t stride, std::size_t offset) {
        return load(pair + parity * stride + offset);
    }
};

struct Float16 {
    using Stored = std::uint16_t;
    template <int parity>
    static STEELYARD_INLINE Lanes line(const Stored* pair, std::size_t stride, std::size_t offset) {
        return load_half(pair + parity * stride + offset);
    }
};

struct Int8 {
    using Stored = std::int8_t;
    template <int parity>
    static STEELYARD_INLINE Lanes line(const Stored* pair, std::size_t stride, std::size_t offset) {
        return load_int8(pair + parity * stride + offset);
    }
};

// The two lines of a pair are interleaved.
struct BFloat16 {
    using Stored = std::uint16_t;
    template <int parity>
    static STEELYARD_INLINE Lanes line(const Stored* pair, std::size_t, std::size_t offset) {
        return parity == 0 ? load_bfloat16_even(pair + 2 * offset) : load_bfloat16_odd(pair + 2 * offset);
    }
};

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
template <class Element, bool ahead, int parity>
STEELYARD_INLINE void look_ahead(const void* next, std::size_t offset) {
    if constexpr (ahead && (parity == 0 || sizeof(typename Element::Stored) == 4)) {
        STEELYARD_PREFETCH(static_cast<const typename Element::Stored*>(next) + offset);
    }
}

template <int parity, class Element, bool ahead, int rows, int width>
STEELYARD_INLINE void add_head_element(const float* q, std::size_t head_dim, const void* const* keys,
                                       const void* const* next, std::size_t d, Lanes (&sum)[rows][width]) {
    Lanes line[width];
    STEELYARD_UNROLL
    for (int w = 0; w < width; ++w) {
        const auto* group = static_cast<const typename Element::Stored*>(keys[w]);
        line[w] = Element::template line<parity>(group + d * key_group, key_group, 0);
        look_ahead<Element, ahead, parity>(next[w], (d + parity) * key_group);
    }
    add_products<rows, width>(q + d + parity, head_dim, line, sum);
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
    for (std::size_t d = 0; d < head_dim; d += 2) {
        add_head_element<0, Element, ahead, rows, width>(q, head_dim, keys, next, d, sum);
        add_head_element<1, Element, ahead, rows, width>(q, head_dim, keys, next, d, sum);
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

template <int parity, class Element, int rows, int width>
STEELYARD_INLINE void add_token(const float* weights, const typename Element::Stored* pair, std::size_t head_dim,
                                std::size_t column, Lanes (&sum)[rows][width]) {
    Lanes line[width];
    STEELYARD_UNROLL
    for (int w = 0; w < width; ++w) {
        line[w] = Element::template line<parity>(pair, head_dim, column + static_cast<std::size_t>(w) * num_lanes);
    }
    add_products<rows, width>(weights + parity, block_keys, line, sum);
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
        const std::size_t from = begin > first ? (begin - first) & ~std::size_t{1} : 0;
        const std::size_t to = end - first < key_group ? end - first : key_group;
        const float* weight = weights + first;
        std::size_t token = from;
        for (; token + 2 <= to; token += 2) {
            look_ahead<Element, ahead, 0>(block.next_values[g], token * head_dim + column);
            look_ahead<Element, ahead, 0>(block.next_values[g], token * head_dim + column + (width > 2 ? 32 : 0));
            look_ahead<Element, ahead, 0>(block.next_values[g], (token + 1) * head_dim + column);
            look_ahead<Element, ahead, 0>(block.next_values[g], (token + 1) * head_dim + column + (width > 2 ? 32 : 0));
            add_token<0, Element, rows, width>(weight + token, values + token * head_dim, head_dim, column, sum);
            add_token<1, Element, rows, width>(weight + token, values + token * head_dim, head_dim, column, sum);
        }
        if (token < to) {
            add_token<0, Element, rows, width>(weight + token, values + token * head_dim, head_dim, column, sum);
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
        for (std::size_t d = 0; d < head_dim; d += 2) {
            const Stored* pair = key + d * key_group;
            store(key_out + d * key_group, Element::template line<0>(pair, key_group, 0));
            store(key_out + (d + 1) * key_group, Element::template line<1>(pair, key_group, 0));
        }
        for (std::size_t token = 0; token < key_group; token += 2) {
            const Stored* pair = value + token * head_dim;
            for (std::size_t column = 0; column < head_dim; column += num_lanes) {
                float* const place = value_out + token * head_dim + column;
                store(place, Element::template line<0>(pair, head_dim, column));
                store(place + head_dim, Element::template line<1>(pair, head_dim, column));
            }
        }
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
            look_ahead<BFloat16Pairs, ahead, 0>(next[w], d * key_group);
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
            look_ahead<BFloat16Pairs, ahead, 0>(block.next_values[g], offset + static_cast<std::size_t>(w) * 2 * num_lanes);
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

}  // namespace
}  // namespace steelyard::STEELYARD_ISA
