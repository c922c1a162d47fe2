// Compiled once per instruction set (isa.hpp).

#include "roofline.hpp"

#include "vec.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

constexpr std::size_t num_sums = 12;  // of 512 bits: enough to hide an instruction's latency
constexpr std::size_t prefetch_bytes = 4096;

// Tells the compiler that a value is used and may have changed.
template <class T>
STEELYARD_INLINE void touch(T& value) {
#if defined(__AVX512F__)
    asm volatile("" : "+v"(value.v));
#elif defined(__AVX2__)
    asm volatile("" : "+x"(value.a), "+x"(value.b));
#elif !defined(_MSC_VER)
    asm volatile("" : : "r"(&value) : "memory");
#else
    volatile auto* seen = &value;
    (void)seen;
#endif
}

}  // namespace

void read_bytes(const unsigned char* data, std::size_t num_bytes, Worker worker) {
    const Range mine = share(num_bytes / 256, worker);
    for (const unsigned char* p = data + mine.begin * 256; p < data + mine.end * 256; p += 256) {
        repeat<4>([&](auto i) STEELYARD_INLINE_LAMBDA {
            STEELYARD_PREFETCH(p + 64 * i + prefetch_bytes);
            Bytes line = load_bytes(p + 64 * i);
            touch(line);
        });
    }
}

void dot_product_rounds(std::size_t rounds) {
    DotSum<true> dots[num_sums];
    const std::int8_t one[4] = {1, 1, 1, 1};
    Bytes weights = every_lane(one), values = every_lane(one);
    repeat<num_sums>([&](auto i) STEELYARD_INLINE_LAMBDA { dots[i].begin(all_ints(0)); });
    for (std::size_t round = 0; round < rounds; ++round) {
        touch(weights);
        repeat<num_sums>([&](auto i) STEELYARD_INLINE_LAMBDA { dots[i].add(weights, values); });
    }
    repeat<num_sums>([&](auto i) STEELYARD_INLINE_LAMBDA {
        Ints total = dots[i].total();
        touch(total);
    });
}

std::size_t operations_per_round() { return num_sums * 16 * 4 * 2; }

}  // namespace steelyard::STEELYARD_ISA
