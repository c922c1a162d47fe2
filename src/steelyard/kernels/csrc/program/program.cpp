#include "program.hpp"

#include <algorithm>
#include <chrono>

namespace steelyard {

void Program::add(const std::string& kind, std::unique_ptr<Operation> operation) {
    const auto found = std::find(kinds_.begin(), kinds_.end(), kind);
    const auto index = static_cast<std::size_t>(found - kinds_.begin());
    if (found == kinds_.end()) {
        kinds_.push_back(kind);
        seconds_.push_back(0.0);
    }
    entries_.push_back({index, std::move(operation)});
}

void Program::run(const Step& step, ThreadPool& pool) {
    using Clock = std::chrono::steady_clock;
    arena_.reserve(step.num_tokens);
    const Frame frame{step, arena_, isa_};
    pool.run([&](Worker worker) {
        auto start = Clock::now();
        for (const Entry& entry : entries_) {
            entry.operation->run(frame, worker);
            pool.barrier();
            if (worker.index != 0) continue;
            const auto end = Clock::now();
            seconds_[entry.kind] += std::chrono::duration<double>(end - start).count();
            start = end;
        }
    });
}

std::vector<std::pair<std::string, double>> Program::take_profile() {
    std::vector<std::pair<std::string, double>> profile;
    for (std::size_t kind = 0; kind < kinds_.size(); ++kind) {
        profile.emplace_back(kinds_[kind], seconds_[kind]);
        seconds_[kind] = 0.0;
    }
    return profile;
}

}  // namespace steelyard
