"""The dispatcher over scripted replicas: every way to lose one, and what the client sees of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from steelyard.core.clock import now_s, sleep_s
from steelyard.core.errors import EngineBusyError, EngineStoppedError, NoReplicaError, ParamsError, ReplicaLostError
from steelyard.core.params import SamplingParams
from steelyard.core.request import FinishReason, Request, SampledToken
from steelyard.fleet.dispatcher import DispatchConfig, Dispatcher, single_requests
from steelyard.fleet.replica import Increment
from steelyard.policies.route import make_route_policy
from steelyard.sim.virtual import run_virtual

REQUEST = Request(id="r", prompt_token_ids=(1, 2, 3), params=SamplingParams(max_tokens=6))
LOST = ReplicaLostError("gone", field="replica", remedy="-")
FAILED = EngineStoppedError("step failed", field="executor", remedy="-")


@dataclass
class Scripted:
    """Answers with tokens 100, 101, … by position, one each 10 ms, and fails as told: attempt → (tokens, error)."""

    id: str
    script: list[tuple[int, Exception | None]] = field(default_factory=list)
    capacity: float = 1.0
    asked: list[Request] = field(default_factory=list)
    num_closed: int = 0

    async def stream(self, request: Request) -> AsyncGenerator[Increment, None]:
        self.asked.append(request)
        fails_after, error = self.script.pop(0) if self.script else (10**9, None)
        try:
            for count, position in enumerate(range(len(request.output), request.params.max_tokens or 0)):
                if count == fails_after:
                    if error is not None:
                        raise error
                    return
                await sleep_s(0.01)
                last = position + 1 == request.params.max_tokens
                yield Increment(
                    tokens=(SampledToken(100 + position),), finish_reason=FinishReason.LENGTH if last else None
                )
        finally:
            self.num_closed += 1


def serve(work: Callable[[Dispatcher], Awaitable[Any]], *replicas: Scripted, **config: Any) -> Any:
    async def main() -> Any:
        dispatcher = Dispatcher(make_route_policy("round_robin"), DispatchConfig(**config))
        for replica in replicas:
            dispatcher.join(replica)
        result = await work(dispatcher)
        assert all((v.num_outstanding_requests, v.num_outstanding_tokens) == (0, 0) for v in dispatcher.views())
        return result

    return run_virtual(main())


async def collect(dispatcher: Dispatcher, request: Request = REQUEST) -> list[Increment]:
    return [increment async for increment in dispatcher.stream(request)]


def tokens(increments: list[Increment]) -> list[int]:
    return [token.token_id for increment in increments for token in increment.tokens]


WHOLE = [100, 101, 102, 103, 104, 105]


@pytest.mark.parametrize("script", [[], [(0, LOST)], [(3, LOST)], [(5, FAILED)], [(2, None)]])
def test_the_stream_is_whole_whatever_happens_to_the_first_replica(script):
    first, second = Scripted("a", script), Scripted("b")
    increments = serve(collect, first, second)
    assert tokens(increments) == WHOLE
    assert [i.finish_reason for i in increments] == [None] * 5 + [FinishReason.LENGTH]


def test_what_streamed_nothing_is_sent_anew_and_what_streamed_is_continued_with_the_same_seed():
    first, second, third = Scripted("a", [(0, LOST)]), Scripted("b", [(4, LOST)]), Scripted("c")
    assert tokens(serve(collect, first, second, third)) == WHOLE
    outputs = [[t.token_id for t in replica.asked[0].output] for replica in (first, second, third)]
    assert outputs == [[], [], WHOLE[:4]]
    assert len({replica.asked[0].params.seed for replica in (first, second, third)}) == 1
    assert first.asked[0].params.seed is not None


def test_a_lost_replica_is_left_alone_until_it_is_healthy_again():
    first, second = Scripted("a", [(1, LOST)]), Scripted("b")

    async def work(dispatcher: Dispatcher) -> None:
        for _ in range(3):
            await collect(dispatcher)
        assert (len(first.asked), len(second.asked)) == (1, 3)
        assert [view.healthy for view in dispatcher.views()] == [False, True]
        dispatcher.set_healthy("a", True)
        dispatcher.set_healthy("nobody", True)
        await collect(dispatcher)
        assert len(first.asked) == 2

    serve(work, first, second)


def test_a_failed_step_does_not_make_a_replica_ill():
    only = Scripted("a", [(2, FAILED)])
    assert tokens(serve(collect, only)) == WHOLE
    assert len(only.asked) == 2


def test_a_request_that_kills_everything_is_given_up():
    replicas = [Scripted(name, [(1, LOST)]) for name in "abcde"]

    async def work(dispatcher: Dispatcher) -> None:
        with pytest.raises(ReplicaLostError):
            await collect(dispatcher)

    serve(work, *replicas, max_attempts=2)
    assert sum(len(replica.asked) for replica in replicas) == 2


@pytest.mark.parametrize(
    "error", [EngineBusyError("full", field="f", remedy="r"), ParamsError("no", field="f", remedy="r")]
)
def test_other_errors_reach_the_client_at_once(error):
    first, second = Scripted("a", [(0, error)]), Scripted("b")

    async def work(dispatcher: Dispatcher) -> None:
        with pytest.raises(type(error)):
            await collect(dispatcher)

    serve(work, first, second)
    assert second.asked == []


def test_requests_wait_for_a_replica_and_then_go_on():
    async def work(dispatcher: Dispatcher) -> list[Increment]:
        asyncio.get_running_loop().call_later(2.0, dispatcher.join, Scripted("b"))
        return await collect(dispatcher)

    assert tokens(serve(work, Scripted("a", [(3, LOST)]))) == WHOLE


def test_patience_ends():
    async def work(dispatcher: Dispatcher) -> float:
        with pytest.raises(NoReplicaError):
            await collect(dispatcher)
        return now_s()

    assert serve(work, patience_s=5.0) == 5.0


def test_a_deadline_that_passes_while_nobody_is_healthy_ends_the_stream_as_an_engine_would():
    async def work(dispatcher: Dispatcher) -> tuple[list[Increment], float]:
        return await collect(dispatcher, replace(REQUEST, deadline_s=1.5)), now_s()

    increments, end_s = serve(work, Scripted("a", [(2, LOST)]))
    assert tokens(increments) == WHOLE[:2]
    assert increments[-1].finish_reason is FinishReason.DEADLINE
    assert end_s == 1.5


def test_leaving_a_stream_closes_the_replicas():
    only = Scripted("a")

    async def work(dispatcher: Dispatcher) -> None:
        stream = dispatcher.stream(REQUEST)
        await anext(stream)
        assert dispatcher.views()[0].num_outstanding_requests == 1
        await stream.aclose()
        assert only.num_closed == 1

    serve(work, only)


def test_cancelling_a_clients_task_closes_the_replicas_stream():
    only = Scripted("a")

    async def work(dispatcher: Dispatcher) -> None:
        client = asyncio.create_task(collect(dispatcher))
        await sleep_s(0.025)
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)
        assert client.cancelled()
        assert only.num_closed == 1

    serve(work, only)


def test_outstanding_tokens_go_down_as_the_answer_grows():
    async def work(dispatcher: Dispatcher) -> list[int]:
        return [dispatcher.views()[0].num_outstanding_tokens async for _ in dispatcher.stream(REQUEST)]

    assert serve(work, Scripted("a")) == [5, 4, 3, 2, 1, 0]


def test_who_leaves_finishes_what_it_has():
    first = Scripted("a")

    async def work(dispatcher: Dispatcher) -> list[Increment]:
        asyncio.get_running_loop().call_later(0.02, dispatcher.leave, "a")
        increments = await collect(dispatcher)
        assert dispatcher.views() == ()
        dispatcher.leave("a")
        return increments

    assert tokens(serve(work, first)) == WHOLE
    assert len(first.asked) == 1


def test_equal_beginnings_meet_on_one_replica():
    async def main() -> list[int]:
        dispatcher = Dispatcher(make_route_policy("prefix_affinity"), DispatchConfig(block_size=4))
        replicas = [Scripted(name) for name in "abc"]
        for replica in replicas:
            dispatcher.join(replica)
        for number in range(9):
            prompt = (*range(8), number)
            await collect(dispatcher, replace(REQUEST, prompt_token_ids=prompt))
        return sorted(len(replica.asked) for replica in replicas)

    assert run_virtual(main()) == [0, 0, 9]


def test_names_are_unique_and_completions_single():
    async def work(dispatcher: Dispatcher) -> None:
        with pytest.raises(ParamsError, match="there already"):
            dispatcher.join(Scripted("a"))
        with pytest.raises(ParamsError) as caught:
            await collect(dispatcher, replace(REQUEST, params=SamplingParams(n=2)))
        assert caught.value.field == "n"

    serve(work, Scripted("a"))


@pytest.mark.parametrize("seed", [None, 5, -3, (1 << 64) - 1])
def test_completions_are_taken_apart_with_a_seed_each(seed):
    request = replace(REQUEST, params=SamplingParams(n=3, seed=seed))
    singles = single_requests(request, seed=9)
    first = 9 if seed is None else seed
    assert [single.params.seed for single in singles] == [(first + index) % (1 << 64) for index in range(3)]
    assert [single.id for single in singles] == ["r/0", "r/1", "r/2"]
    assert {single.params.n for single in singles} == {1}


@pytest.mark.parametrize(
    "options", [{"max_attempts": 0}, {"patience_s": 0.0}, {"expected_output_tokens": 0}, {"block_size": 0.5}]
)
def test_parameters_are_checked(options):
    with pytest.raises(ParamsError) as caught:
        DispatchConfig(**options)
    assert caught.value.field in options
