// exp and the gates built on it, sixteen lanes at a time. For inclusion by kernels only, like vec.hpp.
#pragma once

#include "vec.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

// e^x with a relative error below 2^-22 for −86 ≤ x ≤ 88, constant beyond; a NaN gives some finite number.
//
// x = n·ln 2 + r with |r| ≤ ln(2) / 2; e^r by its Taylor series to r^7, whose rest is below 6e-9; n into the exponent.
STEELYARD_INLINE Floats exponential(Floats x) {
    const Floats round = all(0x1.8p23f);  // adding it rounds to an integer, which ends the sum's bits
    const Floats bounded = at_most(at_least(x, -86.0f), 88.0f);
    const Floats shifted = fma(bounded, all(0x1.715476p+0f), round);
    const Floats n = shifted - round;
    const Floats r = fma(n, all(0x1.05c61p-29f), fma(n, all(-0x1.62e43p-1f), bounded));  // ln 2 in two parts
    Floats sum = all(1.0f / 5040);
    sum = fma(sum, r, all(1.0f / 720));
    sum = fma(sum, r, all(1.0f / 120));
    sum = fma(sum, r, all(1.0f / 24));
    sum = fma(sum, r, all(1.0f / 6));
    sum = fma(sum, r, all(0.5f));
    sum = fma(sum, r, all(1.0f));
    sum = fma(sum, r, all(1.0f));
    return from_bits(bits_of(sum) + shift_left<23>(bits_of(shifted)));
}

// x / (1 + e^−y): x times the logistic function of y.
STEELYARD_INLINE Floats times_logistic(Floats x, Floats y) { return x / (all(1.0f) + exponential(zeros() - y)); }

STEELYARD_INLINE Floats silu(Floats x) { return times_logistic(x, x); }

// x/2 · (1 + tanh u) = x · logistic(2u) with u = sqrt(2/π)·(x + 0.044715·x³).
STEELYARD_INLINE Floats gelu_tanh(Floats x) {
    const Floats twice = all(1.59576912f) * x;
    return times_logistic(x, fma(twice * all(0.044715f), x * x, twice));
}

}  // namespace
}  // namespace steelyard::STEELYARD_ISA
