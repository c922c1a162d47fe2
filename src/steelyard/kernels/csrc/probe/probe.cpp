#include "probe.hpp"

namespace steelyard {

STEELYARD_DECLARE(void stream_share(const StreamArgs& args, Worker worker))
STEELYARD_DECLARE(void peak_share(const PeakArgs& args, Worker worker))

void probe_stream(const StreamArgs& args, Worker worker, Isa isa) { STEELYARD_CALL(isa, stream_share(args, worker)); }

void probe_peak(const PeakArgs& args, Worker worker, Isa isa) { STEELYARD_CALL(isa, peak_share(args, worker)); }

std::int64_t probe_chase(const std::int64_t* next, std::int64_t start, std::size_t steps) {
    std::int64_t here = start;
    for (std::size_t step = 0; step < steps; ++step) here = next[here];
    return here;
}

}  // namespace steelyard
