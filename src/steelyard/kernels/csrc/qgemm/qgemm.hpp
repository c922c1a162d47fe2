// Products of quantised activations with quantised, packed weights: out[r, n] = Σ_k x[r, k] · w[n, k].
//
// Activations are 8-bit with one scale per 32 (quantise_rows); weights are 4- or 8-bit with one scale per 32
// (formats.hpp). Per block b of 32 inputs, in order:
//
//   t   = Σ_k (q − offset)·v           exact, in int32
//   acc = fma(float(t)·d, s, acc)      one rounding each
//   acc = fma(m, s·Σv, acc)            where the format has minima
//
// This is one formula for every instruction set and every number of rows, so a row's bits depend on nothing but the row
// and the weights.
#pragma once

#include "../isa.hpp"
#include "../parallel/thread_pool.hpp"
#include "formats.hpp"

namespace steelyard {

struct QuantiseRowsArgs {
    const float* x;        // row r begins at x + r · x_stride
    std::size_t x_stride;  // floats
    QuantisedRows out;
};

// v = x · (127 / amax) rounded to nearest even, s = amax / 127, where amax is the block's largest magnitude; a block whose
// amax is below 2^-100 becomes zeros. A NaN or an infinity makes the block's scale NaN or infinite. Does the worker's share
// of rows.
void quantise_rows(const QuantiseRowsArgs& args, Isa isa, Worker worker);

// The RMS norm of rms_norm.hpp, bit for bit, of each row before it is quantised.
struct RmsNormQuantiseArgs {
    QuantiseRowsArgs rows;
    const float* weight;  // [num_inputs]
    float eps;
};
void rms_norm_quantise_rows(const RmsNormQuantiseArgs& args, Isa isa, Worker worker);

// What becomes of a sum y = acc + bias:
//   store     out[r, n] = y
//   add       out[r, n] += y
//   silu, gelu_tanh (gated): panels alternate between 16 gate and 16 up features, num_rows is a multiple of 32, and
//             out[r, 16·i + j] = act(y[r, 32·i + j]) · y[r, 32·i + 16 + j], num_rows / 2 wide.
//   largest   out[r, i] = the largest of y[r, 32·i … 32·i + 31], as many as there are; NaN may be passed over.
enum class Epilogue : int { store, add, silu, gelu_tanh, largest };

constexpr bool is_gated(Epilogue epilogue) { return epilogue == Epilogue::silu || epilogue == Epilogue::gelu_tanh; }

struct QgemmArgs {
    PackedMatrix weight;
    QuantisedRows rows;  // as many inputs as the weight
    float* out;
    std::size_t out_stride;  // floats between rows
    const float* bias;       // [weight.num_rows], or null
    Epilogue epilogue;
};

// Does the worker's share of output features, for all rows. No barrier inside: every worker must see all of `rows`.
void qgemm(const QgemmArgs& args, Isa isa, Worker worker);

// Rows taken in two steps of 8 bits: as quantise_rows gives them, and what that leaves, quantised too.
struct FineRows {
    const float* x;  // [num_tokens, num_inputs], rows x_stride floats apart
    std::size_t x_stride;
    std::size_t num_tokens;
    float* rest;              // room for [num_tokens, num_inputs]
    ActivationBlock* blocks;  // room for 2 · num_tokens rows: all first steps, then all second ones
};

// Fills `blocks`, inside a job of `pool`, in which all workers call it: there are barriers inside, and one at the end.
void quantise_fine(const FineRows& rows, std::size_t num_inputs, Isa isa, ThreadPool& pool, Worker worker);

// out = x · weight, both steps in one pass over the weights.
struct FineQgemmArgs {
    PackedMatrix weight;
    FineRows rows;
    float* sums;  // room for [2 · num_tokens, num_rows]
    float* out;   // [num_tokens, num_rows], dense
};

// The worker's share, inside a job of `pool`, in which all workers call it: there are barriers inside.
void qgemm_fine(const FineQgemmArgs& args, Isa isa, ThreadPool& pool, Worker worker);

// The num_inputs weights of one output feature, e.g. for an embedding lookup in a tied matrix.
void dequantise_row(const PackedMatrix& weight, std::size_t row, float* out);

}  // namespace steelyard
