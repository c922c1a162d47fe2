"""A :class:`Sequence` is one completion in the making: the unit that is scheduled, stored and executed.

A request with n completions becomes n sequences that meet again in the prefix cache. The engine's loop is the only
writer; executors and policies read.
"""

from __future__ import annotations

from enum import Enum

from steelyard.core.params import SamplingParams
from steelyard.core.pooling import PoolingKind, PoolingParams


class SequenceStatus(Enum):
    """Where a sequence is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """Tokens known so far and how many of them have their KV in the cache.

    Attributes:
        id: unique within the engine, increasing with arrival.
        tokens: the prompt followed by the output.
        num_prompt_tokens: how many of ``tokens`` are the prompt.
        num_computed_tokens: leading tokens whose KV is in the cache. While this is below ``num_tokens - 1`` the
            sequence is prefilling (also after a preemption, when its own output is computed again).
        seed: seed of its private random stream.
        cache_salt: prefixes are shared only among equal salts.
        tenant: who is charged for it.
        pooling: how its prompt becomes one vector; ``None`` if it is to be continued.
    """

    __slots__ = (
        "arrival_s",
        "cache_salt",
        "id",
        "index",
        "num_computed_tokens",
        "num_preemptions",
        "num_prompt_tokens",
        "params",
        "pooling",
        "priority",
        "request_id",
        "seed",
        "status",
        "tenant",
        "tokens",
    )

    def __init__(
        self,
        *,
        id: int,
        request_id: str,
        index: int,
        prompt: tuple[int, ...],
        params: SamplingParams,
        seed: int,
        arrival_s: float,
        priority: int = 0,
        cache_salt: str = "",
        tenant: str = "",
        pooling: PoolingParams | None = None,
    ) -> None:
        self.id = id
        self.request_id = request_id
        self.index = index
        self.tokens = list(prompt)
        self.num_prompt_tokens = len(prompt)
        self.num_computed_tokens = 0
        self.num_preemptions = 0
        self.params = params
        self.seed = seed
        self.arrival_s = arrival_s
        self.priority = priority
        self.cache_salt = cache_salt
        self.tenant = tenant
        self.pooling = pooling
        self.status = SequenceStatus.WAITING

    @property
    def num_tokens(self) -> int:
        """Tokens known: prompt and output."""
        return len(self.tokens)

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def num_new_tokens(self) -> int:
        """Known tokens whose KV is still to be computed."""
        return len(self.tokens) - self.num_computed_tokens

    @property
    def needs_whole_prompt(self) -> bool:
        """Whether every token of the prompt must be computed, cached or not: the result is made of all of them."""
        pools_all = self.pooling is not None and self.pooling.kind is PoolingKind.MEAN
        return pools_all or self.params.prompt_logprobs is not None

    @property
    def output(self) -> list[int]:
        """The generated tokens, as a new list."""
        return self.tokens[self.num_prompt_tokens :]
