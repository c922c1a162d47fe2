#include "roofline.hpp"

namespace steelyard {

STEELYARD_DECLARE(void read_bytes(const unsigned char* data, std::size_t num_bytes, Worker worker))
STEELYARD_DECLARE(void dot_product_rounds(std::size_t rounds))
STEELYARD_DECLARE(std::size_t operations_per_round())

void read_bytes(const unsigned char* data, std::size_t num_bytes, Isa isa, Worker worker) {
    STEELYARD_CALL(isa, read_bytes(data, num_bytes, worker));
}

void dot_product_rounds(std::size_t rounds, Isa isa) { STEELYARD_CALL(isa, dot_product_rounds(rounds)); }

std::size_t operations_per_round(Isa isa) { STEELYARD_CALL(isa, operations_per_round()); }

}  // namespace steelyard
