"""Bounds of the engine as a whole, whoever asks: the length of its queue, and its KV memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from steelyard.policies.admit.types import AdmitPolicy, Ask, EngineLoad, Refusal
from steelyard.policies.registry import check_count, check_number

DEFAULT_MAX_QUEUE = 1024
DEFAULT_OVERCOMMIT = 4.0
DEFAULT_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomConfig:
    """Parameters of :class:`RoomPolicy`.

    Attributes:
        max_queue: sequences that may wait.
        overcommit: KV blocks that may be promised, relative to those that are free. Above 1 because most answers stop
            before their longest, and what waits needs its blocks only later.
        retry_s: what who is refused is told to wait.

    Raises:
        ParamsError: if a value is out of range.
    """

    max_queue: int = DEFAULT_MAX_QUEUE
    overcommit: float = DEFAULT_OVERCOMMIT
    retry_s: float = DEFAULT_RETRY_S

    def __post_init__(self) -> None:
        check_count("max_queue", self.max_queue)
        check_number("overcommit", self.overcommit, above=0)
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
        if load.num_waiting >= self._config.max_queue:
            return Refusal(limit="max_queue", wait_s=self._config.retry_s)
        num_promised = load.num_promised_blocks + load.num_needed_blocks(ask)
        if num_promised > self._config.overcommit * load.num_free_blocks:
            return Refusal(limit="overcommit", wait_s=self._config.retry_s)
        return None

    def book(self, ask: Ask, now_s: float) -> None:
        """Nothing to note: the next load shows the request."""

    def end(self, ask: Ask, num_output_tokens: int, now_s: float) -> None:
        """Nothing to note."""


def make_room(
    *,
    max_queue: int = DEFAULT_MAX_QUEUE,
    overcommit: float = DEFAULT_OVERCOMMIT,
    retry_s: float = DEFAULT_RETRY_S,
) -> AdmitPolicy:
    """Return a :class:`RoomPolicy`; the options are :class:`RoomConfig`'s."""
    return RoomPolicy(RoomConfig(max_queue=max_queue, overcommit=overcommit, retry_s=retry_s))
