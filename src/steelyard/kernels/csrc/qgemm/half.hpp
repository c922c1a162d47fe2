// float16 to float32 without instructions for it, exact for every input.
#pragma once

#include <cstdint>
#include <cstring>

namespace steelyard {
namespace {

inline float float_from_half(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t magnitude = half & 0x7fffu;
    float value;
    if (magnitude >= 0x7c00u) {  // infinity or NaN
        const std::uint32_t bits = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
        std::memcpy(&value, &bits, sizeof(value));
        return value;
    }
    // The bits in place are the number times 2^-112, subnormals included.
    const std::uint32_t bits = magnitude << 13;
    std::memcpy(&value, &bits, sizeof(value));
    value *= 0x1p112f;
    return sign ? -value : value;
}

}  // namespace
}  // namespace steelyard
