"""Bounds of the engine as a whole, whoever asks: the length of its queue, and its KV memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from steelyard.policies.admit.types import AdmitPolicy, Ask, EngineLoad, Refusal
from steelyard.policies.registry import check_count, check_number

DEFAULT_MAX_WAITING = 4096
DEFAULT_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomConfig:
    """Parameters of :class:`RoomPolicy`.

    Attributes:
        max_waiting: sequences that may wait.
        kv_overcommit: KV blocks that may be promised, relative to those that are free; ``None`` for no limit. Sensibly
            above 1, because most answers stop before their longest, and what waits needs its blocks only later.
        retry_s: what who is refused is told to wait.

    Raises:
        ParamsError: if a value is out of range.
    """

    max_waiting: int = DEFAULT_MAX_WAITING
    kv_overcommit: float | None = None
    retry_s: float = DEFAULT_RETRY_S

    def __post_init__(self) -> None:
        check_count("max_waiting", self.max_waiting)
        if self.kv_overcommit is not None:
            check_number("kv_overcommit", self.kv_overcommit, above=0)
        check_number("retry_s", self.retry_s, above=0)


@final
class RoomPolicy:
    """Admit while the queue is short and what is promised, this request included, fits the free KV blocks.

    An engine with nothing to do takes any request.
    """

    def __init__(self, config: RoomConfig) -> None:
        self._config = config

    @property
    def config(self) -> RoomConfig:
        """What it decides by now."""
        return self._config

    def reconfigure(self, config: RoomConfig) -> None:
        """Decide by ``config`` from now on."""
        self._config = config

    def check(self, ask: Ask, load: EngineLoad, now_s: float) -> Refusal | None:
        """See :class:`~steelyard.policies.admit.types.AdmitPolicy`."""
        if load.num_running + load.num_waiting == 0:
            return None
        if load.num_waiting >= self._config.max_waiting:
            return Refusal(limit="max_waiting", wait_s=self._config.retry_s)
        overcommit = self._config.kv_overcommit
        num_promised = load.num_promised_blocks + load.num_needed_blocks(ask)
        if overcommit is not None and num_promised > overcommit * load.num_free_blocks:
            return Refusal(limit="kv_overcommit", wait_s=self._config.retry_s)
        return None

    def book(self, ask: Ask, now_s: float) -> None:
        """Nothing to note: the next load shows the request."""

    def end(self, ask: Ask, num_output_tokens: int, now_s: float) -> None:
        """Nothing to note."""


def make_room(
    *,
    max_waiting: int = DEFAULT_MAX_WAITING,
    kv_overcommit: float | None = None,
    retry_s: float = DEFAULT_RETRY_S,
) -> AdmitPolicy:
    """Return a :class:`RoomPolicy`; the options are :class:`RoomConfig`'s."""
    return RoomPolicy(RoomConfig(max_waiting=max_waiting, kv_overcommit=kv_overcommit, retry_s=retry_s))
