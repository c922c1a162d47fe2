"""How many servers may share a power budget that was made for fewer: :func:`plan_power` (S17, POLCA).

A row's budget is what its servers are rated at. They seldom draw that, so more may be added, until the power comes too
near to the budget too often: then clocks are lowered, of low priority first, and answers take longer. Rows of rising
size are simulated with the load per server that the first row had, once without caps and once with each policy that is
asked about; the largest row counts that never brakes and whose answers are not later than they may be.

Half of the servers (or another share) and their requests are of high priority. Hosts draw the same all along. How a
server's power follows its work and its clock is :mod:`steelyard.cost.power`'s matter, and rests on few measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from steelyard.core.errors import InputError, ParamsError
from steelyard.cost.estimate import StepModel
from steelyard.engine.config import EngineConfig
from steelyard.sim.cluster import Cluster, ReplicaGroup
from steelyard.sim.conditions import PowerBudget, Priority
from steelyard.sim.result import PowerRecord, SimulationResult, spread
from steelyard.sim.simulate import SimulationOptions, simulate
from steelyard.sim.traces.synthetic import Lengths, SyntheticConfig, synthetic_trace
from steelyard.sim.traces.types import Trace, ordered_trace

FREE = PowerBudget(watts=1.0, policy="none", brake_clock_share=1.0)
"""A budget that is looked at and not kept to."""

_NUM_TRIES, _NEAR = 6, 0.005
_FIRST_RATE_PER_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server of the row; all are alike.

    Attributes:
        steps: what a step takes and draws, at any clock.
        engine: its limits and sizes.
        idle_watts: of its devices between steps.
        host_watts: of all else, all along.
        rated_watts: that the row's budget has for it.
    """

    steps: StepModel
    engine: EngineConfig
    idle_watts: float
    host_watts: float
    rated_watts: float

    @property
    def idle_share(self) -> float:
        """Of what it is rated at, when it does nothing."""
        return (self.idle_watts + self.host_watts) / self.rated_watts


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What comes to each server.

    Attributes:
        lengths: of prompts and answers.
        duration_s: of a day in small: the rate is lowest at its ends and highest in its middle.
        swing: by which the rate goes up and down, as a share of its mean.
        rate_per_s: mean, per server; ``None`` for the rate at which the row that fits the budget has its highest power
            at ``peak_share``.
        peak_share: of the budget.
    """

    lengths: Lengths
    duration_s: float = 600.0
    swing: float = 0.3
    rate_per_s: float | None = None
    peak_share: float = 0.79


@dataclass(frozen=True, slots=True, kw_only=True)
class LossLimits:
    """By how much answers may be later than without caps, as shares of their times: the median's and the 99th
    percentile's.

    The defaults are the paper's as we remember them, without having it at hand.
    """

    high: tuple[float, float] = (0.01, 0.05)
    low: tuple[float, float] = (0.05, 0.50)

    def of(self, priority: Priority) -> tuple[float, float]:
        """Return those of a priority."""
        return self.high if priority is Priority.HIGH else self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerJob:
    """What to plan.

    Attributes:
        server: of which the row has many.
        num_servers: that the budget was made for.
        load: of each server.
        high_share: of the servers, those of high priority.
        budget: policy and delays; its watts are the row's, whatever they say.
        limits: on what answers may lose.
        added: shares of servers to add, ascending.
        seed: of all that is drawn.

    Raises:
        ParamsError: if a value is out of range.
    """

    server: Server
    num_servers: int
    load: Load
    high_share: float = 0.5
    budget: PowerBudget = field(default_factory=lambda: PowerBudget(watts=1.0))
    limits: LossLimits = field(default_factory=LossLimits)
    added: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_servers < 2:
            raise ParamsError(f"{self.num_servers} are no row", field="servers", remedy="Give at least 2")
        if not 0 < self.high_share < 1:
            problem = f"{self.high_share:g} leaves one priority without servers"
            raise ParamsError(problem, field="high_share", remedy="Give a number between 0 and 1")
        if not self.added or any(share < 0 for share in self.added) or list(self.added) != sorted(set(self.added)):
            raise ParamsError(f"{list(self.added)} do not rise", field="added", remedy="Give shares from 0 on, rising")

    @property
    def watts(self) -> float:
        """Of the budget."""
        return self.num_servers * self.server.rated_watts

    def counts(self) -> list[int]:
        """Return the numbers of servers to try, rising."""
        return sorted({round(self.num_servers * (1.0 + share)) for share in self.added})

    def sizes(self, count: int) -> dict[Priority, int]:
        """Return how many of so many servers are of each priority."""
        high = min(count - 1, max(1, round(count * self.high_share)))
        return {Priority.LOW: count - high, Priority.HIGH: high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of one size under one policy.

    Attributes:
        num_servers: of the row.
        added: share of them beyond those that the budget was made for.
        policy: that kept the budget.
        power: how it did.
        losses: by how much answers took longer than without caps, by priority: the median's and the 99th percentile's
            time over what it would be, less one.
        requests_per_s: answered.
    """

    num_servers: int
    added: float
    policy: str
    power: PowerRecord
    losses: Mapping[Priority, tuple[float, float]]
    requests_per_s: float

    def broken(self, limits: LossLimits) -> str | None:
        """Return which limit it breaks, in words; ``None`` if it breaks none."""
        if self.power.num_brakes:
            return f"it brakes {self.power.num_brakes} times"
        for priority in (Priority.HIGH, Priority.LOW):
            for what, loss, limit in zip(("median", "P99"), self.losses[priority], limits.of(priority), strict=True):
                if loss > limit:
                    return f"the {what} of {priority} priority is {loss:.1%} later, more than {limit:.0%}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerPlan:
    """What came of it.

    Attributes:
        job: what was asked.
        rate_per_s: of requests to each server, on average.
        rows: under the job's policy, rising; the last is the first that breaks a limit, or the largest.
        others: under the other policies that were asked about, with as many servers as the best row.
    """

    job: PowerJob
    rate_per_s: float
    rows: Sequence[Row]
    others: Sequence[Row]

    @property
    def best(self) -> Row | None:
        """The largest row that breaks no limit; ``None`` if even the smallest does."""
        good = [row for row in self.rows if row.broken(self.job.limits) is None]
        return good[-1] if good else None


def plan_power(job: PowerJob, others: Sequence[str] = (), tell: Callable[[str], None] = lambda _: None) -> PowerPlan:
    """Return how many servers may be added.

    Args:
        job: what to plan.
        others: capping policies to show beside the job's own.
        tell: is told what is simulated next.

    Raises:
        ParamsError: if a policy is unknown.
        InputError: if no load brings the row to the power that was asked for.
    """
    study = _Study(job, tell)
    rows: list[Row] = []
    for num_servers in job.counts():
        rows.append(study.row(num_servers, job.budget))
        if rows[-1].broken(job.limits) is not None:
            break
    plan = PowerPlan(job=job, rate_per_s=study.rate_per_s, rows=rows, others=())
    at = rows[0].num_servers if plan.best is None else plan.best.num_servers
    budgets = [replace(job.budget, policy=name, options={}) for name in others if name != job.budget.policy]
    return replace(plan, others=[study.row(at, budget) for budget in budgets])


class _Study:
    def __init__(self, job: PowerJob, tell: Callable[[str], None]) -> None:
        self._job, self._tell = job, tell
        self._free: dict[int, SimulationResult] = {}

    @cached_property
    def rate_per_s(self) -> float:
        """Of requests to each server, as given or as found."""
        return self._job.load.rate_per_s or self._rate_of_peak()

    def row(self, num_servers: int, budget: PowerBudget) -> Row:
        """Return the row of a size under a budget, beside the same row without."""
        rate = self.rate_per_s
        if num_servers not in self._free:
            self._free[num_servers] = self._simulated(num_servers, FREE, rate)
        free, result = self._free[num_servers], self._simulated(num_servers, budget, rate)
        assert result.power is not None
        return Row(
            num_servers=num_servers,
            added=num_servers / self._job.num_servers - 1.0,
            policy=budget.policy,
            power=result.power,
            losses={priority: _loss(result, free, priority) for priority in Priority},
            requests_per_s=result.summary().requests_per_s,
        )

    def _simulated(self, num_servers: int, budget: PowerBudget, rate_per_s: float) -> SimulationResult:
        sizes = self._job.sizes(num_servers)
        self._tell(f"{num_servers} servers, {'no caps' if budget is FREE else budget.policy}")
        server = self._job.server
        groups = tuple(
            ReplicaGroup(
                name=priority.value,
                count=count,
                steps=server.steps,
                engine=server.engine,
                idle_watts=server.idle_watts,
                host_watts=server.host_watts,
                priority=priority,
            )
            for priority, count in sizes.items()
        )
        cluster = Cluster(groups=groups, power=replace(budget, watts=self._job.watts))
        return simulate(cluster, self._trace(sizes, rate_per_s), SimulationOptions(seed=self._job.seed, num_samples=1))

    def _trace(self, sizes: Mapping[Priority, int], rate_per_s: float) -> Trace:
        load, seed = self._job.load, self._job.seed
        options = {"swing": load.swing, "period": load.duration_s}
        drawn = {
            priority: synthetic_trace(
                SyntheticConfig(
                    arrivals="diurnal", rate=rate_per_s * count, duration_s=load.duration_s, options=options
                ),
                load.lengths,
                seed=2 * seed + index,
            )
            for index, (priority, count) in enumerate(sizes.items())
        }
        requests = [one._replace(tenant=name.value) for name, trace in drawn.items() for one in trace.requests]
        return ordered_trace("a day in small", sorted(requests, key=lambda one: one.arrival_s))

    def _rate_of_peak(self) -> float:
        """Return the rate at which the row that fits comes nearest to the wanted peak, of some that are tried.

        Between two rates power is taken to grow evenly. A peak is one of a few hundred looks, and so a little noisy.
        """
        wanted, idle = self._job.load.peak_share, self._job.server.idle_share
        if not idle < wanted < 1:
            problem = f"the row draws {idle:.0%} of its budget when it does nothing"
            raise InputError(problem, field="peak_share", remedy=f"Give a share between {idle:.2f} and 1")
        below, above, tried = (idle, 0.0), None, list[tuple[float, float]]()
        rate = _FIRST_RATE_PER_S
        for _ in range(_NUM_TRIES):
            power = self._simulated(self._job.num_servers, FREE, rate).power
            assert power is not None
            tried.append((power.peak_share, rate))
            if abs(power.peak_share - wanted) < _NEAR:
                break
            if power.peak_share < wanted:
                below = (power.peak_share, rate)
            else:
                above = (power.peak_share, rate)
            rate = _between(below, above, wanted) if above is not None else 2.0 * rate
        return min(tried, key=lambda one: abs(one[0] - wanted))[1]


def _between(below: tuple[float, float], above: tuple[float, float], wanted: float) -> float:
    """Return the rate at which the line through two points (share, rate) has the wanted share; not near their ends."""
    part = (wanted - below[0]) / (above[0] - below[0])
    return below[1] + min(0.9, max(0.1, part)) * (above[1] - below[1])


def _loss(result: SimulationResult, free: SimulationResult, priority: Priority) -> tuple[float, float]:
    capped, full = (
        spread(one.e2e_s for one in some.requests if one.tenant == priority.value) for some in (result, free)
    )
    if capped.p50 is None or capped.p99 is None or full.p50 is None or full.p99 is None:
        problem = f"no request of {priority} priority was answered"
        raise InputError(problem, field="load", remedy="Give a higher rate, or a longer day")
    return capped.p50 / full.p50 - 1.0, capped.p99 / full.p99 - 1.0


def power_reasons(plan: PowerPlan) -> list[str]:
    """Return why the plan is as it is, in sentences."""
    job, best = plan.job, plan.best
    reasons = [
        f"The budget of {job.watts / 1e3:,.1f} kW was made for {job.num_servers} servers of "
        f"{job.server.rated_watts / 1e3:g} kW; each is sent {plan.rate_per_s:.3g} requests/s on average."
    ]
    last = plan.rows[-1]
    broken = last.broken(job.limits)
    if best is None:
        reasons.append(f"Not even {last.num_servers} servers are possible: {broken}. Send them less, or cap sooner.")
    elif broken is None:
        reasons.append(f"No limit is reached with {last.num_servers} servers; larger rows were not asked about.")
    else:
        reasons.append(f"{last.num_servers} servers are too many: {broken}.")
    for row in plan.others:
        told = row.broken(job.limits) or "it breaks no limit"
        reasons.append(f"With {row.num_servers} servers and {row.policy}: {told}.")
    return reasons
