"""What stands in a fleet's way, and the nearest plan that would do: :func:`plan_within` (for S07).

An objective that no mix keeps is relaxed by bisection until one does; devices that are too few are added where that is
cheapest. Which of memory, objective and availability binds is said first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from steelyard.core.errors import InputError, ParamsError, ResourceError
from steelyard.plan.fleet import (
    FleetJob,
    FleetPlan,
    GpuType,
    SizeBucket,
    can_serve,
    highest_share,
    mix_text,
    plan_fleet,
    unserved,
)
from steelyard.plan.goodput import goodput

_TOLERANCE = 0.01
_FOREVER = 1e6
_OWNED_PRICE = 1e-3
"""Of a device that is available already, relative to one that is not: small, so that those are used first."""


def plan_within(make_job: Callable[[float], FleetJob], objective_s: float) -> FleetPlan:
    """Return the cheapest mix within an objective.

    Args:
        make_job: returns what is to be planned with an objective in seconds per answered token.
        objective_s: the objective asked for.

    Raises:
        InputError: if some requests fit no type's memory.
        ParamsError: if no type serves some requests within the objective; it names the nearest one that is kept.
        ResourceError: if too few devices are available; it names those that are missing and the nearest objective.
    """
    job = make_job(objective_s)
    missed = unserved(job)
    if not missed and can_serve(job):
        return plan_fleet(job)
    too_large = unserved(make_job(_FOREVER))
    if too_large:
        raise _too_large(job, too_large)
    nearest_s = _nearest_objective_s(make_job, objective_s)
    if missed:
        raise _missed(job, missed, nearest_s)
    raise _too_few(job, nearest_s)


def _nearest_objective_s(make_job: Callable[[float], FleetJob], objective_s: float) -> float | None:
    """Return the least objective that some mix keeps, within a hundredth from above; ``None`` if none does."""
    tightness = goodput(lambda factor: can_serve(make_job(objective_s / factor)), tolerance=_TOLERANCE)
    return objective_s / tightness if tightness else None


def missing_devices(job: FleetJob) -> tuple[GpuType, ...]:
    """Return the devices that would have to be added to those available, at the least price: each type with a number.

    Raises:
        ResourceError: if scipy is not installed.
    """
    owned = [replace(one, price_per_hour=_OWNED_PRICE * one.price_per_hour) for one in job.types]
    added = [one.limited(None) for one in job.types]
    counts = plan_fleet(replace(job, types=(*owned, *added))).counts[len(owned) :]
    return tuple(one.limited(count) for one, count in zip(job.types, counts, strict=True))


def _too_large(job: FleetJob, buckets: Sequence[SizeBucket]) -> InputError:
    problem = f"requests of {titles(buckets)} fit beside the weights in no type's memory ({_names(job)})"
    return InputError(problem, field="memory", remedy="Add a type with more memory, or take a smaller model")


def _missed(job: FleetJob, buckets: Sequence[SizeBucket], nearest_s: float | None) -> ParamsError:
    problem = f"requests of {titles(buckets)} miss the objective on every type ({_names(job)})"
    return ParamsError(problem, field="objective", remedy=f"{_allow(nearest_s)}, or add a faster type")


def _too_few(job: FleetJob, nearest_s: float | None) -> ResourceError:
    served = max(0.0, highest_share(job)) * job.rate_per_s
    missing = missing_devices(job)
    more = mix_text(missing, [one.available or 0 for one in missing])
    relaxed = "no objective is loose enough" if nearest_s is None else f"or {_allow(nearest_s).lower()}"
    return ResourceError(
        f"what is available serves at most {served:.3g} of {job.rate_per_s:.3g} requests/s",
        field="available",
        remedy=f"Add {more}; {relaxed}; or lower the rate",
    )


def _allow(nearest_s: float | None) -> str:
    if nearest_s is None:
        return "Relax the objective"
    return f"Allow {math.ceil(10_000 * nearest_s) / 10:g} ms per token"


def titles(buckets: Sequence[SizeBucket]) -> str:
    """Return the largest of some sizes, and how many others there are."""
    largest = max(buckets, key=lambda one: one.tokens)
    return largest.title if len(buckets) == 1 else f"{largest.title} and {len(buckets) - 1} other sizes"


def _names(job: FleetJob) -> str:
    return ", ".join(one.name for one in job.types)
