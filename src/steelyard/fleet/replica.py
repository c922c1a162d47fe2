"""A replica as the dispatcher knows it: a place that answers requests, until it is lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Protocol, final

from steelyard.core.clock import now_s
from steelyard.core.errors import EngineStoppedError, ReplicaLostError
from steelyard.core.request import FinishReason, Request, RequestOutput, SampledToken
from steelyard.engine.engine import Engine, EngineResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Increment:
    """By how much an answer has grown.

    Attributes:
        tokens: the new tokens, with log-probabilities if the request asked for them.
        text: the text that became definite, if the replica has a tokenizer.
        finish_reason: set on the last increment, and only there.
        stop_reason: the stop string or token that ended it, if one did.
        num_cached_tokens: prompt tokens that this replica took from its prefix cache.
        active_s: seconds since this replica first worked on it.
        prompt_logprobs: as in :class:`~steelyard.core.request.RequestOutput`, on a replica's first increment.
        pooled: the prompt's vector, if one was asked for, on the last increment.
    """

    tokens: tuple[SampledToken, ...] = ()
    text: str = ""
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    num_cached_tokens: int = 0
    active_s: float = 0.0
    prompt_logprobs: tuple[SampledToken | None, ...] | None = None
    pooled: tuple[float, ...] | None = None


class Replica(Protocol):
    """One engine behind whatever lies between: nothing, a process border, a network."""

    @property
    def id(self) -> str:
        """Its name. One that was restarted has a new name, for its prefix cache is another."""

    @property
    def capacity(self) -> float:
        """How fast it is, relative to the others."""

    def stream(self, request: Request) -> AsyncGenerator[Increment, None]:
        """Yield the growth of the answer behind ``request.output``; closing the generator cancels the request.

        Raises:
            ReplicaLostError: as soon as the replica is known to be dead.
            EngineStoppedError: if a step failed that the replica survived.
            InputError: if the request cannot be served.
            EngineBusyError: if the replica's queue is full.
        """


@final
class EngineReplica:
    """An engine of this process and event loop as a :class:`Replica`; whoever made the engine runs and closes it."""

    def __init__(self, id: str, engine: Engine, capacity: float = 1.0) -> None:
        self.id, self.capacity = id, capacity
        self._engine = engine

    async def stream(self, request: Request) -> AsyncGenerator[Increment, None]:
        """See :class:`Replica`."""
        response = self._submit(request)
        seen, is_first = response.snapshot(), True
        try:
            while not seen.finished:
                output = await self._next_output(response)
                increment = _increment(seen, output)
                yield replace(increment, prompt_logprobs=output.prompt_logprobs) if is_first else increment
                seen, is_first = output, False
        finally:
            if not response.finished:
                self._engine.cancel(request.id)

    def _submit(self, request: Request) -> EngineResponse:
        try:
            return self._engine.submit(request)
        except EngineStoppedError as error:
            raise _lost(self.id) from error

    async def _next_output(self, response: EngineResponse) -> RequestOutput:
        try:
            return await response.next_output()
        except EngineStoppedError as error:
            if self._engine.closed:
                raise _lost(self.id) from error
            raise


def _increment(before: RequestOutput, after: RequestOutput) -> Increment:
    old, new = before.outputs[0], after.outputs[0]
    start = len(old.token_ids)
    began_s = after.times.first_scheduled_s
    tokens = new.logprobs[start:] if new.logprobs is not None else map(SampledToken, new.token_ids[start:])
    return Increment(
        tokens=tuple(tokens),
        text=new.text[len(old.text) :],
        finish_reason=new.finish_reason,
        stop_reason=new.stop_reason,
        num_cached_tokens=after.num_cached_tokens,
        active_s=0.0 if began_s is None else now_s() - began_s,
        pooled=after.pooled,
    )


def _lost(replica_id: str) -> ReplicaLostError:
    return ReplicaLostError("it was lost while it worked", field=replica_id, remedy="Send the request again")
