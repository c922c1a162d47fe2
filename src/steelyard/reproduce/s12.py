"""S12: predicting run time and power of matrix products on an RTX 4070 from shape and tiling, with a random forest.

The paper's data set is not published whole; what is, one of its partial sets of 16,128 runs, has no licence and is
given with ``--data``. Forests are grown and judged on it in two ways: the paper's (its published program: depth 6,
seconds and watts from sizes, asked tile, operations, bytes, intensity; rows without power left out; values beyond the
1st and 99th percentile clipped; a fifth of the rows held out at random) and ours
(:mod:`steelyard.cost.learned.gemm`). Every size was run 448 times, so a row held out at random has hundreds of twins
among those trained with: how good a predictor is, only sizes held out whole can say. Both are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steelyard.core.errors import InputError
from steelyard.cost.learned.forest import Floats, Ints
from steelyard.cost.learned.gemm import FEATURES, POWER_FILE, SLOWDOWN, TIME_FILE, WATTS, TiledGpu, feature_rows
from steelyard.cost.learned.gpperf import GemmRun, GemmRuns, load_gemm_runs
from steelyard.cost.learned.scores import Fold, Scores, group_folds, row_folds, scores
from steelyard.cost.learned.training import LEARNERS, ForestConfig, grow_forest
from steelyard.hardware.device import Device, DeviceKind, MemoryTier, PeakRate
from steelyard.reproduce.files import write_bytes_atomically
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped

CLAIM = "random forest on the RTX 4070: run time R² 0.98 (mean error 15.57 %), power R² 0.78 (median error 5.42 %)"
CLAIMED_TIME, CLAIMED_POWER = "R² 0.98, error mean 15.57 %", "R² 0.78, error median 5.42 %"
NUM_FOLDS = 6
BUSY = 0.9
"""Share of time that the board was busy, from which on its power is taken to be that of the product."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Runs as arrays.

    Attributes:
        rows: ``[runs, features]``, ours.
        bound_s: ``[runs]``, by shape and tiling.
        roofline_s: ``[runs]``, by operations and bytes alone.
        seconds: ``[runs]``, measured.
        watts: ``[runs]``, measured; NaN where nobody could.
        is_busy: ``[runs]``, whether the power is the product's.
        shapes: ``[runs]``, a number for each (m, n, k).
    """

    rows: Floats
    bound_s: Floats
    roofline_s: Floats
    seconds: Floats
    watts: Floats
    is_busy: np.ndarray[tuple[int], np.dtype[np.bool_]]
    shapes: Ints


def rtx_4070() -> TiledGpu:
    """Return the GPU of the measurements: 46 SMs of 128 lanes at the 2.505 GHz that most runs report, GDDR6X of
    504 GB/s (NVIDIA's data sheet).
    """  # fmt: skip
    memory = MemoryTier(name="GDDR6X", capacity_bytes=12282 << 20, bandwidth_bytes_per_s=504e9)
    peak = PeakRate(dtype="float32", flop_per_s=46 * 128 * 2 * 2.505e9)
    return TiledGpu(
        device=Device(name="RTX 4070", kind=DeviceKind.GPU, memory=(memory,), peaks=(peak,)),
        num_sms=46,
    )


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S12, leave the predictor in ``options.out_dir``, and return the table.

    Raises:
        InputError: if no data are given, or they are not GPPerf's.
    """
    if options.data_dir is None:
        remedy = "Give --data the directory that holds GPPerf's measurements (github.com/pavlyhalim/GPPerf)"
        raise InputError("S12 needs measurements that cannot be shipped", field="data", remedy=remedy)
    found = load_gemm_runs(options.data_dir)
    gpu = rtx_4070()
    table = tabulate(found.runs, gpu)
    config = ForestConfig(num_trees=20 if options.quick else 100, seed=options.seed)
    rows = (
        *data_rows(found, table),
        *paper_rows(found.runs, options.seed),
        *time_rows(table, options.seed),
        *power_rows(table, options.seed),
    )
    paths = save_predictor(options.out_dir, table, config)
    return stamped(
        system="S12",
        claim=CLAIM,
        setup=(
            f"{len(found.runs)} CUTLASS runs of {len(np.unique(table.shapes))} sizes; {NUM_FOLDS} folds; the predictor "
            f"that was trained on all of them is in {' and '.join(map(str, paths))}"
        ),
        rows=rows,
        command=command_line("S12", options),
    )


def tabulate(runs: tuple[GemmRun, ...], gpu: TiledGpu) -> Table:
    """Return the runs as arrays."""
    gemms = [run.gemm for run in runs]
    rate, bandwidth = gpu.device.flop_per_s("float32"), gpu.device.bandwidth_bytes_per_s
    sizes = np.array([(gemm.m, gemm.n, gemm.k) for gemm in gemms])
    return Table(
        rows=feature_rows(gpu, gemms),
        bound_s=np.array([gpu.bound_s(gemm) for gemm in gemms]),
        roofline_s=np.array([max(gemm.flop / rate, gemm.num_bytes / bandwidth) for gemm in gemms]),
        seconds=np.array([run.seconds for run in runs]),
        watts=np.array([np.nan if run.watts is None else run.watts for run in runs]),
        is_busy=np.array([run.watts is not None and run.utilisation >= BUSY for run in runs]),
        shapes=np.unique(sizes, axis=0, return_inverse=True)[1].reshape(-1),
    )


def save_predictor(out_dir: Path, table: Table, config: ForestConfig) -> tuple[Path, ...]:
    """Grow both forests of the predictor on everything that was measured, write them, and return where."""
    slowdown = np.log(table.seconds / table.bound_s)
    busy = table.is_busy
    forests = {
        TIME_FILE: grow_forest(table.rows, slowdown[:, None], FEATURES, [SLOWDOWN], config),
        POWER_FILE: grow_forest(table.rows[busy], table.watts[busy, None], FEATURES, [WATTS], config),
    }
    for name, forest in forests.items():
        write_bytes_atomically(out_dir / name, forest.to_bytes())
    return tuple(out_dir / name for name in forests)


def data_rows(found: GemmRuns, table: Table) -> Iterator[ReproductionRow]:
    """Yield what was read, what was left out, and what the data cannot say."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in found.dropped.items()) or "none left out"
    measured = int(np.isfinite(table.watts).sum())
    busy_shapes = len(np.unique(table.shapes[table.is_busy]))
    yield ReproductionRow(
        claim="16,128 runs", setup="records", ours=f"{len(found.runs)} read, {dropped}; with power {measured}"
    )
    yield ReproductionRow(
        claim="–",
        setup=f"power of a board that was busy for {BUSY:.0%} of the time or more",
        ours=f"{int(table.is_busy.sum())} runs of {busy_shapes} sizes; the other readings are of an idle board",
    )
    kernels, asked = {run.gemm.tile for run in found.runs}, {run.asked_tile for run in found.runs}
    yield ReproductionRow(
        claim="diverse thread block configurations",
        setup="tiles asked for, and of the kernels that ran",
        ours=f"{len(asked)} asked for, {len(kernels)} ran; the tile asked for explains "
        f"{asked_tile_share(found.runs, table):.1%} of what size and layout leave of the time's variance",
    )


def asked_tile_share(runs: tuple[GemmRun, ...], table: Table) -> float:
    """Return how much of the variance of log time within runs of the same product the asked tile explains."""
    logs = np.log(table.seconds)
    products = _numbered([run.gemm for run in runs])
    cells = _numbered([(run.gemm, run.asked_tile) for run in runs])
    within_product = logs - _group_means(logs, products)
    between_tiles = _group_means(logs, cells) - _group_means(logs, products)
    return float(np.sum(between_tiles**2) / np.sum(within_product**2))


def _numbered(keys: list[object]) -> Ints:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _group_means(values: Floats, groups: Ints) -> Floats:
    """Return for each value the mean of its group."""
    means: Floats = np.bincount(groups, weights=values) / np.bincount(groups)
    return means[groups]


def paper_rows(runs: tuple[GemmRun, ...], seed: int) -> Iterator[ReproductionRow]:
    """Yield the paper's forest on runs with power: rows held out at random, then whole sizes."""
    kept = [run for run in runs if run.watts is not None]
    rows, targets = np.array([_paper_features(run) for run in kept]), np.array([(r.seconds, r.watts) for r in kept])
    rows, targets = _clipped(rows), _clipped(targets)
    shapes = _numbered([(run.gemm.m, run.gemm.n, run.gemm.k) for run in kept])
    config = ForestConfig(max_depth=6, seed=seed)
    names = ["m", "n", "k", "tile_m", "tile_n", "tile_k", "intensity", "bytes", "flop"]

    def judged(folds: list[Fold]) -> tuple[Scores, Scores]:
        measured, predicted = [], []
        for fold in folds:
            forest = grow_forest(rows[fold.train], targets[fold.train], names, ["seconds", "watts"], config)
            measured.append(targets[fold.held_out])
            predicted.append(forest.predict(rows[fold.held_out]))
        ours, theirs = np.concatenate(predicted), np.concatenate(measured)
        return scores(theirs[:, 0], ours[:, 0]), scores(theirs[:, 1], ours[:, 1])

    ways = {
        "a fifth of the rows held out": list(row_folds(len(rows), 5, seed))[:1],
        "sizes held out": list(group_folds(shapes, NUM_FOLDS, seed)),
    }
    for way, folds in ways.items():
        time, power = judged(folds)
        quoted = way.startswith("a fifth")
        yield ReproductionRow(
            claim=CLAIMED_TIME if quoted else "–", setup=f"paper's forest, run time, {way}", ours=str(time)
        )
        yield ReproductionRow(
            claim=CLAIMED_POWER if quoted else "–", setup=f"paper's forest, power, {way}", ours=str(power)
        )


def _paper_features(run: GemmRun) -> tuple[float, ...]:
    gemm = run.gemm
    num_bytes = 4.0 * (gemm.m * gemm.k + gemm.k * gemm.n + gemm.m * gemm.n)
    return (gemm.m, gemm.n, gemm.k, *run.asked_tile, gemm.flop / num_bytes, num_bytes, gemm.flop)


def _clipped(columns: Floats) -> Floats:
    low, high = np.quantile(columns, (0.01, 0.99), axis=0)
    return np.clip(columns, low, high)


def time_rows(table: Table, seed: int) -> Iterator[ReproductionRow]:
    """Yield run time by bounds alone and by every learner, on all runs; ratios are of mean errors to the roofline's."""
    ways = {
        "rows": list(row_folds(len(table.seconds), NUM_FOLDS, seed)),
        "sizes": list(group_folds(table.shapes, NUM_FOLDS, seed)),
    }
    target = np.log(table.seconds / table.bound_s)
    roofline = scores(table.seconds, table.roofline_s)
    yield ReproductionRow(claim="–", setup="run time, roofline, nothing learned", ours=str(roofline))
    for way, folds in ways.items():
        bound = scores(*_over_folds(folds, table.seconds, lambda fold: _scaled_bound(table, fold)))
        yield ReproductionRow(
            claim="–", setup=f"run time, rounds of tiles × one factor, {way} held out", ours=str(bound)
        )
        for name, learner in LEARNERS.items():

            def predicted(fold: Fold, learner: Callable[..., Callable[[Floats], Floats]] = learner) -> Floats:
                predict = learner(table.rows[fold.train], target[fold.train], seed)
                return table.bound_s[fold.held_out] * np.exp(predict(table.rows[fold.held_out]))

            found = scores(*_over_folds(folds, table.seconds, predicted))
            yield ReproductionRow(
                claim=CLAIMED_TIME if name == "random forest" and way == "rows" else "–",
                setup=f"run time, {name}, {way} held out",
                ours=str(found),
                ratio=roofline.mean_error / found.mean_error,
            )


def _scaled_bound(table: Table, fold: Fold) -> Floats:
    factor = np.exp(np.median(np.log(table.seconds[fold.train] / table.bound_s[fold.train])))
    scaled: Floats = factor * table.bound_s[fold.held_out]
    return scaled


def power_rows(table: Table, seed: int) -> Iterator[ReproductionRow]:
    """Yield the board's power by every learner, on runs whose power is the product's."""
    busy = np.flatnonzero(table.is_busy)
    rows, watts, shapes = table.rows[busy], table.watts[busy], table.shapes[busy]
    ways = {
        "rows": list(row_folds(len(watts), NUM_FOLDS, seed)),
        "sizes": list(group_folds(shapes, len(np.unique(shapes)), seed)),
    }
    for way, folds in ways.items():
        for name, learner in LEARNERS.items():

            def predicted(fold: Fold, learner: Callable[..., Callable[[Floats], Floats]] = learner) -> Floats:
                return learner(rows[fold.train], watts[fold.train], seed)(rows[fold.held_out])

            found = scores(*_over_folds(folds, watts, predicted))
            yield ReproductionRow(
                claim=CLAIMED_POWER if name == "random forest" and way == "rows" else "–",
                setup=f"power, {name}, {way} held out",
                ours=str(found),
            )


def _over_folds(folds: list[Fold], measured: Floats, predicted: Callable[[Fold], Floats]) -> tuple[Floats, Floats]:
    """Return measured and predicted values of everything held out."""
    parts = [(measured[fold.held_out], predicted(fold)) for fold in folds]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
