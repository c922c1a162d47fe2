"""Requests and tokens per minute for each key: token buckets.

A bucket fills at its rate up to what ``burst_s`` seconds bring, and an admitted request takes its amount out. One that
asks for more than a bucket holds waits for a full one and leaves it in debt, so no request is refused for ever and the
mean rate holds all the same: in any T seconds a key is admitted at most (burst_s + T) × rate, and one request more.

Tokens are taken for the longest answer the request may get; what it did not use comes back at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from steelyard.core.errors import ParamsError
from steelyard.policies.admit.types import AdmitPolicy, Ask, EngineLoad, Refusal
from steelyard.policies.registry import check_number

DEFAULT_BURST_S = 60.0
_SECONDS_PER_MIN = 60.0
_ROUNDING = 1e-9  # of a bucket: who waits exactly as long as told is let in


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one key may do; ``None`` for no limit.

    Raises:
        ParamsError: if a rate is not a positive number.
    """

    requests_per_min: float | None = None
    tokens_per_min: float | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_min", "tokens_per_min"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateConfig:
    """Parameters of :class:`RatePolicy`.

    Attributes:
        default: for keys not named.
        keys: key → its own rates.
        burst_s: how many seconds' worth a bucket holds.

    Raises:
        ParamsError: if a value is out of range.
    """

    default: Rates = field(default_factory=Rates)
    keys: Mapping[str, Rates] = field(default_factory=dict)
    burst_s: float = DEFAULT_BURST_S

    def __post_init__(self) -> None:
        check_number("burst_s", self.burst_s, above=0)
        object.__setattr__(self, "keys", dict(self.keys))
        if any(not isinstance(rates, Rates) for rates in (self.default, *self.keys.values())):
            raise ParamsError("not all of them are rates", field="keys", remedy="Give requests_per_min, tokens_per_min")

    def rate_per_s(self, key: str, limit: str) -> float | None:
        """Return how much of ``limit`` (a field of :class:`Rates`) a key is given each second."""
        per_min: float | None = getattr(self.keys.get(key, self.default), limit)
        return None if per_min is None else per_min / _SECONDS_PER_MIN


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a bucket held at a time; below 0 while in debt."""

    level: float
    at_s: float

    def refilled(self, rate_per_s: float, capacity: float, now_s: float) -> Bucket:
        """Return the bucket at ``now_s``."""
        return Bucket(min(capacity, self.level + rate_per_s * (now_s - self.at_s)), now_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a key stands with one of its limits.

    Attributes:
        allowed: what a full bucket holds.
        remaining: what it holds now, at least 0.
        full_in_s: seconds until it is full again.
    """

    allowed: float
    remaining: float
    full_in_s: float


@final
class RatePolicy:
    """Admit while the key's buckets hold enough; unlimited keys always."""

    def __init__(self, config: RateConfig) -> None:
        self._config = config
        self._buckets: dict[tuple[str, str], Bucket] = {}

    @property
    def config(self) -> RateConfig:
        """What it decides by now."""
        return self._config

    def reconfigure(self, config: RateConfig) -> None:
        """Decide by ``config`` from now on; buckets keep what they hold, as far as the new ones hold it."""
        self._config = config

    def check(self, ask: Ask, load: EngineLoad, now_s: float) -> Refusal | None:
        """See :class:`~steelyard.policies.admit.types.AdmitPolicy`."""
        waits = [(self._wait_s(ask.key, limit, amount, now_s), limit) for limit, amount in _amounts(ask)]
        wait_s, limit = max(waits)
        return Refusal(limit=limit, wait_s=wait_s) if wait_s > 0 else None

    def book(self, ask: Ask, now_s: float) -> None:
        """See the protocol."""
        for limit, amount in _amounts(ask):
            self._add(ask.key, limit, -amount, now_s)

    def end(self, ask: Ask, num_output_tokens: int, now_s: float) -> None:
        """See the protocol."""
        self._add(ask.key, "tokens_per_min", max(0, ask.max_output_tokens - num_output_tokens), now_s)

    def standing(self, key: str, limit: str, now_s: float) -> Standing | None:
        """Return how a key stands with a limit (a field of :class:`Rates`); ``None`` if it has none."""
        rate_per_s = self._config.rate_per_s(key, limit)
        if rate_per_s is None:
            return None
        allowed, level = rate_per_s * self._config.burst_s, self._bucket(key, limit, rate_per_s, now_s).level
        return Standing(allowed=allowed, remaining=max(0.0, level), full_in_s=(allowed - level) / rate_per_s)

    def _wait_s(self, key: str, limit: str, amount: float, now_s: float) -> float:
        rate_per_s = self._config.rate_per_s(key, limit)
        if rate_per_s is None:
            return 0.0
        capacity = rate_per_s * self._config.burst_s
        missing = min(amount, capacity) - self._bucket(key, limit, rate_per_s, now_s).level
        return missing / rate_per_s if missing > _ROUNDING * capacity else 0.0

    def _add(self, key: str, limit: str, amount: float, now_s: float) -> None:
        rate_per_s = self._config.rate_per_s(key, limit)
        if rate_per_s is None:
            self._buckets.pop((key, limit), None)
            return
        bucket = self._bucket(key, limit, rate_per_s, now_s)
        self._buckets[key, limit] = Bucket(min(rate_per_s * self._config.burst_s, bucket.level + amount), now_s)

    def _bucket(self, key: str, limit: str, rate_per_s: float, now_s: float) -> Bucket:
        """Return a bucket at ``now_s``; one that was never used is full."""
        capacity = rate_per_s * self._config.burst_s
        return self._buckets.get((key, limit), Bucket(capacity, now_s)).refilled(rate_per_s, capacity, now_s)


def _amounts(ask: Ask) -> tuple[tuple[str, float], ...]:
    return (("requests_per_min", 1), ("tokens_per_min", ask.num_tokens))


def make_rate(
    *,
    requests_per_min: float | None = None,
    tokens_per_min: float | None = None,
    keys: Mapping[str, Rates] | None = None,
    burst_s: float = DEFAULT_BURST_S,
) -> AdmitPolicy:
    """Return a :class:`RatePolicy`; the options are :class:`Rates`' for keys not named, and :class:`RateConfig`'s."""
    default = Rates(requests_per_min=requests_per_min, tokens_per_min=tokens_per_min)
    return RatePolicy(RateConfig(default=default, keys=keys or {}, burst_s=burst_s))
