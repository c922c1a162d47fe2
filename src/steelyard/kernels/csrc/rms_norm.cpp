#include "rms_norm.hpp"

namespace steelyard {

// One per instruction set, all from rms_norm_rows.cpp.
namespace baseline { void rms_norm_rows(const RmsNormArgs& args); }
#if defined(STEELYARD_X86_VARIANTS)
namespace avx2 { void rms_norm_rows(const RmsNormArgs& args); }
namespace avx512 { void rms_norm_rows(const RmsNormArgs& args); }
#endif

void rms_norm(const RmsNormArgs& args, Isa isa) {
    switch (isa) {
#if defined(STEELYARD_X86_VARIANTS)
        case Isa::avx2: return avx2::rms_norm_rows(args);
        case Isa::avx512: return avx512::rms_norm_rows(args);
#endif
        default: return baseline::rms_norm_rows(args);
    }
}

}  // namespace steelyard
