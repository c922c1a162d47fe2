"""S27 HARMONY: forecasts by hierarchical attention with a normalising flow, and Bayesian scaling decisions by them.

Ten containers of a month, eleven indicators every ten minutes (without a licence, so given with ``--data``). The last
fifth is held out; every hour forecasts the next. All forecasters give possible futures, so all of them can be scored as
distributions and can drive the same decision by expected cost. The hours that the paper saved were those of its own
cloud and cannot be had again; what can be compared is what scaling would have cost on this data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.core.errors import InputError
from steelyard.plan.forecast.baselines import StateSpaceForecaster
from steelyard.plan.forecast.deep_ar import train_recurrent
from steelyard.plan.forecast.harmony import HarmonyConfig, train_harmony
from steelyard.plan.forecast.repeat import RepeatForecaster
from steelyard.plan.forecast.replay import NOTHING, ScalingCost, replay
from steelyard.plan.forecast.scores import ForecastScores, crps, forecast_scores
from steelyard.plan.forecast.series import (
    TARGET,
    Floats,
    Ints,
    RawSeries,
    Series,
    load_containers,
    origins,
    scale_series,
)
from steelyard.plan.forecast.training import TrainingConfig
from steelyard.plan.forecast.types import Forecaster, Task
from steelyard.policies.scale import make_scale_policy
from steelyard.policies.scale.types import ScalePolicy
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped
from steelyard.reproduce.s27_simulated import HALF_A_DAY, QUICK_STEPS, simulated_rows

CLAIM = "best of ten methods on four data sets; 35,000 GPU hours saved in a month of deployment"
PUBLISHED_CRPS = 0.0995
"""Mean over ten containers in the published result file, at a context of 72 steps: all indicators, min–max scaled."""
TRAIN_SHARE = 0.8
DAY = 144
USUAL_REPLICAS = 4.0
"""Replicas that the mean load of training keeps busy, which says how much load one serves."""
IDLE_COST, MISSING_COST = 1.0, 10.0
STEPS_PER_HOUR = 6
HARMONY, NAIVE = "HARMONY", "last value"
REACTIVE, ADAPTIVE = "following demand, 80 % busy", "expected cost, HARMONY, adaptive"


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A series with what is held out of it.

    Attributes:
        starts: ``[origins]``.
        came: ``[origins, horizon]``, load.
    """

    series: Series
    starts: Ints
    came: Floats

    @property
    def unit(self) -> float:
        """The load that one replica serves."""
        return max(float(self.series.load[: self.series.num_train].mean()), 1e-9) / USUAL_REPLICAS


Futures = list[Floats]
"""One array per series: ``[origins, futures, horizon]``, load."""


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S27 and return its table.

    Raises:
        InputError: if no data are given, or they are not HARMONY's containers.
    """
    if options.data_dir is None:
        remedy = "Give --data the directory that holds HARMONY's containers (github.com/Floating-LY/HARMONY1)"
        raise InputError("S27 needs measurements that cannot be shipped", field="data", remedy=remedy)
    raw = load_containers(options.data_dir)
    task = Task(seed=options.seed)
    held = [hold_out(one, task) for one in raw]
    training = TrainingConfig(num_epochs=1, stride=6) if options.quick else TrainingConfig()
    forecasters = train_all([one.series for one in held], raw[0].indicators, task, training)
    drawn = {name: futures_of(forecaster, held) for name, forecaster in forecasters.items()}
    return stamped(
        system="S27",
        claim=CLAIM,
        setup=(
            f"{len(held)} containers, {len(raw[0].indicators)} indicators, {raw[0].step_s / 60:g}-minute steps; last "
            f"{1 - TRAIN_SHARE:.0%} held out: {sum(len(one.starts) for one in held)} origins, {task.horizon} steps "
            "ahead; geometric means over containers: errors and ratios of forecasts relative to repeating the last "
            f"value, ratios of scaling relative to following demand; a missing replica costs {MISSING_COST:g} idle "
            "ones; simulated: ratio of replica hours"
        ),
        rows=(
            *forecast_rows(held, drawn),
            published_row(held, drawn),
            *scaling_rows(held, drawn),
            *simulated_rows(raw, options.seed, QUICK_STEPS if options.quick else HALF_A_DAY),
        ),
        command=command_line("S27", options),
    )


def hold_out(raw: RawSeries, task: Task) -> Held:
    """Return a series on the forecasters' scale, and origins one horizon apart in its last part."""
    series = scale_series(raw, int(TRAIN_SHARE * len(raw.values)))
    starts = origins(series, series.num_train, task.horizon, task.horizon)
    return Held(series, starts, series.load[starts[:, None] + np.arange(task.horizon)])


def train_all(
    many: list[Series], indicators: Sequence[str], task: Task, training: TrainingConfig
) -> dict[str, Forecaster]:
    """Return all forecasters, trained; HARMONY also without its flow, and without the other indicators."""
    gaussian = HarmonyConfig(num_transforms=0)
    return {
        NAIVE: RepeatForecaster(task),
        "the day before": RepeatForecaster(task, DAY),
        "exponential smoothing": StateSpaceForecaster(task, "ets"),
        "ARIMA(2,1,2)": StateSpaceForecaster(task, "arima"),
        "recurrent, Student-t (DeepAR-like)": train_recurrent(many, task, training),
        HARMONY: train_harmony(many, indicators, task, training=training),
        "HARMONY, Gaussian": train_harmony(many, indicators, task, gaussian, training),
        "HARMONY, load alone": train_harmony(many, indicators, task, training=training, only=[TARGET]),
    }


def futures_of(forecaster: Forecaster, held: list[Held]) -> Futures:
    """Return what a forecaster draws at all origins, as load."""
    return [one.series.to_load(forecaster.draw(one.series, one.starts)) for one in held]


def forecast_rows(held: list[Held], drawn: dict[str, Futures]) -> Iterator[ReproductionRow]:
    """Yield each forecaster's errors over those of repeating the last value."""
    found = {name: _scores(held, futures) for name, futures in drawn.items()}
    naive = found[NAIVE]
    for name, scores in found.items():
        mae, rmse, crps_, pinball = (
            _mean_ratio([getattr(one, error) for one in scores], [getattr(one, error) for one in naive])
            for error in ("mae", "rmse", "crps", "quantile_loss")
        )
        yield ReproductionRow(
            claim="best of ten" if name == HARMONY else "–",
            setup=f"forecast, {name}",
            ours=f"MAE {mae:.3f}, RMSE {rmse:.3f}, CRPS {crps_:.3f}, quantile loss {pinball:.3f}; "
            f"{np.mean([one.covered for one in scores]):.0%} at or below the 90 % quantile",
            ratio=1 / crps_,
        )


def _scores(held: list[Held], futures: Futures) -> list[ForecastScores]:
    return [forecast_scores(drawn, one.came) for one, drawn in zip(held, futures, strict=True)]


def _mean_ratio(errors: list[float], others: list[float]) -> float:
    return math.exp(np.mean([math.log(one / other) for one, other in zip(errors, others, strict=True)]))


def published_row(held: list[Held], drawn: dict[str, Futures]) -> ReproductionRow:
    """Return the CRPS on the published scale, which is yet another question."""

    def scaled(futures: Futures) -> float:
        spans = [np.ptp(one.series.load[: one.series.num_train]) for one in held]
        return float(
            np.mean([crps(d, one.came).mean() / span for d, one, span in zip(futures, held, spans, strict=True)])
        )

    return ReproductionRow(
        claim=f"CRPS {PUBLISHED_CRPS} (all indicators, horizon not stated)",
        setup="CRPS of min–max scaled load, not comparable",
        ours=f"HARMONY {scaled(drawn[HARMONY]):.4f}, last value {scaled(drawn[NAIVE]):.4f}",
    )


def scaling_rows(held: list[Held], drawn: dict[str, Futures]) -> Iterator[ReproductionRow]:
    """Yield what scaling by each rule and forecast would have cost, beside following demand."""
    found = {name: replayed(held, make, drawn.get(who)) for name, (make, who) in _ways(drawn).items()}
    costs = {name: [one.cost(IDLE_COST, MISSING_COST) for one in several] for name, several in found.items()}
    for name, several in found.items():
        total, ratio = sum(several, NOTHING), _mean_ratio(costs[name], costs[REACTIVE])
        yield ReproductionRow(
            claim="35,000 GPU hours saved" if name == ADAPTIVE else "–",
            setup=f"scaling, {name}",
            ours=f"replica hours idle {total.idle / STEPS_PER_HOUR:,.0f}, missing "
            f"{total.missing / STEPS_PER_HOUR:,.0f}; short on {total.num_short_steps / total.num_steps:.1%} of steps; "
            f"costs {ratio:.2f} of following demand",
            ratio=1 / ratio,
        )


Way = tuple[Callable[[Held], ScalePolicy], str]
"""What makes a policy for a series, and whose forecast it sees (a name that draws nothing: none)."""


def _ways(drawn: dict[str, Futures]) -> dict[str, Way]:
    """Return all ways to scale."""

    def by_cost(prior_weight: float | None, missing_cost: float = MISSING_COST) -> Callable[[Held], ScalePolicy]:
        options = {"idle_cost": IDLE_COST, "missing_cost": missing_cost, "prior_weight": prior_weight}
        return lambda one: make_scale_policy("expected_cost", **options, min_replicas=0)

    ways: dict[str, Way] = {
        REACTIVE: (lambda one: make_scale_policy("reactive", min_replicas=0), ""),
        "fixed, the quantile of training": (_fixed, ""),
        f"median of {HARMONY}": (by_cost(None, IDLE_COST), HARMONY),
        ADAPTIVE: (by_cost(200.0), HARMONY),
    }
    return ways | {f"expected cost, {name}": (by_cost(None), name) for name in drawn}


def _fixed(one: Held) -> ScalePolicy:
    """Return the policy that always holds what would have been cheapest in training."""
    demands = one.series.load[: one.series.num_train] / one.unit
    count = math.ceil(np.quantile(demands, MISSING_COST / (MISSING_COST + IDLE_COST)))
    return make_scale_policy("reactive", min_replicas=count, max_replicas=count)


def replayed(
    held: list[Held], make_policy: Callable[[Held], ScalePolicy], futures: Futures | None
) -> list[ScalingCost]:
    """Return what scaling each series by a policy of its own would have cost."""
    found = []
    for place, one in enumerate(held):
        horizon = one.came.shape[1]
        before = one.series.load[one.starts[0] - horizon : one.starts[0]]
        shown = None if futures is None else futures[place] / one.unit
        found.append(replay(make_policy(one), before / one.unit, one.came / one.unit, shown))
    return found
