"""Whether a request may enter its engine now, and how it stands there: :class:`Admission`.

The policies of :mod:`steelyard.policies.admit` decide; here their configs are made from the server's, and a refusal
becomes a 429 that says when to come back. A request is looked at twice: when it is received, by its key alone, before
it costs any work; and before it enters an engine, once its tokens are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from steelyard.core.clock import now_s
from steelyard.policies.admit.concurrency import ConcurrencyConfig, ConcurrencyPolicy
from steelyard.policies.admit.gate import Gate
from steelyard.policies.admit.rate import RateConfig, RatePolicy, Rates
from steelyard.policies.admit.room import RoomConfig, RoomPolicy
from steelyard.policies.admit.types import Ask, EngineLoad, Refusal
from steelyard.serve.config import KeyLimits, ServeConfig
from steelyard.serve.errors import ApiError, busy
from steelyard.serve.keys import BATCH_TENANT
from steelyard.serve.llm import ServedEngine, ServedLLM

T = TypeVar("T")

# To a key's own limits the engine does not matter.
_IDLE = EngineLoad(num_free_blocks=1, block_size=1)
_WORDS: Mapping[str, str] = {
    "requests_per_min": "this key has sent too many requests",
    "tokens_per_min": "this key has asked for too many tokens",
    "max_concurrent": "too many requests of this key are being worked on",
    "max_waiting": "the queue is full",
    "kv_overcommit": "the memory is promised to other requests",
}


class Admission:
    """The limits of every key and every engine, and what keys are due. Use it within one event loop.

    Args:
        config: what the server was told.
        on_refusal: called with the key's name and the limit that stood in the way.
    """

    def __init__(self, config: ServeConfig, on_refusal: Callable[[str, str], None]) -> None:
        self._on_refusal, self._sharing = on_refusal, config.sharing
        self._rate = RatePolicy(_rates(config))
        self._concurrency = ConcurrencyPolicy(_concurrency(config))
        self._room = RoomPolicy(_room(config))
        self._on_receipt = Gate((self._rate, self._concurrency))
        self._on_entry = Gate((self._rate, self._room))

    def reconfigure(self, config: ServeConfig) -> None:
        """Decide by ``config`` from now on; who is inside stays, and what was used of a rate remains used."""
        self._sharing = config.sharing
        self._rate.reconfigure(_rates(config))
        self._concurrency.reconfigure(_concurrency(config))
        self._room.reconfigure(_room(config))

    @contextmanager
    def received(self, key: str) -> Iterator[None]:
        """Count a request among those of its key for as long as the block lasts, wherever it waits.

        Raises:
            ApiError: 429 if there are too many already, or even the smallest request of this key would be refused.
        """
        ask = Ask(key=key, num_prompt_tokens=0, max_output_tokens=0)
        self._raise_for(ask, self._on_receipt.check(ask, _IDLE, now_s()))
        self._concurrency.book(ask, now_s())
        try:
            yield
        finally:
            self._concurrency.end(ask, 0, now_s())

    @contextmanager
    def entered(self, ask: Ask, engine: ServedEngine, num_output_tokens: Callable[[], int]) -> Iterator[None]:
        """Let a request into an engine for as long as the block lasts.

        Args:
            ask: the request.
            engine: that will work on it.
            num_output_tokens: asked in the end: the tokens it has got; what it asked for beyond them comes back.

        Raises:
            ApiError: 429 if it may not enter now.
        """
        self._raise_for(ask, self._on_entry.check(ask, engine.load(), now_s()))
        self._on_entry.book(ask, now_s())
        try:
            yield
        finally:
            self._on_entry.end(ask, num_output_tokens(), now_s())

    def priority(self, key: str, asked: int) -> int:
        """Return a request's priority: its key's, behind which it may place itself, or without one what it asks."""
        own = self._sharing.limits_of(key).priority
        return asked if own is None else own + max(0, asked)

    def rate_headers(self, key: str) -> dict[str, str]:
        """Return OpenAI's headers for a key with rates: what it may do, what is left, and when all of it is back."""
        told = {}
        for what, limit in (("requests", "requests_per_min"), ("tokens", "tokens_per_min")):
            standing = self._rate.standing(key, limit, now_s())
            if standing is not None:
                told[f"x-ratelimit-limit-{what}"] = str(math.floor(standing.allowed))
                told[f"x-ratelimit-remaining-{what}"] = str(math.floor(standing.remaining))
                told[f"x-ratelimit-reset-{what}"] = f"{standing.full_in_s:.3f}".rstrip("0").rstrip(".") + "s"
        return told

    def set_shares(self, llm: ServedLLM) -> None:
        """Tell a model's engine what each key is due; to one that does not share fairly it means nothing.

        The lines of a key's batches are due as much beside those of other keys' batches.
        """
        llm.set_shares(_with_batches({key: own.weight for key, own in self._sharing.keys.items()}))

    def _raise_for(self, ask: Ask, refusal: Refusal | None) -> None:
        if refusal is not None:
            self._on_refusal(ask.key, refusal.limit)
            raise refused(refusal)


def refused(refusal: Refusal) -> ApiError:
    """Return the answer to a request that must wait."""
    wait_s = math.ceil(refusal.wait_s)
    return busy(f"{refusal.limit}: {_WORDS[refusal.limit]}. Try again in {wait_s} s.", retry_after_s=wait_s)


def _with_batches(of_keys: Mapping[str, T]) -> dict[str, T]:
    """Return what holds of keys, and of the lines of their batches likewise and by themselves."""
    return {name: one for key, one in of_keys.items() for name in (key, BATCH_TENANT + key)}


def _rates(config: ServeConfig) -> RateConfig:
    def rates(limits: KeyLimits) -> Rates:
        return Rates(requests_per_min=limits.requests_per_min, tokens_per_min=limits.tokens_per_min)

    sharing = config.sharing
    own = {key: rates(limits) for key, limits in sharing.keys.items()}
    return RateConfig(default=rates(sharing.default), keys=_with_batches(own))


def _concurrency(config: ServeConfig) -> ConcurrencyConfig:
    sharing = config.sharing
    return ConcurrencyConfig(
        max_concurrent=sharing.default.max_concurrent,
        keys=_with_batches({key: own.max_concurrent for key, own in sharing.keys.items()}),
        retry_s=config.limits.retry_after_s,
    )


def _room(config: ServeConfig) -> RoomConfig:
    return RoomConfig(
        max_waiting=config.engine.max_waiting,
        kv_overcommit=config.sharing.kv_overcommit,
        retry_s=config.limits.retry_after_s,
    )
