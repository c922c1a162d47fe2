#include "likeliest.hpp"

#include <cmath>
#include <vector>

namespace steelyard {
namespace {

float norm_of(const QuantisedRows& rows, std::size_t row) {
    double squares = 0.0;
    for (std::size_t b = 0; b < rows.num_blocks(); ++b) {
        const ActivationBlock& block = rows.row(row)[b];
        double sum = 0.0;
        for (const std::int8_t value : block.values) sum += static_cast<double>(value) * value;
        squares += sum * block.scale * block.scale;
    }
    return static_cast<float>(std::sqrt(squares));
}

// One token's part of a job.
struct Search {
    const LikeliestArgs& args;
    Isa isa;
    std::size_t token;
    float best = -INFINITY;
    std::size_t position = 0;

    QuantisedRows first_steps() const {
        return {args.rows.blocks, args.rows.num_tokens, args.weight.num_inputs};
    }
    QuantisedRows second_steps() const {
        return {first_steps().row(args.rows.num_tokens), args.rows.num_tokens, args.weight.num_inputs};
    }

    // How far, per unit of a feature's norm, its element may be from what the first step gave: by the second step, and by
    // what rounding took from either.
    float reach() const {
        const float rounding = 1e-6f * static_cast<float>(args.weight.num_blocks());
        return 1.001f * norm_of(second_steps(), token) + rounding * norm_of(first_steps(), token);
    }

    // Looks through a group; false if there is a NaN, which ends the search.
    bool look_at(std::size_t group) {
        const std::size_t first = group * feature_group;
        PackedMatrix part = args.weight;
        part.data = args.weight.panel(2 * group);
        part.num_rows = args.weight.num_rows - first < feature_group ? args.weight.num_rows - first : feature_group;
        float sums[2][feature_group];
        const QuantisedRows steps[2] = {first_steps(), second_steps()};
        for (int step = 0; step < 2; ++step) {
            const QuantisedRows row{steps[step].row(token), 1, args.weight.num_inputs};
            qgemm({part, row, sums[step], feature_group, nullptr, Epilogue::store}, isa, Worker{});
        }
        for (std::size_t i = 0; i < part.num_rows; ++i) {
            const float here = sums[0][i] + sums[1][i];
            if (here > best || here != here) {
                best = here;
                position = first + i;
            }
            if (here != here) return false;
        }
        return true;
    }

    void run() {
        const std::size_t num_groups = feature_groups_of(args.weight.num_rows);
        const float* maxima = args.maxima + token * num_groups;
        const float distance = reach();
        if (!std::isfinite(distance)) {
            best = NAN;
            return;
        }
        float sure = -INFINITY;  // what some element is not below
        for (std::size_t group = 0; group < num_groups; ++group) {
            const float least = maxima[group] - distance * args.norms[group];
            if (least > sure) sure = least;
        }
        for (std::size_t group = 0; group < num_groups; ++group) {
            const bool out_of_question = maxima[group] + distance * args.norms[group] < sure;
            if (!out_of_question && !look_at(group)) return;
        }
    }
};

}  // namespace

void feature_group_norms(const PackedMatrix& weight, float* out, Worker worker) {
    std::vector<float> row(weight.num_inputs);
    const Range groups = share(feature_groups_of(weight.num_rows), worker);
    for (std::size_t group = groups.begin; group < groups.end; ++group) {
        float most = 0.0f;
        const std::size_t first = group * feature_group;
        for (std::size_t i = first; i < first + feature_group && i < weight.num_rows; ++i) {
            dequantise_row(weight, i, row.data());
            float squares = 0.0f;
            for (const float x : row) squares += x * x;
            if (most == most && !(squares <= most)) most = squares;  // a NaN stays
        }
        out[group] = std::sqrt(most);
    }
}

void qgemm_likeliest(const LikeliestArgs& args, Isa isa, ThreadPool& pool, Worker worker) {
    quantise_fine(args.rows, args.weight.num_inputs, isa, pool, worker);
    const QuantisedRows first_steps{args.rows.blocks, args.rows.num_tokens, args.weight.num_inputs};
    const std::size_t num_groups = feature_groups_of(args.weight.num_rows);
    qgemm({args.weight, first_steps, args.maxima, num_groups, nullptr, Epilogue::largest}, isa, worker);
    pool.barrier();
    const Range tokens = share(args.rows.num_tokens, worker);
    for (std::size_t token = tokens.begin; token < tokens.end; ++token) {
        Search search{args, isa, token};
        search.run();
        args.largest[token] = search.best;
        args.position[token] = static_cast<std::int64_t>(search.position);
    }
}

}  // namespace steelyard
