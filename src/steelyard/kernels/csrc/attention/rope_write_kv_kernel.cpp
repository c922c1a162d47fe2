// One (token, head) pair after another, compiled once per instruction set (isa.hpp).

#include "../simd/lanes.hpp"
#include "rope_write_kv.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

constexpr std::size_t max_head_dim = 256;
constexpr float largest_half = 65504.0f;

// The mean of squares in the order of rms_norm_kernel.cpp, so that both forms of a model agree.
float mean_of_squares(const float* x, std::size_t length) {
    float lanes[32] = {};
    for (std::size_t start = 0; start < length; start += 32) {
        const std::size_t count = length - start < 32 ? length - start : 32;
        for (std::size_t lane = 0; lane < count; ++lane) lanes[lane] += x[start + lane] * x[start + lane];
    }
    for (std::size_t half = 16; half > 0; half /= 2) {
        for (std::size_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    }
    return lanes[0] / static_cast<float>(length);
}

// out = x cos + other sin
void turn(const float* x, const float* other, const float* cos, const float* sin, std::size_t length, float* out) {
    std::size_t i = 0;
    for (; i + num_lanes <= length; i += num_lanes) {
        store(out + i, load(x + i) * load(cos + i) + load(other + i) * load(sin + i));
    }
    for (; i < length; ++i) out[i] = x[i] * cos[i] + other[i] * sin[i];
}

// Norms and rotates one head of one token from `x` into `out`, which may be `x`.
void prepare(const RopeWriteKVArgs& args, std::size_t token, const float* x, const float* norm, float* out) {
    const std::size_t dim = args.layout.head_dim;
    float normed[max_head_dim];
    if (norm != nullptr) {
        const float scale = 1.0f / sqrtf(mean_of_squares(x, dim) + args.eps);
        for (std::size_t i = 0; i < dim; ++i) normed[i] = x[i] * scale * norm[i];
    } else {
        memcpy(normed, x, dim * sizeof(float));
    }
    const std::size_t turned = args.cos != nullptr ? args.rotary_dim : 0, half = turned / 2;
    const float* cos = args.cos + token * turned;
    const float* sin = args.sin + token * turned;
    turn(normed, normed + half, cos, sin, half, out);
    turn(normed + half, normed, cos + half, sin + half, half, out + half);
    memcpy(out + turned, normed + turned, (dim - turned) * sizeof(float));
}

// Where one token's key and value elements go in one head's part of a block.
struct Place {
    std::byte* head;
    std::size_t offset;  // of the token in the block

    std::byte* keys(const KVLayout& layout) const { return head + offset / key_group * layout.group_bytes; }
    std::byte* values(const KVLayout& layout) const { return head + layout.values_bytes; }
    float* scales(const KVLayout& layout) const { return reinterpret_cast<float*>(head + layout.scales_bytes); }
};

// Unit: what the elements that lie together are stored as: one of them, two bfloat16 or four int8.
template <class Unit, class Stored>
void scatter_key(const Place& place, const KVLayout& layout, const Stored* key) {
    Unit* out = reinterpret_cast<Unit*>(place.keys(layout)) + place.offset % key_group;
    for (std::size_t i = 0; i < layout.head_dim * sizeof(Stored) / sizeof(Unit); ++i) {
        memcpy(out + i * key_group, key + i * sizeof(Unit) / sizeof(Stored), sizeof(Unit));
    }
}

template <class Stored>
void copy_value(const Place& place, const KVLayout& layout, const Stored* value) {
    Stored* out = reinterpret_cast<Stored*>(place.values(layout)) + place.offset * layout.head_dim;
    memcpy(out, value, layout.head_dim * sizeof(Stored));
}

// Puts a value's elements, `lines` apart, between those of the tokens beside it, which another worker may be writing.
template <int lines, class Stored>
void weave_value(const Place& place, const KVLayout& layout, const Stored* value) {
    const std::size_t line = place.offset % lines;
    Stored* out = reinterpret_cast<Stored*>(place.values(layout)) + (place.offset - line) * layout.head_dim;
#if defined(__AVX512BW__)
    for (std::size_t i = 0; i < layout.head_dim; i += num_lanes) {
        if constexpr (lines == 2) {
            const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(value + i)));
            _mm512_mask_storeu_epi16(out + i * lines, 0x55555555u << line,
                                     _mm512_sll_epi32(wide, _mm_cvtsi32_si128(static_cast<int>(16 * line))));
        } else {
            const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(value + i)));
            _mm512_mask_storeu_epi8(out + i * lines, 0x1111111111111111u << line,
                                    _mm512_sll_epi32(wide, _mm_cvtsi32_si128(static_cast<int>(8 * line))));
        }
    }
#else
    for (std::size_t i = 0; i < layout.head_dim; ++i) out[i * lines + line] = value[i];
#endif
}

void to_half(const float* x, std::size_t length, std::uint16_t* out) {
    for (std::size_t i = 0; i < length; i += num_lanes) {
        store_half(out + i, smaller(larger(load(x + i), splat(-largest_half)), splat(largest_half)));
    }
}

void to_bfloat16(const float* x, std::size_t length, std::uint16_t* out) {
    for (std::size_t i = 0; i < length; ++i) out[i] = bfloat16_of_float(x[i]);
}

// Returns the scale.
float to_int8(const float* x, std::size_t length, std::int8_t* out) {
    Lanes most_lanes = splat(0.0f);
    for (std::size_t i = 0; i < length; i += num_lanes) {
        most_lanes = larger(larger(load(x + i), splat(0.0f) - load(x + i)), most_lanes);
    }
    const float most = largest(most_lanes);
    const Lanes inverse = splat(most > 0.0f ? 127.0f / most : 0.0f);
    float scaled[max_head_dim];
    for (std::size_t i = 0; i < length; i += num_lanes) {
        const Lanes rounded = round_to_integer(load(x + i) * inverse);
        store(scaled + i, smaller(larger(rounded, splat(-127.0f)), splat(127.0f)));
    }
    for (std::size_t i = 0; i < length; ++i) out[i] = static_cast<std::int8_t>(scaled[i]);
    return most / 127.0f;
}

void write_key(const KVLayout& layout, const Place& place, const float* key) {
    std::uint16_t wide[max_head_dim];
    std::int8_t narrow[max_head_dim];
    switch (layout.type) {
        case KVType::float32: return scatter_key<float>(place, layout, key);
        case KVType::float16: to_half(key, layout.head_dim, wide); return scatter_key<std::uint16_t>(place, layout, wide);
        case KVType::bfloat16:
            to_bfloat16(key, layout.head_dim, wide);
            return scatter_key<std::uint32_t>(place, layout, wide);
        case KVType::int8:
            place.scales(layout)[place.offset] = to_int8(key, layout.head_dim, narrow);
            return scatter_key<std::uint32_t>(place, layout, narrow);
    }
}

void write_value(const KVLayout& layout, const Place& place, const float* value) {
    std::uint16_t wide[max_head_dim];
    std::int8_t narrow[max_head_dim];
    switch (layout.type) {
        case KVType::float32: return copy_value(place, layout, value);
        case KVType::float16: to_half(value, layout.head_dim, wide); return copy_value(place, layout, wide);
        case KVType::bfloat16: to_bfloat16(value, layout.head_dim, wide); return weave_value<2>(place, layout, wide);
        case KVType::int8:
            place.scales(layout)[layout.block_size + place.offset] = to_int8(value, layout.head_dim, narrow);
            return weave_value<4>(place, layout, narrow);
    }
}

void write_head(const RopeWriteKVArgs& args, std::size_t token, std::size_t head) {
    const KVLayout& layout = args.layout;
    const std::size_t slot = static_cast<std::size_t>(args.slots[token]);
    std::byte* block = args.cache + slot / layout.block_size * layout.block_stride;
    const Place place{block + head * layout.head_bytes, slot % layout.block_size};
    float key[max_head_dim];
    prepare(args, token, args.k + token * args.k_stride + head * layout.head_dim, args.k_norm, key);
    write_key(layout, place, key);
    write_value(layout, place, args.v + token * args.v_stride + head * layout.head_dim);
}

// Asks for the lines that a token's keys and values go to, unless they are those of the token before. Sequences that decode
// side by side each write to a place of their own, a line per key element, and would wait for memory at every one.
void ask_for(const RopeWriteKVArgs& args, std::size_t token) {
    const KVLayout& layout = args.layout;
    const auto slot = static_cast<std::size_t>(args.slots[token]);
    if (slot / key_group == static_cast<std::size_t>(args.slots[token - 1]) / key_group) return;
    std::byte* block = args.cache + slot / layout.block_size * layout.block_stride;
    for (std::size_t head = 0; head < layout.num_kv_heads; ++head) {
        const Place place{block + head * layout.head_bytes, slot % layout.block_size};
        const std::size_t value = place.offset * (layout.group_bytes / key_group);
        for (std::size_t line = 0; line < layout.group_bytes; line += 64) STEELYARD_PREFETCH(place.keys(layout) + line);
        for (std::size_t line = 0; line < layout.group_bytes / key_group; line += 64) {
            STEELYARD_PREFETCH(place.values(layout) + value + line);
        }
    }
}

}  // namespace

void rope_write_kv_share(const RopeWriteKVArgs& args, Worker worker) {
    const bool touches_q = args.cos != nullptr || args.q_norm != nullptr;
    const std::size_t num_heads = touches_q ? args.num_heads : 0;
    const std::size_t per_token = num_heads + args.layout.num_kv_heads;
    const std::size_t size = args.num_tokens * per_token;
    for (std::size_t i = size * worker.index / worker.count; i < size * (worker.index + 1) / worker.count; ++i) {
        const std::size_t token = i / per_token, head = i % per_token;
        if (head == 0 && token + 1 < args.num_tokens) ask_for(args, token + 1);
        if (head < args.layout.num_kv_heads) {
            write_head(args, token, head);
        } else {
            float* q = args.q + token * args.q_stride + (head - args.layout.num_kv_heads) * args.layout.head_dim;
            prepare(args, token, q, args.q_norm, q);
        }
    }
}

}  // namespace steelyard::STEELYARD_ISA
