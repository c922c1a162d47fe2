#include "rope_write_kv.hpp"

namespace steelyard {

STEELYARD_DECLARE(void rope_write_kv_share(const RopeWriteKVArgs& args, Worker worker))

void rope_write_kv(const RopeWriteKVArgs& args, Isa isa, Worker worker) {
    STEELYARD_CALL(isa, rope_write_kv_share(args, worker));
}

}  // namespace steelyard
