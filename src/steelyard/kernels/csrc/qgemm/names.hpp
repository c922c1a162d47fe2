// The names under which Python knows formats and epilogues. All throw std::invalid_argument for a name that is none.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "pack.hpp"
#include "qgemm.hpp"

namespace steelyard {

template <class Enum, std::size_t count>
Enum named(const std::string& name, const char* const (&names)[count]) {
    for (std::size_t i = 0; i < count; ++i) {
        if (name == names[i]) return static_cast<Enum>(i);
    }
    throw std::invalid_argument("'" + name + "' is none of the names known here");
}

inline PackedFormat packed_format_named(const std::string& name) {
    static constexpr const char* names[] = {"q4_0", "q4_1", "q4_k", "q8_0", "q8_1", "q8_k"};
    return named<PackedFormat>(name, names);
}

inline SourceFormat source_format_named(const std::string& name) {
    static constexpr const char* names[] = {"Q4_0", "Q4_1", "Q4_K", "Q8_0"};
    return named<SourceFormat>(name, names);
}

inline Epilogue epilogue_named(const std::string& name) {
    static constexpr const char* names[] = {"store", "add", "silu", "gelu_tanh", "largest"};
    return named<Epilogue>(name, names);
}

}  // namespace steelyard
