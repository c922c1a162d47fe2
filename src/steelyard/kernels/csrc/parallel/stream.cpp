#include "stream.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "algorithms.hpp"

namespace steelyard {
namespace {

constexpr double scalar = 3.0;

template <class Loop>
double seconds_of(const Loop& loop) {
    const auto start = std::chrono::steady_clock::now();
    loop();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double worst_error(const OnPool& executor, const double* x, std::size_t size, double wanted) {
    const auto worst_in = [=](Range block) {
        double worst = 0.0;
        for (std::size_t i = block.begin; i < block.end; ++i) worst = std::max(worst, std::abs(x[i] - wanted));
        return worst / std::abs(wanted);
    };
    return reduce(executor, size, 0.0, worst_in, [](double left, double right) { return std::max(left, right); });
}

// What every element of a, b and c is after so many rounds.
std::array<double, 3> expected(std::size_t rounds) {
    double a = 1.0, b = 2.0, c = 0.0;
    for (; rounds > 0; --rounds) {
        c = a;
        b = scalar * c;
        c = a + b;
        a = b + scalar * c;
    }
    return {a, b, c};
}

}  // namespace

StreamResult stream(ThreadPool& pool, std::size_t size, std::size_t rounds, Pages pages) {
    const OnPool executor(pool);
    Array<double> a(executor, size, 1.0, pages), b(executor, size, 2.0, pages), c(executor, size, 0.0, pages);
    const auto scaled = [](double x) { return scalar * x; };
    const auto added = [](double x, double y) { return x + y; };
    const auto copied = [](double x) { return x; };
    const auto multiplied_and_added = [](double x, double y) { return x + scalar * y; };

    StreamResult result{};
    auto& [copy_s, scale_s, add_s, triad_s] = result.seconds;
    for (std::size_t round = 0; round < rounds; ++round) {
        copy_s.push_back(seconds_of([&] { transform(executor, Static{}, size, c.data(), copied, a.data()); }));
        scale_s.push_back(seconds_of([&] { transform(executor, Static{}, size, b.data(), scaled, c.data()); }));
        add_s.push_back(seconds_of([&] { transform(executor, Static{}, size, c.data(), added, a.data(), b.data()); }));
        triad_s.push_back(seconds_of(
            [&] { transform(executor, Static{}, size, a.data(), multiplied_and_added, b.data(), c.data()); }));
    }
    const auto [wanted_a, wanted_b, wanted_c] = expected(rounds);
    result.worst_error = std::max({worst_error(executor, a.data(), size, wanted_a),
                                   worst_error(executor, b.data(), size, wanted_b),
                                   worst_error(executor, c.data(), size, wanted_c)});
    return result;
}

}  // namespace steelyard
