// The matrix product, compiled once per instruction set (isa.hpp).
//
// The heart is a tile: R rows times P panels of 16 features, whose R·P sums stay in registers over a run of blocks.
// With few rows the packed weights are read once, straight through, at the speed of memory. With many rows a pair of
// panels is cut into runs of blocks that fit the first-level cache; the first tile widens 4-bit weights into such a run
// and the other rows of a row block, which is small enough for the second-level cache, read them there.

#include "activation.hpp"
#include "qgemm.hpp"

namespace steelyard::STEELYARD_ISA {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t max_tile_rows = 6;  // 12 float and 12 integer sums, 2 weights, 1 activation in 32 registers
constexpr std::size_t max_few_rows = 8;   // spilling a little costs less than widening for two small tiles
#else
constexpr std::size_t max_tile_rows = 3;
constexpr std::size_t max_few_rows = 4;
#endif
constexpr std::size_t num_groups = block_length / 4;    // of inputs, 64 bytes of weights each
constexpr std::size_t pair = 2;                        // panels of a tile, or one at the end
constexpr std::size_t max_run_blocks = 24;             // of a pair of panels, widened: 30 KiB
constexpr std::size_t max_row_block = 192;             // rows whose sums are kept from run to run: 24 KiB
constexpr std::size_t max_row_block_bytes = 512 << 10;  // of quantised activations

constexpr std::size_t ceil_div(std::size_t a, std::size_t b) { return (a + b - 1) / b; }
constexpr std::size_t record_lines(PackedFormat format) { return ceil_div(record_bytes(format), 64); }

// A record of formats.hpp, as it lies in memory.
template <PackedFormat format>
struct Packed {
    static constexpr bool narrow = quant_bits(format) == 4;
    static constexpr bool mins = has_mins(format);
    static constexpr int offset_shift = narrow ? 3 : 7;  // the offset is 8 or 128 in formats without minima
    const std::uint8_t* record;

    template <std::size_t group>
    STEELYARD_INLINE Bytes quants() const {
        if constexpr (!narrow) return load_bytes(record + 64 * group);
        else if constexpr (group < 4) return lower_halves(load_bytes(record + 64 * group));
        else return upper_halves(load_bytes(record + 64 * (group - 4)));
    }
    STEELYARD_INLINE Floats scales() const { return floats(record + quant_bytes(format)); }
    STEELYARD_INLINE Floats minima() const { return floats(record + quant_bytes(format) + scale_bytes(format)); }
    static STEELYARD_INLINE Floats floats(const std::uint8_t* p) {
        if constexpr (has_wide_scales(format)) return load(reinterpret_cast<const float*>(p));
        else return load_half(p);
    }
};

// A record of a 4-bit format after widening: a byte per quant, float32 scales, room for minima.
constexpr std::size_t wide_bytes = 640;

template <PackedFormat format>
struct Widened {
    static constexpr bool narrow = true;
    static constexpr bool mins = has_mins(format);
    static constexpr int offset_shift = Packed<format>::offset_shift;
    const std::uint8_t* record;

    template <std::size_t group>
    STEELYARD_INLINE Bytes quants() const {
        return load_bytes(record + 64 * group);
    }
    STEELYARD_INLINE Floats scales() const { return load(reinterpret_cast<const float*>(record + 512)); }
    STEELYARD_INLINE Floats minima() const { return load(reinterpret_cast<const float*>(record + 576)); }
};

// A packed record that is written to `wide` as it is read, for later tiles to read as Widened: beside the dot products
// that costs almost nothing.
template <PackedFormat format>
struct Widening {
    static constexpr bool narrow = true;
    static constexpr bool mins = has_mins(format);
    static constexpr int offset_shift = Packed<format>::offset_shift;
    Packed<format> packed;
    std::uint8_t* wide;

    template <std::size_t group>
    STEELYARD_INLINE Bytes quants() const {
        const Bytes found = packed.template quants<group>();
        store_bytes(wide + 64 * group, found);
        return found;
    }
    STEELYARD_INLINE Floats scales() const { return kept(packed.scales(), wide + 512); }
    STEELYARD_INLINE Floats minima() const { return kept(packed.minima(), wide + 576); }
    static STEELYARD_INLINE Floats kept(Floats found, std::uint8_t* p) {
        store(reinterpret_cast<float*>(p), found);
        return found;
    }
};

// Where the records of a tile's panels come from: at(panel, block).
template <PackedFormat format>
struct FromPacked {
    const std::uint8_t* first;
    std::size_t panel_bytes;
    STEELYARD_INLINE Packed<format> at(std::size_t panel, std::size_t block) const {
        return {first + panel * panel_bytes + block * record_bytes(format)};
    }
};

template <PackedFormat format>
struct FromWidened {
    const std::uint8_t* first;
    std::size_t panel_bytes;
    STEELYARD_INLINE Widened<format> at(std::size_t panel, std::size_t block) const {
        return {first + panel * panel_bytes + block * wide_bytes};
    }
};

template <PackedFormat format>
struct FromPackedWidening {
    FromPacked<format> packed;
    std::uint8_t* wide;
    std::size_t wide_panel_bytes;
    STEELYARD_INLINE Widening<format> at(std::size_t panel, std::size_t block) const {
        return {packed.at(panel, block), wide + panel * wide_panel_bytes + block * wide_bytes};
    }
};

// What a tile asks memory for while it multiplies: some lines of each panel with every block.
struct Soon {
    const std::uint8_t* first;
    std::size_t panel_bytes;
    std::size_t lines_per_block;
};

// Which rows a tile multiplies.
struct Operands {
    const ActivationBlock* rows;  // first block of the first row
    std::size_t row_blocks;       // from row to row
    std::size_t num_blocks;       // to sum over
    Soon soon;
};

template <std::size_t R, std::size_t P>
struct Tile {
    Floats sums[R][P];

    STEELYARD_INLINE void clear() {
        repeat<R>([&](auto r) STEELYARD_INLINE_LAMBDA {
            repeat<P>([&](auto p) STEELYARD_INLINE_LAMBDA { sums[r][p] = zeros(); });
        });
    }
    STEELYARD_INLINE void load_from(const float* p0) {
        repeat<R>([&](auto r) STEELYARD_INLINE_LAMBDA {
            repeat<P>([&](auto p) STEELYARD_INLINE_LAMBDA { sums[r][p] = load(p0 + (r * pair + p) * panel_width); });
        });
    }
    STEELYARD_INLINE void store_to(float* p0) const {
        repeat<R>([&](auto r) STEELYARD_INLINE_LAMBDA {
            repeat<P>([&](auto p) STEELYARD_INLINE_LAMBDA { store(p0 + (r * pair + p) * panel_width, sums[r][p]); });
        });
    }

    // The formula of qgemm.hpp for one block; record(p) is panel p's.
    template <class RecordOf>
    STEELYARD_INLINE void add_block(const RecordOf& record, const ActivationBlock* rows, std::size_t row_blocks) {
        using Record = decltype(record(0));
        DotSum<Record::narrow> dots[R][P];
        repeat<R>([&](auto r) STEELYARD_INLINE_LAMBDA {
            Ints start = all_ints(0);
            if constexpr (!Record::mins) {
                start = shift_left<Record::offset_shift>(all_ints(rows[r * row_blocks].negative_sum));
            }
            repeat<P>([&](auto p) STEELYARD_INLINE_LAMBDA { dots[r][p].begin(start); });
        });
        repeat<num_groups>([&](auto g) STEELYARD_INLINE_LAMBDA {
            Bytes weights[P];
            repeat<P>([&](auto p) STEELYARD_INLINE_LAMBDA { weights[p] = record(p).template quants<g>(); });
            repeat<R>([&](auto r) STEELYARD_INLINE_LAMBDA {
                const Bytes values = every_lane(rows[r * row_blocks].values + 4 * g);
                repeat<P>([&](auto p) STEELYARD_INLINE_LAMBDA { dots[r][p].add(weights[p], values); });
            });
        });
        repeat<P>([&](auto p) STEELYARD_INLINE_LAMBDA {
            const Floats scales = record(p).scales();
            repeat<R>([&](auto r) STEELYARD_INLINE_LAMBDA {
                const Floats dot = to_floats(dots[r][p].total()) * scales;
                sums[r][p] = fma(dot, all(rows[r * row_blocks].scale), sums[r][p]);
            });
            if constexpr (Record::mins) {
                const Floats minima = record(p).minima();
                repeat<R>([&](auto r) STEELYARD_INLINE_LAMBDA {
                    sums[r][p] = fma(minima, all(rows[r * row_blocks].sum), sums[r][p]);
                });
            }
        });
    }

    template <PackedFormat format, class Source>
    STEELYARD_INLINE void add_blocks(const Source& source, const Operands& operands) {
        const std::uint8_t* soon = operands.soon.first;
        for (std::size_t b = 0; b < operands.num_blocks; ++b) {
            for (std::size_t i = 0; i < operands.soon.lines_per_block; ++i, soon += 64) {
                repeat<P>([&](auto p) STEELYARD_INLINE_LAMBDA { STEELYARD_PREFETCH(soon + p * operands.soon.panel_bytes); });
            }
            const auto record = [&](std::size_t p) STEELYARD_INLINE_LAMBDA { return source.at(p, b); };
            add_block(record, operands.rows + b, operands.row_blocks);
        }
    }

    // Writes the sums of rows `row` … and panels `panel` … where the epilogue says.
    STEELYARD_INLINE void finish(const QgemmArgs& args, std::size_t row, std::size_t panel) const {
        repeat<R>([&](auto r) STEELYARD_INLINE_LAMBDA {
            float* out = args.out + (row + r) * args.out_stride;
            if (is_gated(args.epilogue)) {
                if constexpr (P == pair) finish_gated(args, r, panel, out + panel / pair * panel_width);
                return;
            }
            if (args.epilogue == Epilogue::largest) {
                out[panel / pair] = largest_sum(args, r, panel);
                return;
            }
            repeat<P>([&](auto p) STEELYARD_INLINE_LAMBDA {
                const std::size_t first = (panel + p) * panel_width;
                const std::size_t width = args.weight.num_rows - first;
                Floats y = biased(sums[r][p], args, first, width);
                if (args.epilogue == Epilogue::add) y = load_first(out + first, width) + y;
                store_first(out + first, width, y);
            });
        });
    }

  private:
    STEELYARD_INLINE void finish_gated(const QgemmArgs& args, std::size_t r, std::size_t panel, float* out) const {
        const std::size_t first = panel * panel_width;
        const Floats gate = biased(sums[r][0], args, first, panel_width);
        const Floats up = biased(sums[r][P - 1], args, first + panel_width, panel_width);
        store(out, (args.epilogue == Epilogue::silu ? silu(gate) : gelu_tanh(gate)) * up);
    }
    STEELYARD_INLINE float largest_sum(const QgemmArgs& args, std::size_t r, std::size_t panel) const {
        const std::size_t first = panel * panel_width, width = args.weight.num_rows - first;
        const float most = largest_of_first(biased(sums[r][0], args, first, width), width);
        if (P == 1 || width <= panel_width) return most;
        const std::size_t left = width - panel_width;
        const float other = largest_of_first(biased(sums[r][P - 1], args, first + panel_width, left), left);
        return other > most ? other : most;
    }
    static STEELYARD_INLINE Floats biased(Floats sum, const QgemmArgs& args, std::size_t first, std::size_t width) {
        return args.bias ? sum + load_first(args.bias + first, width) : sum;
    }
};

// Calls body with `number`, 1 … most, as a constant.
template <std::size_t most, class Body>
STEELYARD_INLINE void with_rows(std::size_t number, const Body& body) {
    repeat<most>([&](auto i) STEELYARD_INLINE_LAMBDA {
        if (number == i + 1) body(std::integral_constant<std::size_t, i + 1>{});
    });
}

// All blocks of a tile, straight from the packed weights.
template <PackedFormat format, std::size_t R, std::size_t P>
void whole_tile(const QgemmArgs& args, std::size_t panel) {
    Tile<R, P> tile;
    tile.clear();
    const std::size_t num_blocks = args.weight.num_blocks(), panel_bytes = args.weight.panel_bytes();
    const std::uint8_t* weights = args.weight.panel(panel);
    // Memory is asked for the panels after these: each line once, long before it is read.
    const Soon soon{weights + P * panel_bytes, panel_bytes, record_lines(format)};
    tile.template add_blocks<format>(FromPacked<format>{weights, panel_bytes},
                                     {args.rows.row(0), num_blocks, num_blocks, soon});
    tile.finish(args, 0, panel);
}

// At most max_few_rows rows.
template <PackedFormat format>
void few_rows(const QgemmArgs& args, Range panels) {
    with_rows<max_few_rows>(args.rows.num_rows, [&](auto rows) {
        std::size_t panel = panels.begin;
        for (; panel + pair <= panels.end; panel += pair) whole_tile<format, rows, pair>(args, panel);
        if (panel < panels.end) whole_tile<format, rows, 1>(args, panel);
    });
}

// Cuts `size` into as few parts of at most `most` as there can be, alike to within one.
struct Parts {
    std::size_t size, count;
    Parts(std::size_t size, std::size_t most) : size(size), count(ceil_div(size, most)) {}
    Range operator[](std::size_t i) const { return {size * i / count, size * (i + 1) / count}; }
};

template <PackedFormat format, std::size_t R, std::size_t P, class Source>
void run_tile(const QgemmArgs& args, const Source& source, const Operands& operands, Range run, std::size_t row,
              std::size_t panel, float* kept) {
    Tile<R, P> tile;
    if (run.begin == 0) tile.clear();
    else tile.load_from(kept);
    tile.template add_blocks<format>(source, operands);
    if (run.end == args.weight.num_blocks()) tile.finish(args, row, panel);
    else tile.store_to(kept);
}

// One or two panels times a block of rows, a run of blocks after another.
template <PackedFormat format, std::size_t P>
void panels_by_rows(const QgemmArgs& args, std::size_t panel, Range rows) {
    constexpr bool widens = quant_bits(format) == 4;
    alignas(64) std::uint8_t wide[widens ? pair * max_run_blocks * wide_bytes : 1];
    alignas(64) float kept[max_row_block * pair * panel_width];

    const std::size_t num_blocks = args.weight.num_blocks(), panel_bytes = args.weight.panel_bytes();
    const Parts runs(num_blocks, max_run_blocks);
    const Parts tiles(rows.end - rows.begin, max_tile_rows);
    const std::size_t lines_per_block = ceil_div(record_lines(format), tiles.count);
    for (std::size_t i = 0; i < runs.count; ++i) {
        const Range run = runs[i];
        const std::size_t length = run.end - run.begin;
        const FromPacked<format> packed{args.weight.panel(panel) + run.begin * record_bytes(format), panel_bytes};
        for (std::size_t t = 0; t < tiles.count; ++t) {
            const Range tile = tiles[t];
            const std::size_t row = rows.begin + tile.begin;
            const std::size_t asked = t * length * lines_per_block;
            const Soon soon{packed.first + P * panel_bytes + 64 * asked, panel_bytes,
                            asked < length * record_lines(format) ? lines_per_block : 0};
            const Operands operands{args.rows.row(row) + run.begin, num_blocks, length, soon};
            with_rows<max_tile_rows>(tile.end - tile.begin, [&](auto R) {
                const auto multiply = [&](const auto& source) {
                    float* sums = kept + tile.begin * pair * panel_width;
                    run_tile<format, R, P>(args, source, operands, run, row, panel, sums);
                };
                if constexpr (!widens) multiply(packed);
                else if (t == 0) multiply(FromPackedWidening<format>{packed, wide, length * wide_bytes});
                else multiply(FromWidened<format>{wide, length * wide_bytes});
            });
        }
    }
}

template <PackedFormat format>
void many_rows(const QgemmArgs& args, Range panels) {
    const std::size_t row_bytes = args.rows.num_blocks() * sizeof(ActivationBlock);
    const std::size_t fitting = max_row_block_bytes / row_bytes / max_tile_rows * max_tile_rows;
    const std::size_t most = fitting < max_tile_rows ? max_tile_rows : fitting < max_row_block ? fitting : max_row_block;
    const Parts row_blocks(args.rows.num_rows, most);
    for (std::size_t i = 0; i < row_blocks.count; ++i) {
        std::size_t panel = panels.begin;
        for (; panel + pair <= panels.end; panel += pair) panels_by_rows<format, pair>(args, panel, row_blocks[i]);
        if (panel < panels.end) panels_by_rows<format, 1>(args, panel, row_blocks[i]);
    }
}

template <PackedFormat format>
void product(const QgemmArgs& args, Worker worker) {
    const bool few = args.rows.num_rows <= max_few_rows;
    // Single panels balance best, pairs compute best.
    const bool paired = is_gated(args.epilogue) || args.epilogue == Epilogue::largest;
    const std::size_t granule = paired || !few ? pair : 1;
    const Range panels = share(args.weight.num_panels(), worker, granule);
    if (few) few_rows<format>(args, panels);
    else many_rows<format>(args, panels);
}

}  // namespace

void qgemm(const QgemmArgs& args, Worker worker) {
    switch (args.weight.format) {
        case PackedFormat::q4_0: return product<PackedFormat::q4_0>(args, worker);
        case PackedFormat::q4_1: return product<PackedFormat::q4_1>(args, worker);
        case PackedFormat::q4_k: return product<PackedFormat::q4_k>(args, worker);
        case PackedFormat::q8_0: return product<PackedFormat::q8_0>(args, worker);
        case PackedFormat::q8_1: return product<PackedFormat::q8_1>(args, worker);
        case PackedFormat::q8_k: return product<PackedFormat::q8_k>(args, worker);
    }
}

}  // namespace steelyard::STEELYARD_ISA
