"""A fleet as one engine: whole requests in, responses out, however many replicas share the work.

:class:`FleetEngine` looks to a server as :class:`~steelyard.engine.engine.Engine` does. It takes a request apart into
one stream per completion, lets the dispatcher keep each unbroken, and puts the increments together again. What it says
of queues and KV caches is the sum of what its replicas said last; what waits and what is promised it counts itself, so
that a burst of requests is seen before any replica has heard of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import chain, count
from random import Random
from typing import Protocol, final

from steelyard.core.clock import now_s
from steelyard.core.errors import EngineBusyError, EngineStoppedError, ParamsError, SteelyardError
from steelyard.core.request import CompletionOutput, FinishReason, Request, SampledToken
from steelyard.core.units import ceil_div
from steelyard.engine.admission import check_request
from steelyard.engine.completion import Bookmark, GrowingText
from steelyard.engine.config import EngineConfig
from steelyard.engine.constraints import GrammarStore, check_constraint
from steelyard.engine.engine import Engine
from steelyard.engine.response import Response
from steelyard.engine.view import LiveSequence, Observer, StepRecord
from steelyard.fleet.dispatcher import Dispatcher, single_requests
from steelyard.fleet.replica import Increment, Replica
from steelyard.memory.kv_manager import KVUsage
from steelyard.policies.admit.types import EngineLoad

logger = logging.getLogger("steelyard.fleet")

_SEED_BITS = 63
_REPLICA_SHIFT = 40  # sequences are numbered anew by each replica; above this bit stands whose they are


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """How busy a replica is.

    Attributes:
        num_running: sequences that hold a seat.
        waiting: tenant → sequences that wait.
        kv: how its KV cache is used.
    """

    num_running: int
    waiting: Mapping[str, int]
    kv: KVUsage

    @classmethod
    def of(cls, engine: Engine) -> ReplicaStatus:
        """Return an engine's."""
        return cls(num_running=engine.num_running, waiting=dict(engine.waiting_tenants()), kv=engine.kv_usage)


class ObservedReplica(Replica, Protocol):
    """A replica that tells how it is."""

    @property
    def status(self) -> ReplicaStatus:
        """What is known of it now."""

    @property
    def kv_block_states(self) -> bytes:
        """What each of its KV blocks was used for when it was last looked at."""

    def live_sequences(self) -> tuple[LiveSequence, ...]:
        """Look at its sequences and KV blocks, and return the sequences as they were when last looked at."""

    def add_observer(self, observer: Observer) -> None:
        """Call ``observer`` after each of its steps; their times are this event loop's."""

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """Say what each tenant is due (the ``vtc`` policy)."""


@final
class StreamedCompletion:
    """A completion that grows by increments (:class:`~steelyard.engine.response.Completion`)."""

    def __init__(self, index: int, *, keeps_logprobs: bool) -> None:
        self._index = index
        self._tokens: list[int] = []
        self._text = GrowingText()
        self._logprobs: list[SampledToken] | None = [] if keeps_logprobs else None
        self._stop_reason: str | int | None = None
        self.finish_reason: FinishReason | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the output so far."""
        return len(self._tokens)

    def add(self, increment: Increment) -> None:
        """Grow."""
        self._tokens += [token.token_id for token in increment.tokens]
        self._text.append(increment.text)
        if self._logprobs is not None:
            self._logprobs += increment.tokens
        self._stop_reason = increment.stop_reason
        self.finish_reason = increment.finish_reason

    def end(self, reason: FinishReason) -> None:
        """End it for ``reason``, unless it has ended already."""
        if self.finish_reason is None:
            self.finish_reason = reason

    def snapshot(self) -> CompletionOutput:
        """Return what is known now."""
        return self._output(self._text.whole(), 0)

    def read(self, mark: Bookmark) -> CompletionOutput | None:
        """Return only what was added since ``mark``, which is moved; ``None`` if that is nothing."""
        num_tokens, ended = self.num_tokens, self.finish_reason is not None
        if num_tokens == mark.num_tokens and ended == mark.ended:
            return None
        added = self._output(self._text.since(mark.num_pieces), mark.num_tokens)
        mark.num_tokens, mark.num_pieces, mark.ended = num_tokens, len(self._text), ended
        return added

    def _output(self, text: str, first_token: int) -> CompletionOutput:
        return CompletionOutput(
            index=self._index,
            text=text,
            token_ids=tuple(self._tokens[first_token:]),
            finish_reason=self.finish_reason,
            stop_reason=self._stop_reason,
            logprobs=None if self._logprobs is None else tuple(self._logprobs[first_token:]),
        )


@dataclass(eq=False, slots=True)
class _Followed:
    """A request, the tasks that follow its completions, and the KV blocks promised to it."""

    response: Response[StreamedCompletion]
    num_blocks: int
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


@final
class FleetEngine:
    """Replicas as one engine. Make and use it inside a running event loop.

    Args:
        config: of every replica, but for ``max_waiting``: that is for all together, and replicas take whatever they are
            sent, for a request that was let in once must find a place when its replica dies.
        dispatcher: its replicas are those that join here.
        vocab_size: for checking token ids in requests.
        has_text: whether replicas have a tokenizer.
        grammars: compile constraints, so that wrong ones are refused here; ``None`` refuses all.
    """

    def __init__(
        self,
        config: EngineConfig,
        dispatcher: Dispatcher,
        *,
        vocab_size: int,
        has_text: bool,
        grammars: GrammarStore | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self._each, self._vocab_size, self._has_text, self._grammars = config, vocab_size, has_text, grammars
        self._replicas: dict[str, ObservedReplica] = {}
        self._observers: list[Observer] = []
        self._shares: Mapping[str, float] = {}
        self._followed: dict[str, _Followed] = {}
        self._num_promised_blocks = self._num_unfinished = 0
        self._rng, self._numbers = Random(config.seed), count()
        self._lost_hits = self._lost_misses = 0
        self._closed = False

    # -- replicas -------------------------------------------------------------------------------------------------

    @property
    def replicas(self) -> tuple[ObservedReplica, ...]:
        """Those that are here now, in the order of joining."""
        return tuple(self._replicas.values())

    def join(self, replica: ObservedReplica) -> None:
        """Give a replica requests from now on."""
        number = next(self._numbers)
        replica.add_observer(lambda record: self._observe(number, record))
        replica.set_shares(self._shares)
        self._replicas[replica.id] = replica
        self.dispatcher.join(replica)

    def leave(self, replica_id: str) -> None:
        """Give a replica nothing more; what its prefix cache has found stays counted. Unknown ids are ignored."""
        replica = self._replicas.pop(replica_id, None)
        if replica is not None:
            self._lost_hits += replica.status.kv.num_hit_tokens
            self._lost_misses += replica.status.kv.num_miss_tokens
        self.dispatcher.leave(replica_id)

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """Say what each tenant is due, to all replicas and those that will come."""
        self._shares = shares
        for replica in self.replicas:
            replica.set_shares(shares)

    # -- requests -------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Response[StreamedCompletion]:
        """Take a request, in whole or not at all.

        Raises:
            EngineBusyError: if too many sequences wait already.
            EngineStoppedError: if the fleet was closed.
            InputError: if the request cannot be served (see :mod:`steelyard.engine.admission`).
        """
        self._check(request)
        completions = tuple(
            StreamedCompletion(index, keeps_logprobs=request.params.logprobs is not None)
            for index in range(request.params.n)
        )
        response = Response(request, completions, now_s())
        followed = _Followed(response, request.params.n * self._longest_blocks(request))
        self._followed[request.id] = followed
        self._num_promised_blocks += followed.num_blocks
        self._num_unfinished += request.params.n
        singles = single_requests(request, self._rng.getrandbits(_SEED_BITS))
        for completion, single in zip(completions, singles, strict=True):
            task = asyncio.get_running_loop().create_task(self._follow(followed, completion, single))
            followed.tasks.append(task)
        return response

    def cancel(self, request_id: str, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """End a request now; its replicas hear of it. Unknown ids are ignored."""
        followed = self._followed.get(request_id)
        if followed is not None:
            self._end(followed, reason)

    async def close(self) -> None:
        """End every request with an error."""
        self._closed = True
        stopped = EngineStoppedError("it was closed while working", field="engine", remedy="Make a new one")
        tasks = [task for followed in self._followed.values() for task in followed.tasks]
        for followed in list(self._followed.values()):
            self._end(followed, FinishReason.ERROR, stopped)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check(self, request: Request) -> None:
        if self._closed:
            raise EngineStoppedError("it was closed", field="engine", remedy="Make a new one")
        check_request(request, self._each, self._vocab_size, has_text=self._has_text)
        if self.num_waiting >= self._each.max_waiting:
            problem = f"{self.num_waiting} sequences are waiting already"
            raise EngineBusyError(problem, field="max_waiting", remedy="Try again later, or raise max_waiting")
        if request.id in self._followed:
            raise ParamsError(f"{request.id!r} is in use", field="request_id", remedy="Choose a unique id")
        check_constraint(request.params, self._grammars)

    async def _follow(self, followed: _Followed, completion: StreamedCompletion, single: Request) -> None:
        """Let a completion grow until it has ended."""
        try:
            async with aclosing(self.dispatcher.stream(single)) as increments:
                async for increment in increments:
                    self._take(followed.response, completion, increment)
        except SteelyardError as error:
            self._end(followed, FinishReason.ERROR, error)
        except Exception as error:
            logger.exception("a bug in following %s", single.id)
            problem = f"following it failed: {type(error).__name__}"
            self._end(followed, FinishReason.ERROR, EngineStoppedError(problem, field="fleet", remedy="See the log"))
        if followed.response.finished:
            self._forget(followed)

    def _take(
        self, response: Response[StreamedCompletion], completion: StreamedCompletion, increment: Increment
    ) -> None:
        now = now_s()
        if completion is response.completions[0]:
            response.note_scheduled(now - increment.active_s, increment.num_cached_tokens)
        if increment.prompt_logprobs is not None:
            response.note_prompt_logprobs(0, increment.prompt_logprobs)
        if increment.pooled is not None:
            response.note_vector(increment.pooled)
        completion.add(increment)
        self._num_unfinished -= increment.finish_reason is not None
        if increment.tokens:
            response.note_token(now)
        else:
            response.wake()

    def _end(self, followed: _Followed, reason: FinishReason, error: SteelyardError | None = None) -> None:
        self._num_unfinished -= sum(one.finish_reason is None for one in followed.response.completions)
        followed.response.end(reason, error)
        self._forget(followed)
        for task in followed.tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def _forget(self, followed: _Followed) -> None:
        if self._followed.pop(followed.response.request.id, None) is not None:
            self._num_promised_blocks -= followed.num_blocks

    def _longest_blocks(self, request: Request) -> int:
        """Return the KV blocks of one completion at its longest."""
        longest = self._each.max_model_len
        if request.params.max_tokens is not None:
            longest = min(longest, len(request.prompt_token_ids) + request.params.max_tokens)
        return ceil_div(longest, self._each.block_size)

    # -- how it is ------------------------------------------------------------------------------------------------

    @property
    def config(self) -> EngineConfig:
        """The replicas' configuration, with the seats and KV blocks of those that are here together."""
        num_replicas = max(1, len(self._replicas))
        return replace(
            self._each,
            max_num_seqs=num_replicas * self._each.max_num_seqs,
            num_kv_blocks=num_replicas * self._each.num_kv_blocks,
        )

    @property
    def num_running(self) -> int:
        """Sequences that hold a seat."""
        return min(self._num_unfinished, sum(replica.status.num_running for replica in self.replicas))

    @property
    def num_waiting(self) -> int:
        """Sequences that wait, those on their way to a replica included."""
        return self._num_unfinished - self.num_running

    def load(self) -> EngineLoad:
        """Return how busy the fleet is, for admission policies."""
        kv = self.kv_usage
        return EngineLoad(
            num_running=self.num_running,
            num_waiting=self.num_waiting,
            num_free_blocks=kv.num_idle_blocks + kv.num_empty_blocks,
            num_promised_blocks=max(0, self._num_promised_blocks - kv.num_referenced_blocks),
            block_size=self._each.block_size,
        )

    def waiting_tenants(self) -> Counter[str]:
        """Return how many sequences of each tenant wait at replicas."""
        return sum((Counter(replica.status.waiting) for replica in self.replicas), Counter())

    @property
    def kv_usage(self) -> KVUsage:
        """How the KV caches are used, added up; what replicas had found that are no longer here is counted, too."""
        usages = [replica.status.kv for replica in self.replicas]

        def total(read: Callable[[KVUsage], int]) -> int:
            return sum(map(read, usages))

        return KVUsage(
            num_blocks=total(lambda kv: kv.num_blocks),
            num_referenced_blocks=total(lambda kv: kv.num_referenced_blocks),
            num_idle_blocks=total(lambda kv: kv.num_idle_blocks),
            num_empty_blocks=total(lambda kv: kv.num_empty_blocks),
            num_hit_tokens=self._lost_hits + total(lambda kv: kv.num_hit_tokens),
            num_miss_tokens=self._lost_misses + total(lambda kv: kv.num_miss_tokens),
        )

    @property
    def kv_block_states(self) -> bytes:
        """What each KV block is used for, replica after replica."""
        return b"".join(replica.kv_block_states for replica in self.replicas)

    def live_sequences(self) -> tuple[LiveSequence, ...]:
        """Return the sequences of all replicas, running ones first."""
        found = chain.from_iterable(replica.live_sequences() for replica in self.replicas)
        return tuple(sorted(found, key=lambda one: not one.running))

    def add_observer(self, observer: Observer) -> None:
        """Call ``observer`` after each step of each replica; sequences of different replicas have different ids."""
        self._observers.append(observer)

    def remove_observer(self, observer: Observer) -> None:
        """Call ``observer`` no more; it must have been added."""
        self._observers.remove(observer)

    def check_idle(self) -> None:
        """Raise ``AssertionError`` unless every request has ended and nothing is counted of any."""
        assert not self._followed, "a request is left"
        assert self._num_promised_blocks == self._num_unfinished == 0, "something is promised to nobody"
        for view in self.dispatcher.views():
            assert (view.num_outstanding_requests, view.num_outstanding_tokens) == (0, 0), "a request is still counted"

    def _observe(self, number: int, record: StepRecord) -> None:
        offset = number << _REPLICA_SHIFT
        shifted = replace(
            record,
            works=tuple((offset + one, start, num_tokens) for one, start, num_tokens in record.works),
            sampled=tuple(offset + one for one in record.sampled),
            num_running=self.num_running,
            num_waiting=self.num_waiting,
        )
        for observer in self._observers:
            observer(shifted)
