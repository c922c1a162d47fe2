// The operations that a decoder's step is made of. Each hands its fields to a kernel; what they mean stands there.
#pragma once

#include <optional>

#include "../attention/paged_attention.hpp"
#include "../attention/rope_write_kv.hpp"
#include "../qgemm/qgemm.hpp"
#include "program.hpp"

namespace steelyard {

// A buffer of float rows.
struct FloatRows {
    Arena::Buffer buffer;
    std::size_t width;

    float* data(const Frame& frame) const { return frame.arena.rows<float>(buffer); }
};

// A buffer of quantised rows.
struct QuantisedBuffer {
    Arena::Buffer buffer;
    std::size_t num_inputs;

    QuantisedRows rows(const Frame& frame) const {
        return {frame.arena.rows<ActivationBlock>(buffer), frame.step.num_tokens, num_inputs};
    }
};

// x = scale · table[token]
struct Embed final : Operation {
    PackedMatrix table;
    FloatRows x;
    float scale;

    Embed(PackedMatrix table_, FloatRows x_, float scale_) : table(table_), x(x_), scale(scale_) {}
    void run(const Frame& frame, Worker worker) const override;
};

// q = quantised norm(x)
struct NormQuantise final : Operation {
    FloatRows x;
    QuantisedBuffer q;
    const float* weight;
    float eps;

    NormQuantise(FloatRows x_, QuantisedBuffer q_, const float* weight_, float eps_)
        : x(x_), q(q_), weight(weight_), eps(eps_) {}
    void run(const Frame& frame, Worker worker) const override;
};

// q = quantised x
struct Quantise final : Operation {
    FloatRows x;
    QuantisedBuffer q;

    Quantise(FloatRows x_, QuantisedBuffer q_) : x(x_), q(q_) {}
    void run(const Frame& frame, Worker worker) const override;
};

// out gets weight · q + bias by the epilogue's rule
struct Project final : Operation {
    PackedMatrix weight;
    QuantisedBuffer q;
    FloatRows out;
    const float* bias;
    Epilogue epilogue;

    Project(PackedMatrix weight_, QuantisedBuffer q_, FloatRows out_, const float* bias_, Epilogue epilogue_)
        : weight(weight_), q(q_), out(out_), bias(bias_), epilogue(epilogue_) {}
    void run(const Frame& frame, Worker worker) const override;
};

// cos and sin of one of the model's rotary embeddings, gathered for the step's tokens.
struct Rotation {
    FloatRows cos;
    FloatRows sin;
};

struct GatherRotation final : Operation {
    std::size_t table;  // index into the step's
    Rotation rotation;

    GatherRotation(std::size_t table_, Rotation rotation_) : table(table_), rotation(rotation_) {}
    void run(const Frame& frame, Worker worker) const override;
};

// Heads of one layer's attention, in rows of queries, keys and values side by side.
struct Heads {
    std::size_t num_heads;
    std::size_t num_kv_heads;
    std::size_t head_dim;

    std::size_t q_size() const { return num_heads * head_dim; }
    std::size_t kv_size() const { return num_kv_heads * head_dim; }
};

// queries and keys normed and rotated, keys and values into the cache
struct RopeWriteKV final : Operation {
    std::size_t layer;
    FloatRows qkv;
    Heads heads;
    std::optional<Rotation> rotation;
    const float* q_norm;
    const float* k_norm;
    float eps;

    RopeWriteKV(std::size_t layer_, FloatRows qkv_, Heads heads_, std::optional<Rotation> rotation_,
                const float* q_norm_, const float* k_norm_, float eps_)
        : layer(layer_), qkv(qkv_), heads(heads_), rotation(rotation_), q_norm(q_norm_), k_norm(k_norm_), eps(eps_) {}
    void run(const Frame& frame, Worker worker) const override;
};

// out = attention of the queries over the cache
struct Attend final : Operation {
    std::size_t layer;
    FloatRows qkv;
    FloatRows out;
    float scale;
    std::size_t window;
    float softcap;

    Attend(std::size_t layer_, FloatRows qkv_, FloatRows out_, float scale_, std::size_t window_, float softcap_)
        : layer(layer_), qkv(qkv_), out(out_), scale(scale_), window(window_), softcap(softcap_) {}
    void run(const Frame& frame, Worker worker) const override;
};

// x += norm(y); y is overwritten
struct NormAdd final : Operation {
    FloatRows y;
    FloatRows x;
    const float* weight;
    float eps;

    NormAdd(FloatRows y_, FloatRows x_, const float* weight_, float eps_) : y(y_), x(x_), weight(weight_), eps(eps_) {}
    void run(const Frame& frame, Worker worker) const override;
};

// the step's result = norm(x)
struct FinalNorm final : Operation {
    FloatRows x;
    const float* weight;
    float eps;

    FinalNorm(FloatRows x_, const float* weight_, float eps_) : x(x_), weight(weight_), eps(eps_) {}
    void run(const Frame& frame, Worker worker) const override;
};

}  // namespace steelyard
