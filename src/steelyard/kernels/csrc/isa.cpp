#include "isa.hpp"

namespace steelyard {

bool isa_available(Isa isa) {
#if defined(STEELYARD_X86_VARIANTS)
    // These look at the operating system's support for the wide registers too, not only at the CPU's.
    __builtin_cpu_init();
    if (isa == Isa::avx512) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
    if (isa == Isa::avx2) return __builtin_cpu_supports("avx2");
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
        case Isa::baseline: break;
    }
    return "baseline";
}

}  // namespace steelyard
