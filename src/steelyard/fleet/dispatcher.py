"""The dispatcher: one unbroken stream per request over replicas that may die.

It asks the routing policy where a request goes, follows the replica's stream, and when the replica is lost sends the
request elsewhere: anew if nothing was streamed, behind the tokens that were if something was. Seeds are settled before
the first attempt, and an engine draws by seed and position, so the client sees the tokens it would have seen without
the loss, each once.

Only :class:`~steelyard.fleet.replica.Replica` stands between this and the engines, and time is the running loop's: a
router of processes and the simulator drive the same object.

Left out: starting, restarting and probing replicas; whoever does that calls :meth:`Dispatcher.join`,
:meth:`Dispatcher.leave` and :meth:`Dispatcher.set_healthy`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from random import Random
from typing import final

from steelyard.core.clock import now_s
from steelyard.core.errors import EngineStoppedError, NoReplicaError, ParamsError, ReplicaLostError
from steelyard.core.request import FinishReason, Request
from steelyard.fleet.replica import Increment, Replica
from steelyard.memory.prefix_cache import prompt_digests
from steelyard.policies.registry import check_count, check_number
from steelyard.policies.route.types import ReplicaView, RoutePolicy, RouteRequest

_SEED_BITS = 63
_NUM_SEEDS = 1 << 64  # what engines tell apart


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchConfig:
    """Parameters of :class:`Dispatcher`.

    Attributes:
        max_attempts: replicas that one request may be sent to; a request that kills whatever computes it ends here.
        patience_s: how long a request waits while no replica is healthy.
        expected_output_tokens: output to foresee of requests without ``max_tokens``.
        block_size: tokens per KV block of the replicas, for the digests that prefix-aware routing compares.
        max_prefix_blocks: leading prompt blocks that routing looks at.
        seed: of the generator that draws seeds for requests without one.

    Raises:
        ParamsError: if a value is out of range.
    """

    max_attempts: int = 3
    patience_s: float = 30.0
    expected_output_tokens: int = 256
    block_size: int = 16
    max_prefix_blocks: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_attempts", "expected_output_tokens", "block_size", "max_prefix_blocks"):
            check_count(name, getattr(self, name))
        check_number("patience_s", self.patience_s, above=0)


class _Member:
    """A replica of the fleet and what is known of it.

    Attributes:
        num_requests: sent there and not ended.
        num_tokens: still to be computed for them, as far as can be foreseen.
    """

    __slots__ = ("healthy", "num_requests", "num_tokens", "replica")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.healthy = True
        self.num_requests = 0
        self.num_tokens = 0

    def view(self) -> ReplicaView:
        return ReplicaView(
            id=self.replica.id,
            healthy=self.healthy,
            num_outstanding_requests=self.num_requests,
            num_outstanding_tokens=self.num_tokens,
            capacity=self.replica.capacity,
        )


@final
class Dispatcher:
    """Route, follow, retry, continue.

    Args:
        policy: decides where requests go.
        config: how often, and how long, it tries.

    Attributes:
        num_retries: times that a request was sent again before anything of its answer was there.
        num_continuations: times that an answer went on elsewhere.
    """

    def __init__(self, policy: RoutePolicy, config: DispatchConfig) -> None:
        self._policy, self._config = policy, config
        self._members: dict[str, _Member] = {}
        self._rng = Random(config.seed)
        self._changed = asyncio.Event()
        self.num_retries = self.num_continuations = 0

    def join(self, replica: Replica) -> None:
        """Take a healthy replica into the fleet.

        Raises:
            ParamsError: if one of that name is there already.
        """
        if replica.id in self._members:
            raise ParamsError(f"{replica.id!r} is there already", field="replica", remedy="Give each its own name")
        self._members[replica.id] = _Member(replica)
        self._changed.set()

    def leave(self, replica_id: str) -> None:
        """Take a replica out of the fleet: it finishes what it has and gets nothing more. Unknown ids are ignored."""
        self._members.pop(replica_id, None)

    def set_healthy(self, replica_id: str, healthy: bool) -> None:
        """Say whether a replica may be given requests. Unknown ids are ignored."""
        member = self._members.get(replica_id)
        if member is not None:
            member.healthy = healthy
            self._changed.set()

    def views(self) -> tuple[ReplicaView, ...]:
        """Return what routing sees, in the order of joining."""
        return tuple(member.view() for member in self._members.values())

    async def stream(self, request: Request) -> AsyncGenerator[Increment, None]:
        """Yield the growth of the answer, the last increment with its finish reason; closing it cancels the request.

        Args:
            request: for one completion; :func:`single_requests` takes others apart. Its deadline is the loop's time.

        Raises:
            ReplicaLostError: if ``max_attempts`` replicas were lost over it.
            EngineStoppedError: if so many attempts failed, the last of them in a step its replica survived.
            NoReplicaError: if no replica was healthy for ``patience_s``.
            ParamsError: if it asks for more than one completion.
            InputError, EngineBusyError: see :meth:`~steelyard.fleet.replica.Replica.stream`.
        """
        request = self._settled(request)
        output = list(request.output)
        error: ReplicaLostError | EngineStoppedError | None = None
        for _ in range(self._config.max_attempts):
            request = replace(request, output=tuple(output))
            member = await self._choose(request)
            if member is None:
                yield Increment(finish_reason=FinishReason.DEADLINE)
                return
            try:
                async with aclosing(self._follow(member, request)) as increments:
                    async for increment in increments:
                        output += increment.tokens
                        yield increment
                return
            except (ReplicaLostError, EngineStoppedError) as caught:
                error = caught
                self._count_loss(bool(output))
        assert error is not None
        raise error

    def _count_loss(self, has_begun: bool) -> None:
        if has_begun:
            self.num_continuations += 1
        else:
            self.num_retries += 1

    async def _follow(self, member: _Member, request: Request) -> AsyncGenerator[Increment, None]:
        """Yield a replica's increments up to the last one, keeping the account of what it has still to do."""
        num_left = self._num_tokens(request)
        member.num_requests += 1
        member.num_tokens += num_left
        try:
            num_known = len(request.prompt_token_ids) + len(request.output)
            async with aclosing(member.replica.stream(request)) as increments:
                async for increment in increments:
                    num_done = min(num_left, num_known + len(increment.tokens))
                    num_known, num_left = 0, num_left - num_done
                    member.num_tokens -= num_done
                    yield increment
                    if increment.finish_reason is not None:
                        return
            problem = "its stream ended before the answer did"
            raise ReplicaLostError(problem, field=member.replica.id, remedy="Send the request again")
        except ReplicaLostError:
            member.healthy = False
            raise
        finally:
            member.num_requests -= 1
            member.num_tokens -= num_left

    async def _choose(self, request: Request) -> _Member | None:
        """Return where a request goes, waiting while nobody is healthy; ``None`` if its deadline passes meanwhile."""
        deadline_s = math.inf if request.deadline_s is None else request.deadline_s
        patient_until_s = now_s() + self._config.patience_s
        route = self._route_request(request)
        while True:
            members = list(self._members.values())
            try:
                return members[self._policy(route, [member.view() for member in members])]
            except NoReplicaError:
                if now_s() >= deadline_s:
                    return None
                if now_s() >= patient_until_s:
                    raise
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(deadline_s, patient_until_s)):
                    await self._changed.wait()

    def _route_request(self, request: Request) -> RouteRequest:
        config = self._config
        prefix = prompt_digests(
            request.prompt_token_ids, request.cache_salt, config.block_size, config.max_prefix_blocks
        )
        return RouteRequest(num_tokens=self._num_tokens(request), prefix=prefix, tenant=request.tenant)

    def _num_tokens(self, request: Request) -> int:
        """Return the tokens still to be computed for a request, at least one of them output."""
        num_output = request.params.max_tokens or self._config.expected_output_tokens
        return len(request.prompt_token_ids) + max(num_output, len(request.output) + 1)

    def _settled(self, request: Request) -> Request:
        """Return the request with a seed, so that every attempt draws the same tokens."""
        if request.params.n != 1:
            raise ParamsError(
                f"{request.params.n} completions cannot be one stream", field="n", remedy="Take the request apart"
            )
        if request.params.seed is not None or request.pooling is not None:
            return request
        return replace(request, params=replace(request.params, seed=self._rng.getrandbits(_SEED_BITS)))


def single_requests(request: Request, seed: int) -> tuple[Request, ...]:
    """Return one request per completion; together they draw what an engine draws for a request with that seed.

    Args:
        request: for any number of completions; of one that is pooled there is one, with nothing to draw. The first is
            the one that is asked for the prompt's log-probabilities.
        seed: to draw by, if the request names none.
    """
    if request.pooling is not None:
        return (request,)
    first = seed if request.params.seed is None else request.params.seed
    seeds = [(first + index) % _NUM_SEEDS for index in range(request.params.n)]
    alone = replace(request.params, n=1)
    others = replace(alone, prompt_logprobs=None)
    return tuple(
        replace(request, id=f"{request.id}/{index}", params=replace(others if index else alone, seed=own))
        for index, own in enumerate(seeds)
    )
