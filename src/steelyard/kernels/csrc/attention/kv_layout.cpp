#include "kv_layout.hpp"

namespace steelyard {

KVLayout make_kv_layout(KVType type, std::size_t num_kv_heads, std::size_t head_dim, std::size_t block_size,
                        std::size_t num_layers) {
    const std::size_t element_bytes = type == KVType::float32 ? 4 : type == KVType::int8 ? 1 : 2;
    KVLayout layout{};
    layout.type = type;
    layout.num_kv_heads = num_kv_heads;
    layout.head_dim = head_dim;
    layout.block_size = block_size;
    layout.group_bytes = key_group * head_dim * element_bytes;
    layout.values_bytes = block_size * head_dim * element_bytes;
    layout.scales_bytes = 2 * layout.values_bytes;
    const std::size_t scales = type == KVType::int8 ? 2 * block_size * sizeof(float) : 0;
    layout.head_bytes = (layout.scales_bytes + scales + 63) / 64 * 64;
    layout.block_bytes = num_kv_heads * layout.head_bytes;
    layout.block_stride = num_layers * layout.block_bytes;
    return layout;
}

}  // namespace steelyard
