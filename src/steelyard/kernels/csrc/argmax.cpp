#include "argmax.hpp"

namespace steelyard {

STEELYARD_DECLARE(void argmax_rows(const ArgmaxArgs& args, Worker worker))

void argmax(const ArgmaxArgs& args, Worker worker, Isa isa) { STEELYARD_CALL(isa, argmax_rows(args, worker)); }

}  // namespace steelyard
