#include "isa.hpp"

namespace steelyard {

bool isa_available(Isa isa) {
#if defined(STEELYARD_X86_VARIANTS)
    // These look at the operating system's support for the wide registers too, not only at the CPU's.
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    switch (isa) {
        case Isa::avx2: return avx2;
        case Isa::avx512: return avx512;
        case Isa::avx512_vnni: return vnni;
        case Isa::avx512_bf16: return vnni && __builtin_cpu_supports("avx512bf16");
        case Isa::baseline: break;
    }
#endif
    return isa == Isa::baseline;
}

static Isa find_best_isa() {
    Isa best = Isa::baseline;
    for (Isa isa : all_isas) {
        if (isa_available(isa)) best = isa;
    }
    return best;
}

Isa best_isa() {
    static const Isa best = find_best_isa();
    return best;
}

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx2: return "avx2";
        case Isa::avx512: return "avx512";
        case Isa::avx512_vnni: return "avx512_vnni";
        case Isa::avx512_bf16: return "avx512_bf16";
        case Isa::baseline: break;
    }
    return "baseline";
}

}  // namespace steelyard
