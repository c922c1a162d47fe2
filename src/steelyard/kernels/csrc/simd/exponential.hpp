// Exponentials of sixteen floats at once (lanes.hpp).
//
// 2^x is 2^n · 2^f with n = ⌊x⌋ and 0 ≤ f < 1, e^x the same with n = round(x log₂ e) and |f| ≤ 1/2; polynomials of degree
// six, fitted for the least relative error with 2^0 = 1 exactly, give the second factor to 2·10⁻⁹ before rounding. Measured over all ranges: power_of_two errs by at most
// 2 ulp, exponential by at most 2 ulp, hyperbolic_tangent by at most 2·10⁻⁷ absolutely. Results below the smallest
// normal float may be less exact; −∞ gives exactly 0, NaN need not stay NaN.
#pragma once

#include "lanes.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

// 2^f for 0 ≤ f < 1.
STEELYARD_INLINE Lanes power_of_fraction(Lanes f) {
    Lanes sum = splat(2.1612919e-4f);
    sum = multiply_add(sum, f, splat(1.2467845e-3f));
    sum = multiply_add(sum, f, splat(9.6754517e-3f));
    sum = multiply_add(sum, f, splat(5.5485281e-2f));
    sum = multiply_add(sum, f, splat(2.4022931e-1f));
    sum = multiply_add(sum, f, splat(6.9314704e-1f));
    return multiply_add(sum, f, splat(1.0f));
}

// 2^f for |f| ≤ 1/2.
STEELYARD_INLINE Lanes power_near_zero(Lanes f) {
    Lanes sum = splat(1.5353362e-4f);
    sum = multiply_add(sum, f, splat(1.3398875e-3f));
    sum = multiply_add(sum, f, splat(9.6184369e-3f));
    sum = multiply_add(sum, f, splat(5.5503324e-2f));
    sum = multiply_add(sum, f, splat(2.4022648e-1f));
    sum = multiply_add(sum, f, splat(6.9314718e-1f));
    return multiply_add(sum, f, splat(1.0f));
}

STEELYARD_INLINE Lanes power_of_two(Lanes x) { return times_power_of_floor(power_of_fraction(fraction(x)), x); }

STEELYARD_INLINE Lanes exponential(Lanes x) {
    x = larger(x, splat(-140.0f));
    const Lanes n = round_to_integer(x * splat(1.44269504f));
    // ln 2 in two parts, the first with so few bits that its products with n are exact.
    const Lanes rest = multiply_add(n, splat(2.12194440e-4f), multiply_add(n, splat(-0.693359375f), x));
    return times_power_of_two(power_near_zero(rest * splat(1.44269504f)), n);
}

STEELYARD_INLINE Lanes hyperbolic_tangent(Lanes x) {
    const Lanes bounded = smaller(larger(x, splat(-10.0f)), splat(10.0f));
    const Lanes e = exponential(bounded + bounded);
    return (e - splat(1.0f)) / (e + splat(1.0f));
}

}  // namespace
}  // namespace steelyard::STEELYARD_ISA
