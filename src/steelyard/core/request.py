"""What goes into the engine and what comes out: :class:`Request`, :class:`RequestOutput` and their parts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from steelyard.core.params import SamplingParams
from steelyard.core.pooling import PoolingParams


class FinishReason(Enum):
    """Why a completion ended; the values are the field's usual words."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token's natural log-probability under the model, before temperature and filters, and its rank from 1."""

    token_id: int
    logprob: float
    rank: int


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A token the executor chose.

    Attributes:
        token_id: the token.
        logprob: its own log-probability, if the request asked for logprobs.
        top_logprobs: the likeliest tokens, best first, as many as the request asked for.
        completes: nothing may follow it: the request's constraint is fulfilled.
    """

    token_id: int
    logprob: TokenLogprob | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()
    completes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt to be completed ``params.n`` times.

    Attributes:
        id: unique within the engine.
        prompt_token_ids: at least one token.
        priority: lower is sooner, as in vLLM.
        cache_salt: requests share cached prefixes only with requests of the same salt (one per tenant).
        deadline_s: event-loop time after which the request is given up; ``None`` for never.
        tenant: who is charged for it where tenants share fairly (the ``vtc`` policy).
        output: tokens of the answer that exist already, of a request begun elsewhere: the engine goes on behind them,
            as if it had sampled them itself. Only with ``params.n`` 1.
        pooling: make one vector of the prompt in place of continuing it; ``params`` are then ``NO_SAMPLING``.
    """

    id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    priority: int = 0
    cache_salt: str = ""
    deadline_s: float | None = None
    tenant: str = ""
    output: tuple[SampledToken, ...] = ()
    pooling: PoolingParams | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOutput:
    """One of a request's n completions, as far as it has come."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    logprobs: tuple[SampledToken, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimes:
    """When things happened to a request, seconds of event-loop time; ``None`` until they have."""

    arrival_s: float
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, seconds from arrival."""
        return None if self.first_token_s is None else self.first_token_s - self.arrival_s


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """Everything known of a request at one moment; ``finished`` on the last one.

    Attributes:
        prompt_logprobs: one entry per prompt token, the first ``None`` (nothing predicts it), if asked for.
        pooled: ``[hidden_size]``, the prompt's vector, once it is there, if one was asked for.
        num_cached_tokens: prompt tokens taken from the prefix cache by the first completion.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    finished: bool
    times: RequestTimes
    prompt: str | None = None
    prompt_logprobs: tuple[SampledToken | None, ...] | None = None
    pooled: tuple[float, ...] | None = None
    num_cached_tokens: int = 0

    @property
    def text(self) -> str:
        """Text of the first completion."""
        return self.outputs[0].text
