"""The cheapest mix of GPU types that serves a workload: :func:`plan_fleet` (S07, Mélange, arXiv:2404.14527, section 5).

Requests fall into buckets by size; each bucket's rate is cut into equal slices, and an integer programme gives every
slice to one type so that the types' loads fit their counts at the least price. Slices of one bucket are alike, so the
programme counts them instead of telling them apart, which changes no answer. Left out: queues and bursts (the rates
that a type reaches must leave room for them), and which device of a type answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from steelyard.core.errors import ParamsError, ResourceError

_HAS_SOLVER = find_spec("scipy") is not None
if _HAS_SOLVER:
    from scipy.optimize import Bounds, LinearConstraint, linprog, milp

_GAP = 1e-6
_SECONDS = 20.0
_EPSILON = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeBucket:
    """Requests of one size.

    Attributes:
        prompt_tokens: of the largest prompt.
        answer_tokens: of the longest answer.
        rate_per_s: how many arrive.

    Raises:
        ParamsError: if a size is below 1 or the rate is negative.
    """

    prompt_tokens: int
    answer_tokens: int
    rate_per_s: float

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ParamsError(f"{getattr(self, name)} is below 1", field=name, remedy="Give a positive number")
        if not 0 <= self.rate_per_s < float("inf"):
            raise ParamsError(f"{self.rate_per_s:g} is no rate", field="rate", remedy="Give 0 or more per second")

    @property
    def tokens(self) -> int:
        """Of the largest prompt and the longest answer together."""
        return self.prompt_tokens + self.answer_tokens

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"{self.prompt_tokens}+{self.answer_tokens} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuType:
    """What can be rented.

    Attributes:
        rates_per_s: requests that one of them serves within the objective, by bucket; 0 where it cannot.
        available: how many there are; ``None`` for as many as wanted.

    Raises:
        ParamsError: if the price is not positive, or a rate or the number negative.
    """

    name: str
    price_per_hour: float
    rates_per_s: tuple[float, ...]
    available: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.price_per_hour < float("inf"):
            raise ParamsError(f"{self.price_per_hour:g} is no price", field=self.name, remedy="Give dollars per hour")
        if any(not 0 <= rate < float("inf") for rate in self.rates_per_s):
            raise ParamsError("a rate is negative or not finite", field=self.name, remedy="Give 0 or more per second")
        if self.available is not None and self.available < 0:
            raise ParamsError(f"{self.available} are available", field=self.name, remedy="Give 0 or more")

    def limited(self, available: int | None) -> GpuType:
        """Return the same type, of which there are ``available``."""
        return replace(self, available=available)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetJob:
    """A workload and what may serve it.

    Attributes:
        slices: into which each bucket's rate is cut.

    Raises:
        ParamsError: if there is nothing to serve or to serve with, or a type's rates do not match the buckets.
    """

    buckets: tuple[SizeBucket, ...]
    types: tuple[GpuType, ...]
    slices: int = 8

    def __post_init__(self) -> None:
        if self.slices < 1:
            raise ParamsError(f"{self.slices} is below 1", field="slices", remedy="Give a positive number")
        if not any(bucket.rate_per_s > 0 for bucket in self.buckets):
            raise ParamsError("no request arrives", field="rate", remedy="Give a rate above 0")
        if not self.types:
            raise ParamsError("there is none", field="gpu", remedy="Name at least one type")
        for one in self.types:
            if len(one.rates_per_s) != len(self.buckets):
                told = f"{len(one.rates_per_s)} rates for {len(self.buckets)} buckets"
                raise ParamsError(told, field=one.name, remedy="Give one rate for each bucket")

    @property
    def rate_per_s(self) -> float:
        """Requests of all buckets."""
        return sum(bucket.rate_per_s for bucket in self.buckets)

    def only(self, one: GpuType) -> FleetJob:
        """Return the same workload with ``one`` type, of which there is no end."""
        return replace(self, types=(one.limited(None),))


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """Who is rented, and who answers what.

    Attributes:
        counts: of each type.
        weights: by type, then bucket: the share of the bucket's requests that the load balancer sends there.
        single_prices: dollars per hour with one type alone and no limit, ``None`` where it cannot.
        proven: whether no cheaper mix exists; otherwise the solver ran out of time.
    """

    job: FleetJob
    counts: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    single_prices: tuple[float | None, ...]
    proven: bool

    @property
    def price_per_hour(self) -> float:
        """Dollars per hour of the whole mix."""
        return sum(count * one.price_per_hour for count, one in zip(self.counts, self.job.types, strict=True))

    @property
    def best_single(self) -> tuple[str, float] | None:
        """The cheapest single type and its dollars per hour; ``None`` if no type can do it alone."""
        pairs = zip(self.job.types, self.single_prices, strict=True)
        known = [(one.name, price) for one, price in pairs if price is not None]
        return min(known, key=lambda pair: pair[1], default=None)

    @property
    def saved(self) -> float | None:
        """Share saved against the best single type; ``None`` if no type can do it alone."""
        return None if self.best_single is None else 1 - self.price_per_hour / self.best_single[1]

    def loads(self) -> tuple[float, ...]:
        """Return how many of each type the traffic would fill, at most its count."""
        return tuple(
            sum(
                weight * bucket.rate_per_s / rate
                for weight, bucket, rate in zip(weights, self.job.buckets, one.rates_per_s, strict=True)
                if weight > 0 and bucket.rate_per_s > 0
            )
            for one, weights in zip(self.job.types, self.weights, strict=True)
        )


def plan_fleet(job: FleetJob) -> FleetPlan:
    """Return the cheapest mix.

    Raises:
        ParamsError: if no type serves a bucket within the objective; it names the bucket.
        ResourceError: if too few are available, saying what rate they serve and what else would be needed; or if
            scipy is not installed.
    """
    _check_solver()
    _check_servable(job)
    solved = _solve(job)
    if solved is None:
        raise _shortage(job)
    counts, weights, proven = solved
    singles = tuple(_single_price(job.only(one)) for one in job.types)
    return FleetPlan(job=job, counts=counts, weights=weights, single_prices=singles, proven=proven)


def highest_share(job: FleetJob) -> float:
    """Return which share of every bucket's rate the available types serve at most; 1 or more if all of it."""
    limits = [one.available for one in job.types]
    loads = _loads(job)
    num_types, num_buckets = loads.shape
    served = np.zeros((num_buckets, num_types * num_buckets + 1))
    for bucket in range(num_buckets):
        served[bucket, bucket:-1:num_buckets] = 1
        served[bucket, -1] = -1
    used = np.zeros((num_types, num_types * num_buckets + 1))
    for row in range(num_types):
        used[row, row * num_buckets : (row + 1) * num_buckets] = np.where(np.isfinite(loads[row]), loads[row], 0)
    bounds = [(0, None if np.isfinite(load) else 0) for load in loads.ravel()] + [(0, None)]
    goal = np.zeros(num_types * num_buckets + 1)
    goal[-1] = -1
    room = [np.inf if limit is None else limit for limit in limits]
    result = linprog(goal, used, room, served, np.zeros(num_buckets), bounds)
    return float("inf") if result.status == 3 else float(result.x[-1])  # 3: without bound


def fleet_reasons(plan: FleetPlan) -> tuple[str, ...]:
    """Return why this mix, in sentences."""
    told = []
    if plan.best_single is not None and plan.saved is not None:
        name, price = plan.best_single
        told.append(f"The best single type, {name}, costs ${price:.2f}/h: the mix saves {100 * plan.saved:.1f} %.")
    for one, single in zip(plan.job.types, plan.single_prices, strict=True):
        if single is None:
            pairs = zip(plan.job.buckets, one.rates_per_s, strict=True)
            missed = next(bucket for bucket, rate in pairs if bucket.rate_per_s > 0 and not rate)
            told.append(f"{one.name} alone cannot: {missed.title} miss the objective there.")
    for one, count in zip(plan.job.types, plan.counts, strict=True):
        if one.available is not None and count == one.available:
            told.append(f"Availability binds: all {count} of {one.name} are taken.")
    if not plan.proven:
        told.append(f"The solver stopped after {_SECONDS:g} s: a cheaper mix may exist.")
    return tuple(told)


_Solution = tuple[tuple[int, ...], tuple[tuple[float, ...], ...], bool]


def _solve(job: FleetJob) -> _Solution | None:
    """Solve the integer programme: slices by type and bucket, then a count by type."""
    loads = _loads(job) / job.slices
    num_types, num_buckets = loads.shape
    num_shares = num_types * num_buckets
    every = np.zeros((num_buckets, num_shares + num_types))
    for bucket in range(num_buckets):
        every[bucket, bucket:num_shares:num_buckets] = 1
    fits = np.zeros((num_types, num_shares + num_types))
    for row in range(num_types):
        fits[row, row * num_buckets : (row + 1) * num_buckets] = np.where(np.isfinite(loads[row]), loads[row], 0)
        fits[row, num_shares + row] = -1
    prices = np.array([0.0] * num_shares + [one.price_per_hour for one in job.types])
    most: list[float] = [job.slices if np.isfinite(load) else 0 for load in loads.ravel()]
    most += [np.inf if one.available is None else one.available for one in job.types]
    result = milp(
        prices,
        integrality=np.ones(num_shares + num_types),
        bounds=Bounds(0, most),
        constraints=[LinearConstraint(every, job.slices, job.slices), LinearConstraint(fits, -np.inf, 0)],
        options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
    )
    if result.x is None:
        return None
    whole = np.rint(result.x)
    shares = whole[:num_shares].reshape(num_types, num_buckets) / job.slices
    weights = tuple(tuple(float(share) for share in row) for row in shares)
    return tuple(int(count) for count in whole[num_shares:]), weights, result.status == 0


def _loads(job: FleetJob) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return how much of one device all of a bucket would take, by type and bucket; infinite where it cannot."""
    rates = np.array([bucket.rate_per_s for bucket in job.buckets])
    served = np.array([one.rates_per_s for one in job.types])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rates == 0, 0.0, np.where(served > 0, rates / served, np.inf))


def _single_price(job: FleetJob) -> float | None:
    load = float(_loads(job).sum())
    return float(np.ceil(load - _EPSILON)) * job.types[0].price_per_hour if np.isfinite(load) else None


def unserved(job: FleetJob) -> tuple[SizeBucket, ...]:
    """Return the buckets that arrive and no type serves."""
    return tuple(
        bucket
        for number, bucket in enumerate(job.buckets)
        if bucket.rate_per_s > 0 and not any(one.rates_per_s[number] > 0 for one in job.types)
    )


def can_serve(job: FleetJob) -> bool:
    """Return whether some mix of what is available serves the workload.

    Raises:
        ResourceError: if scipy is not installed.
    """
    _check_solver()
    if unserved(job):
        return False
    unlimited = all(one.available is None for one in job.types)
    return unlimited or (highest_share(job) > 1 - _EPSILON and _solve(job) is not None)


def _check_solver() -> None:
    if not _HAS_SOLVER:
        raise ResourceError("scipy is not installed", field="fleet", remedy="Run: pip install 'steelyard[plan]'")


def _check_servable(job: FleetJob) -> None:
    for bucket in unserved(job):
        names = ", ".join(one.name for one in job.types)
        problem = f"requests of {bucket.title} miss the objective on every type ({names})"
        raise ParamsError(problem, field="objective", remedy="Relax the objective, or add a larger type")


def _shortage(job: FleetJob) -> ResourceError:
    share = highest_share(job)
    wanted = plan_fleet(replace(job, types=tuple(one.limited(None) for one in job.types)))
    mix = mix_text(job.types, wanted.counts)
    return ResourceError(
        f"what is available serves at most {share * job.rate_per_s:.3g} of {job.rate_per_s:.3g} requests/s",
        field="available",
        remedy=f"Lower the rate, or allow {mix} (${wanted.price_per_hour:.2f}/h without limits)",
    )


def mix_text(types: Sequence[GpuType], counts: Sequence[int]) -> str:
    """Return the mix in words, e.g. ``3 × a10g + 1 × a100-80gb``."""
    return " + ".join(f"{count} × {one.name}" for one, count in zip(types, counts, strict=True) if count) or "none"
