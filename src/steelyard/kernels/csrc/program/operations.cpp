#include "operations.hpp"

#include <algorithm>

#include "../rms_norm.hpp"

namespace steelyard {
namespace {

void norm_rows(const float* x, const float* weight, float* out, Range rows, std::size_t width, float eps, Isa isa) {
    const std::size_t start = rows.begin * width;
    rms_norm({x + start, weight, out + start, rows.end - rows.begin, width, eps}, isa);
}

}  // namespace

void Embed::run(const Frame& frame, Worker worker) const {
    const Range rows = share(frame.step.num_tokens, worker);
    for (std::size_t row = rows.begin; row < rows.end; ++row) {
        float* out = x.data(frame) + row * x.width;
        dequantise_row(table, static_cast<std::size_t>(frame.step.token_ids[row]), out);
        if (scale == 1.0f) continue;
        for (std::size_t i = 0; i < x.width; ++i) out[i] *= scale;
    }
}

void NormQuantise::run(const Frame& frame, Worker worker) const {
    rms_norm_quantise_rows({{x.data(frame), x.width, q.rows(frame)}, weight, eps}, frame.isa, worker);
}

void Quantise::run(const Frame& frame, Worker worker) const {
    quantise_rows({x.data(frame), x.width, q.rows(frame)}, frame.isa, worker);
}

void Project::run(const Frame& frame, Worker worker) const {
    qgemm({weight, q.rows(frame), out.data(frame), out.width, bias, epilogue}, frame.isa, worker);
}

void GatherRotation::run(const Frame& frame, Worker worker) const {
    const RotationTable& from = frame.step.tables[table];
    const std::size_t dim = rotation.cos.width;
    const Range rows = share(frame.step.num_tokens, worker);
    for (std::size_t row = rows.begin; row < rows.end; ++row) {
        const std::size_t start = static_cast<std::size_t>(frame.step.plan->positions()[row]) * dim;
        std::copy_n(from.cos + start, dim, rotation.cos.data(frame) + row * dim);
        std::copy_n(from.sin + start, dim, rotation.sin.data(frame) + row * dim);
    }
}

void RopeWriteKV::run(const Frame& frame, Worker worker) const {
    const Step& step = frame.step;
    float* q = qkv.data(frame);
    RopeWriteKVArgs args{};
    args.layout = step.layout;
    args.cache = step.caches[layer];
    args.q = q;
    args.k = q + heads.q_size();
    args.v = q + heads.q_size() + heads.kv_size();
    args.q_stride = args.k_stride = args.v_stride = qkv.width;
    args.num_tokens = step.num_tokens;
    args.num_heads = heads.num_heads;
    args.slots = step.plan->slots();
    if (rotation) {
        args.cos = rotation->cos.data(frame);
        args.sin = rotation->sin.data(frame);
        args.rotary_dim = rotation->cos.width;
    }
    args.q_norm = q_norm;
    args.k_norm = k_norm;
    args.eps = eps;
    rope_write_kv(args, frame.isa, worker);
}

void Attend::run(const Frame& frame, Worker worker) const {
    const Step& step = frame.step;
    paged_attention({step.plan, step.layout, step.caches[layer], qkv.data(frame), qkv.width, out.data(frame), out.width,
                     scale, window, softcap},
                    frame.isa, worker);
}

void NormAdd::run(const Frame& frame, Worker worker) const {
    const Range rows = share(frame.step.num_tokens, worker);
    norm_rows(y.data(frame), weight, y.data(frame), rows, x.width, eps, frame.isa);
    for (std::size_t i = rows.begin * x.width; i < rows.end * x.width; ++i) x.data(frame)[i] += y.data(frame)[i];
}

void FinalNorm::run(const Frame& frame, Worker worker) const {
    norm_rows(x.data(frame), weight, frame.step.out, share(frame.step.num_tokens, worker), x.width, eps, frame.isa);
}

}  // namespace steelyard
