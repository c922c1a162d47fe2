#include "rms_norm.hpp"

namespace steelyard {

STEELYARD_DECLARE(void rms_norm_rows(const RmsNormArgs& args))

void rms_norm(const RmsNormArgs& args, Isa isa) { STEELYARD_CALL(isa, rms_norm_rows(args)); }

}  // namespace steelyard
