"""Where prefill and decode go: apart, each with its own kind of instance, or together (S53 DistServe, S19 Splitwise).

Each phase takes the kind of instance that serves most requests per unit of what is scarce (devices, money, watts), in
as many instances as the rate needs: DistServe's algorithm 1, for machines whose links carry the KV cache anywhere.
Where only links within a machine do, the two phases of an instance must share one: algorithm 2, here the best division
of a machine (:func:`split`) among pairs that fit it. Splitwise's design of clusters is the choice among kinds with a
budget, not a rate.

What an instance can do is asked of whoever simulates it; nothing here knows a model or a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from steelyard.core.errors import InputError, ParamsError

P = TypeVar("P")
D = TypeVar("D")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[P]):
    """A kind of instance.

    Attributes:
        what: whatever describes it.
        price: of one instance in what is scarce.
        goodput_per_s: requests that one instance serves within its objectives.
    """

    what: P
    price: float
    goodput_per_s: float

    @property
    def value(self) -> float:
        """Goodput per unit of price."""
        return self.goodput_per_s / self.price


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(Generic[P]):
    """Instances of one kind."""

    kind: Kind[P]
    count: int

    @property
    def price(self) -> float:
        """Of all instances."""
        return self.count * self.kind.price

    @property
    def goodput_per_s(self) -> float:
        """Of all instances."""
        return self.count * self.kind.goodput_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement(Generic[P, D]):
    """Two pools, one per phase.

    Attributes:
        prefill: computes prompts.
        decode: computes what follows the first token.
        runners_up: the next best kind of each phase, ``None`` if there is none that serves anything.
    """

    prefill: Group[P]
    decode: Group[D]
    runners_up: tuple[Kind[P] | None, Kind[D] | None]

    @property
    def price(self) -> float:
        """Of both pools."""
        return self.prefill.price + self.decode.price

    @property
    def goodput_per_s(self) -> float:
        """Of the slower pool."""
        return min(self.prefill.goodput_per_s, self.decode.goodput_per_s)


def kinds(candidates: Iterable[P], price: Callable[[P], float], goodput_per_s: Callable[[P], float]) -> list[Kind[P]]:
    """Return what each candidate costs and does, best value first; equal ones the cheaper first."""
    found = [Kind(what=one, price=price(one), goodput_per_s=goodput_per_s(one)) for one in candidates]
    return sorted(found, key=lambda kind: (-kind.value, kind.price))


def place(rate_per_s: float, prefill: list[Kind[P]], decode: list[Kind[D]]) -> Placement[P, D]:
    """Return the best pools for a rate.

    Args:
        rate_per_s: requests to serve.
        prefill: kinds for prompts, as :func:`kinds` orders them.
        decode: kinds for the rest.

    Raises:
        ParamsError: if the rate is not positive.
        InputError: if no kind of a phase meets its objective; it names the phase.
    """
    groups = (_group("prefill", rate_per_s, prefill), _group("decode", rate_per_s, decode))
    return Placement(prefill=groups[0], decode=groups[1], runners_up=(_second(prefill), _second(decode)))


def split(budget: float, prefill: Kind[P], decode: Kind[D]) -> Placement[P, D]:
    """Return the pools of two given kinds that serve most within a budget.

    Args:
        budget: of what :attr:`Kind.price` counts.
        prefill: the kind for prompts.
        decode: the kind for the rest.

    Raises:
        InputError: if the budget does not reach for one instance of each.
    """
    most = int((budget - decode.price) // prefill.price)
    if most < 1:
        problem = f"{budget:g} is less than one instance of each phase costs ({prefill.price + decode.price:g})"
        raise InputError(problem, field="budget", remedy="Raise it, or choose cheaper instances")

    def pools(count: int) -> Placement[P, D]:
        left = int((budget - count * prefill.price) // decode.price)
        return Placement(
            prefill=Group(kind=prefill, count=count), decode=Group(kind=decode, count=left), runners_up=(None, None)
        )

    return max(map(pools, range(1, most + 1)), key=lambda one: (one.goodput_per_s, -one.price))


def _group(phase: str, rate_per_s: float, ordered: list[Kind[P]]) -> Group[P]:
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise ParamsError(f"{rate_per_s:g} is no rate", field="rate", remedy="Give requests per second, above 0")
    if not ordered or ordered[0].goodput_per_s <= 0:
        problem = "no instance that fits meets the objective" if ordered else "no instance fits"
        raise InputError(problem, field=phase, remedy="Relax the objective, or allow more devices per instance")
    return Group(kind=ordered[0], count=math.ceil(rate_per_s / ordered[0].goodput_per_s))


def _second(ordered: list[Kind[P]]) -> Kind[P] | None:
    return ordered[1] if len(ordered) > 1 and ordered[1].goodput_per_s > 0 else None
