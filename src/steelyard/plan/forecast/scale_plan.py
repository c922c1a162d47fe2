"""How many replicas to run over the next hours, and why: :func:`plan_scale` (S27).

The last part of a load's history is held out: a forecaster that saw only what is before says there what may come, and
its errors stand beside those of repeating what was. The scaling policy is led through the same part step by step, so
that it learns how far to trust the forecast. Then the forecaster is fitted to the whole history, and the policy decides
each step of the time ahead. A decision looks as far ahead as a replica takes to start: what is stopped now cannot stand
again before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from steelyard.core.errors import InputError, ParamsError
from steelyard.plan.forecast.history import History
from steelyard.plan.forecast.named import NAIVE, SEASONAL, make_forecaster
from steelyard.plan.forecast.replay import ScalingCost, replay, standing
from steelyard.plan.forecast.scores import QUANTILES, ForecastScores, coverage, forecast_scores
from steelyard.plan.forecast.series import Floats, Ints, Series, scale_series
from steelyard.plan.forecast.types import FitRequest, Forecaster, Task
from steelyard.policies.scale import make_scale_policy
from steelyard.policies.scale.expected_cost import ExpectedCostPolicy, make_expected_cost
from steelyard.policies.scale.types import Limits, ScalePolicy, ScaleView

REACTIVE = "reactive"
_HELD_SHARE = 0.2
_MOST_REPLAYED = 500
_LEAST_HELD = 2
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleJob:
    """What to plan.

    Attributes:
        history: of the load.
        unit: the load that one replica serves.
        forecaster: a name of :data:`~steelyard.plan.forecast.named.FORECASTERS`.
        policy: a name of :data:`~steelyard.policies.scale.SCALE_POLICIES`.
        horizon: steps to plan for.
        context: steps that a forecaster may look back.
        season_s: after which things repeat.
        cold_start_s: that a replica takes to start.
        idle_cost: of a replica that is not needed, per step.
        missing_cost: of a replica that is needed and not there, per step.
        limits: on the number of replicas.
        num_running: replicas that stand now; ``None`` for as many as are decided first.
        num_futures: to draw.
        seed: of everything random.

    Raises:
        ParamsError: if a number is out of range.
    """

    history: History
    unit: float
    forecaster: str = "harmony"
    policy: str = "expected_cost"
    horizon: int = 12
    context: int = 72
    season_s: float = _DAY_S
    cold_start_s: float = 0.0
    idle_cost: float = 1.0
    missing_cost: float = 10.0
    limits: Limits = field(default_factory=Limits)
    num_running: int | None = None
    num_futures: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("unit", "season_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ParamsError(f"{getattr(self, name):g} is not above 0", field=name, remedy="Give more than 0")
        if not 0 <= self.cold_start_s < math.inf:
            raise ParamsError(f"{self.cold_start_s:g} s is no time", field="cold_start", remedy="Give 0 or more")
        for name in ("horizon", "context"):
            if getattr(self, name) < 1:
                raise ParamsError(f"{getattr(self, name)} steps are too few", field=name, remedy="Give at least one")

    @property
    def cold_steps(self) -> int:
        """Steps that a replica takes to start."""
        return math.ceil(self.cold_start_s / self.history.raw.step_s - 1e-9)

    @property
    def season(self) -> int:
        """Steps after which things repeat."""
        return max(1, round(self.season_s / self.history.raw.step_s))

    @property
    def task(self) -> Task:
        """What a forecaster is asked: as far ahead as the last decision looks."""
        horizon = self.horizon + self.cold_steps
        return Task(context=self.context, horizon=horizon, num_futures=self.num_futures, seed=self.seed)

    def make_policy(self) -> ScalePolicy:
        """Return the policy that decides."""
        if self.policy == "expected_cost":
            return self.make_judge()
        return make_scale_policy(self.policy, min_replicas=self.limits.least, max_replicas=self.limits.most)

    def make_judge(self) -> ExpectedCostPolicy:
        """Return the policy that says what numbers are expected to cost."""
        return make_expected_cost(
            idle_cost=self.idle_cost,
            missing_cost=self.missing_cost,
            min_replicas=self.limits.least,
            max_replicas=self.limits.most,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How good a forecaster was on what was held out.

    Attributes:
        scores: errors, in the load's unit.
        covered: share of what came at or below each of :data:`~steelyard.plan.forecast.scores.QUANTILES`.
    """

    scores: ForecastScores
    covered: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One step of the time ahead.

    Attributes:
        at_s: when it begins, seconds since 1970.
        load: the forecast's :data:`~steelyard.plan.forecast.scores.QUANTILES`, in the load's unit.
        replicas: to have by then, standing or starting.
        standing: of them.
        short_share: of the possible futures in which those are too few.
        cost: expected per step of as far as the decision looks, by costs per replica.
        cost_fewer: likewise with one replica fewer; ``None`` if there is none.
        cost_more: likewise with one more.
    """

    at_s: float
    load: tuple[float, ...]
    replicas: int
    standing: int
    short_share: float
    cost: float
    cost_fewer: float | None
    cost_more: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePlan:
    """What to run, and how far to trust it.

    Attributes:
        job: what was planned.
        num_held: steps that were held out.
        judged: forecasters by name, the job's first.
        scaled: what scaling would have cost over the last of those steps: the job's policy, then following demand.
        level: quantile of the forecast that expected cost asks for now.
        wanted: that it would ask for if every forecast had been right.
        steps: of the time ahead.
    """

    job: ScaleJob
    num_held: int
    judged: Mapping[str, Judged]
    scaled: tuple[ScalingCost, ScalingCost]
    level: float
    wanted: float
    steps: tuple[PlannedStep, ...]


def plan_scale(job: ScaleJob, tell: Callable[[str], None] = lambda now: None) -> ScalePlan:
    """Return how many replicas to run.

    Args:
        job: what to plan.
        tell: is told what is going on.

    Raises:
        InputError: if the history is too short, or a name is not known.
    """
    raw, task = job.history.raw, job.task
    num_train = _check_length(job)
    tell(f"fitting {job.forecaster} to {num_train:,} steps")
    past = scale_series(raw, num_train, task.horizon)
    fitted = _fitted(job, past)
    tell("judging it on what was held out")
    judged = {name: _judged(one, past, task.horizon) for name, one in fitted.items()}
    policy, judge = job.make_policy(), job.make_judge()
    seen = _futures(fitted[job.forecaster], past, _replayed(past), job)
    scaled = [_scaled(job, one, past, seen) for one in (policy, judge, make_follower(job))]
    tell(f"fitting {job.forecaster} to all {len(raw.values):,} steps")
    whole = scale_series(raw, len(raw.values), task.horizon)
    ahead = _futures(make_forecaster(job.forecaster, _request(job, whole)), whole, np.array([len(raw.values)]), job)[0]
    steps = _steps(job, policy, judge, ahead)
    return ScalePlan(
        job=job,
        num_held=len(raw.values) - num_train,
        judged=judged,
        scaled=(scaled[0], scaled[2]),
        level=judge.level,
        wanted=job.missing_cost / (job.missing_cost + job.idle_cost),
        steps=steps,
    )


def make_follower(job: ScaleJob) -> ScalePolicy:
    """Return the policy that follows demand, to compare with."""
    return make_scale_policy(REACTIVE, min_replicas=job.limits.least, max_replicas=job.limits.most)


def _check_length(job: ScaleJob) -> int:
    """Return how many steps may be learnt from."""
    num, task = len(job.history.raw.values), job.task
    needed = math.ceil(max(task.context + 10 * task.horizon, _LEAST_HELD * task.horizon / _HELD_SHARE))
    if num < needed:
        problem = f"{num} steps are too few to look back {task.context} and ahead {task.horizon}"
        remedy = f"Give at least {needed} steps, or a shorter --context, --horizon or --cold-start"
        raise InputError(problem, field="history", remedy=remedy)
    return int((1 - _HELD_SHARE) * num)


def _request(job: ScaleJob, series: Series) -> FitRequest:
    return FitRequest(series=series, indicators=job.history.raw.indicators, task=job.task, season=job.season)


def _fitted(job: ScaleJob, past: Series) -> dict[str, Forecaster]:
    """Return the job's forecaster and those that repeat what was, as far as the history allows."""
    asked = _request(job, past)
    has_season = job.task.horizon <= job.season <= past.num_train - job.task.horizon
    others = [NAIVE, *([SEASONAL] if has_season else [])]
    return {name: make_forecaster(name, asked) for name in dict.fromkeys([job.forecaster, *others])}


def _judged(forecaster: Forecaster, past: Series, horizon: int) -> Judged:
    starts = np.arange(past.num_train, len(past.load) - horizon + 1, horizon)
    drawn = past.to_load(forecaster.draw(past, starts))
    came = past.load[starts[:, None] + np.arange(horizon)]
    return Judged(scores=forecast_scores(drawn, came), covered=coverage(drawn, came))


def _replayed(past: Series) -> Ints:
    """Return the held-out steps that policies are led through."""
    num = len(past.load)
    return np.arange(max(past.num_train, num - _MOST_REPLAYED), num)


def _futures(forecaster: Forecaster, series: Series, starts: Ints, job: ScaleJob) -> Floats:
    """Return possible futures, ``[starts, futures, steps ahead]``, in replicas."""
    drawn: Floats = series.to_load(forecaster.draw(series, starts)) / job.unit
    return drawn


def _scaled(job: ScaleJob, policy: ScalePolicy, past: Series, futures: Floats) -> ScalingCost:
    """Return what a policy would have cost; it has seen the history then."""
    starts, demand = _replayed(past), past.load / job.unit
    before = demand[starts[0] - 1 : starts[0]]
    return replay(policy, before, demand[starts][:, None], futures[:, :, : job.cold_steps + 1], job.cold_steps)


def _steps(job: ScaleJob, policy: ScalePolicy, judge: ExpectedCostPolicy, ahead: Floats) -> tuple[PlannedStep, ...]:
    """Decide each step by ``ahead``, ``[futures, steps ahead]``, in replicas."""
    views, paid = [], [job.num_running or 0]
    newest = (float(job.history.raw.values[-1, 0] / job.unit),)
    for step in range(job.horizon):
        forecast = tuple(map(tuple, ahead[:, step : step + job.cold_steps + 1].tolist()))
        views.append(ScaleView(num_replicas=paid[-1], demands=newest if step == 0 else (), forecast=forecast))
        judge.decide(views[-1])
        paid.append(policy.decide(views[-1]))
    stand = standing(np.array(paid[1:]), job.cold_steps, paid[1] if job.num_running is None else job.num_running)
    short = (np.ceil(ahead[:, : job.horizon]) > stand).mean(axis=0)
    load = np.quantile(ahead * job.unit, QUANTILES, axis=0).T
    return tuple(
        PlannedStep(
            at_s=job.history.end_s + step * job.history.raw.step_s,
            load=tuple(load[step].tolist()),
            replicas=count,
            standing=int(stand[step]),
            short_share=float(short[step]),
            cost=judge.expected_cost(view.forecast, count),
            cost_fewer=judge.expected_cost(view.forecast, count - 1) if count else None,
            cost_more=judge.expected_cost(view.forecast, count + 1),
        )
        for step, (view, count) in enumerate(zip(views, paid[1:], strict=True))
    )
