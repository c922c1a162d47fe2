// Instruction sets that the kernels are compiled for, and which of them this CPU and its operating system offer.
#pragma once

namespace steelyard {

// Ordered: a later one is wider. Every kernel gives the same bits on all of them.
enum class Isa { baseline, avx2, avx512 };

constexpr Isa all_isas[] = {Isa::baseline, Isa::avx2, Isa::avx512};

// Whether this process can run it; the baseline always can.
bool isa_available(Isa isa);

// The widest that is available.
Isa best_isa();

const char* isa_name(Isa isa);

}  // namespace steelyard
