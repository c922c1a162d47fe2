"""So many requests of a key at once, and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from steelyard.policies.admit.types import AdmitPolicy, Ask, EngineLoad, Refusal
from steelyard.policies.registry import check_count, check_number

DEFAULT_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyConfig:
    """Parameters of :class:`ConcurrencyPolicy`.

    Attributes:
        max_concurrent: requests of one key in the engine, running or waiting; ``None`` for no limit.
        keys: key → its own number, or ``None``.
        retry_s: what who is refused is told to wait; nobody knows when a request will end.

    Raises:
        ParamsError: if a value is out of range.
    """

    max_concurrent: int | None = None
    keys: Mapping[str, int | None] = field(default_factory=dict)
    retry_s: float = DEFAULT_RETRY_S

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", dict(self.keys))
        for number in (self.max_concurrent, *self.keys.values()):
            if number is not None:
                check_count("max_concurrent", number)
        check_number("retry_s", self.retry_s, above=0)


@final
class ConcurrencyPolicy:
    """Admit while fewer of the key's requests have entered than have ended and the limit allows."""

    def __init__(self, config: ConcurrencyConfig) -> None:
        self._config = config
        self._num_inside: Counter[str] = Counter()

    @property
    def config(self) -> ConcurrencyConfig:
        """What it decides by now."""
        return self._config

    def reconfigure(self, config: ConcurrencyConfig) -> None:
        """Decide by ``config`` from now on; who is inside stays."""
        self._config = config

    def check(self, ask: Ask, load: EngineLoad, now_s: float) -> Refusal | None:
        """See :class:`~steelyard.policies.admit.types.AdmitPolicy`."""
        limit = self._config.keys.get(ask.key, self._config.max_concurrent)
        if limit is None or self._num_inside[ask.key] < limit:
            return None
        return Refusal(limit="max_concurrent", wait_s=self._config.retry_s)

    def book(self, ask: Ask, now_s: float) -> None:
        """See the protocol."""
        self._num_inside[ask.key] += 1

    def end(self, ask: Ask, num_output_tokens: int, now_s: float) -> None:
        """See the protocol."""
        assert self._num_inside[ask.key] > 0, "a request ended that never entered"
        self._num_inside[ask.key] -= 1
        if not self._num_inside[ask.key]:
            del self._num_inside[ask.key]


def make_concurrency(
    *,
    max_concurrent: int | None = None,
    keys: Mapping[str, int | None] | None = None,
    retry_s: float = DEFAULT_RETRY_S,
) -> AdmitPolicy:
    """Return a :class:`ConcurrencyPolicy`; the options are :class:`ConcurrencyConfig`'s."""
    return ConcurrencyPolicy(ConcurrencyConfig(max_concurrent=max_concurrent, keys=keys or {}, retry_s=retry_s))
