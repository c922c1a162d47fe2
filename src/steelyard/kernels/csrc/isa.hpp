// Instruction sets that the kernels are compiled for, which of them this CPU and its operating system offer, and how one
// entry point per kernel chooses among the compilations.
//
// A kernel lives in NAME_kernel.cpp, which CMake compiles once per instruction set with STEELYARD_ISA naming the
// namespace. NAME.cpp, compiled once, declares the variants with STEELYARD_DECLARE and picks one with STEELYARD_CALL.
// Nothing else with external linkage may be shared between the compilations: were an inline function of a library
// header compiled with wide instructions, the linker could choose that copy for everyone.
#pragma once

namespace steelyard {

// Ordered: a later one contains those before it.
//   avx2:        AVX2, FMA, F16C                  (Haswell, Zen)
//   avx512:      AVX-512 F, VL, BW, DQ            (Skylake-X)
//   avx512_vnni: 8-bit integer dot products       (Ice Lake, Zen 4)
//   avx512_bf16: bfloat16 dot products            (Zen 4, Sapphire Rapids)
enum class Isa { baseline, avx2, avx512, avx512_vnni, avx512_bf16 };

constexpr Isa all_isas[] = {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_vnni, Isa::avx512_bf16};

// Whether this process can run it; the baseline always can.
bool isa_available(Isa isa);

// The last that is available.
Isa best_isa();

const char* isa_name(Isa isa);

}  // namespace steelyard

#if defined(STEELYARD_X86_VARIANTS)
#define STEELYARD_DECLARE(...)                \
    namespace baseline { __VA_ARGS__; }       \
    namespace avx2 { __VA_ARGS__; }           \
    namespace avx512 { __VA_ARGS__; }         \
    namespace avx512_vnni { __VA_ARGS__; }    \
    namespace avx512_bf16 { __VA_ARGS__; }
#define STEELYARD_CALL(isa, ...)                                     \
    switch (isa) {                                                   \
        case Isa::avx512_bf16: return avx512_bf16::__VA_ARGS__;      \
        case Isa::avx512_vnni: return avx512_vnni::__VA_ARGS__;      \
        case Isa::avx512: return avx512::__VA_ARGS__;                \
        case Isa::avx2: return avx2::__VA_ARGS__;                    \
        default: return baseline::__VA_ARGS__;                       \
    }
#else
#define STEELYARD_DECLARE(...) namespace baseline { __VA_ARGS__; }
#define STEELYARD_CALL(isa, ...) return static_cast<void>(isa), baseline::__VA_ARGS__
#endif
