"""A fleet as one engine, in virtual time: the same outputs as an engine's, and a true account of what is going on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.batch import Batch, StepOutput
from steelyard.core.errors import EngineBusyError, EngineStoppedError, NoReplicaError, ParamsError, PromptError
from steelyard.core.params import SamplingParams
from steelyard.core.pooling import NO_SAMPLING, PoolingParams
from steelyard.core.request import FinishReason, Request, RequestOutput, TokenLogprob
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.executor import ModelledExecutor, SyntheticTokens
from steelyard.engine.view import LiveSequence, Observer, StepRecord
from steelyard.fleet.dispatcher import DispatchConfig, Dispatcher
from steelyard.fleet.engine import FleetEngine, ReplicaStatus
from steelyard.fleet.replica import EngineReplica, Increment
from steelyard.policies.route import make_route_policy
from steelyard.policies.schedule import make_schedule_policy
from steelyard.sim.virtual import run_virtual

VOCABULARY = 50
CONFIG = EngineConfig(max_model_len=64, num_kv_blocks=64, block_size=4, max_num_seqs=4, max_waiting=8)
STEP_S = 0.01


class WithLogprobs:
    """Synthetic tokens with log-probabilities that tell their place."""

    def __init__(self) -> None:
        self._tokens = SyntheticTokens(VOCABULARY)

    def __call__(self, batch: Batch) -> StepOutput:
        output = self._tokens(batch)
        works = {work.sequence.id: work for work in batch.works}
        sampled = {
            name: tuple(replace(t, logprob=TokenLogprob(t.token_id, -float(works[name].end), 1)) for t in tokens)
            for name, tokens in output.sampled.items()
        }
        return StepOutput(sampled, pooled=output.pooled)


class Local:
    """An engine of this loop as an observed replica."""

    capacity = 1.0

    def __init__(self, id: str) -> None:
        self.id = id
        self.engine = Engine(
            replace(CONFIG, max_waiting=1000),
            ModelledExecutor(lambda batch: STEP_S, WithLogprobs()),
            make_schedule_policy("fcfs"),
            vocab_size=VOCABULARY,
        )
        self.shares: Mapping[str, float] | None = None
        self._replica = EngineReplica(id, self.engine)
        self._loop = asyncio.get_running_loop().create_task(self.engine.run())

    @property
    def status(self) -> ReplicaStatus:
        return ReplicaStatus.of(self.engine)

    @property
    def kv_block_states(self) -> bytes:
        return self.engine.kv_block_states

    def live_sequences(self) -> tuple[LiveSequence, ...]:
        return self.engine.live_sequences()

    def add_observer(self, observer: Observer) -> None:
        self.engine.add_observer(observer)

    def set_shares(self, shares: Mapping[str, float]) -> None:
        self.shares = shares

    def stream(self, request: Request) -> AsyncGenerator[Increment, None]:
        return self._replica.stream(request)

    async def close(self) -> None:
        await self.engine.close()
        await self._loop


def with_fleet(work: Callable[[FleetEngine], Awaitable[object]], num_replicas: int = 2) -> None:
    async def main() -> None:
        dispatcher = Dispatcher(make_route_policy("round_robin"), DispatchConfig(patience_s=1.0))
        fleet = FleetEngine(CONFIG, dispatcher, vocab_size=VOCABULARY, has_text=False)
        locals_ = [Local(f"r{index}") for index in range(num_replicas)]
        for one in locals_:
            fleet.join(one)
        await work(fleet)
        await fleet.close()
        fleet.check_idle()
        for one in locals_:
            await asyncio.sleep(2 * STEP_S)
            if not one.engine.closed:
                one.engine.check_invariants()
                assert (one.engine.num_running, one.engine.num_waiting) == (0, 0), "a replica still works for nobody"
            await one.close()

    run_virtual(main())


def request(id: str = "a", num_prompt: int = 6, **params: object) -> Request:
    given = {"max_tokens": 10, "seed": 3, "ignore_eos": True} | params
    return Request(id=id, prompt_token_ids=tuple(range(1, 1 + num_prompt)), params=SamplingParams(**given))  # type: ignore[arg-type]


def timeless(output: RequestOutput) -> RequestOutput:
    return replace(
        output, times=replace(output.times, arrival_s=0, first_scheduled_s=0, first_token_s=0, last_token_s=0)
    )


async def alone(asked: Request) -> RequestOutput:
    """Return one engine's output."""
    local = Local("x")
    output = await local.engine.submit(asked).result()
    await local.close()
    return output


@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request(n=3, logprobs=2),
        request(temperature=0.0, max_tokens=1),
        request(stop_token_ids=tuple(range(25))),
        Request(id="p", prompt_token_ids=(4, 5, 6), params=NO_SAMPLING, pooling=PoolingParams()),
    ],
)
@pytest.mark.parametrize("loses", [None, "r0", "r1"])
def test_its_outputs_are_one_engines_whoever_dies(asked: Request, loses: str | None):
    async def work(fleet: FleetEngine) -> None:
        response = fleet.submit(asked)
        lost = [one for one in fleet.replicas if one.id == loses]
        for one in lost:
            await asyncio.sleep(3.5 * STEP_S)
            fleet.leave(one.id)
            assert isinstance(one, Local)
            await one.close()
        output = await response.result()
        expected = await alone(asked)
        cached = 0 if lost else output.num_cached_tokens
        assert timeless(replace(output, num_cached_tokens=cached)) == timeless(expected)

    with_fleet(work)


def test_times_are_those_of_the_work():
    async def work(fleet: FleetEngine) -> None:
        output = await fleet.submit(request(max_tokens=3)).result()
        times = output.times
        assert times.first_scheduled_s is not None
        assert times.first_scheduled_s - times.arrival_s == pytest.approx(0.0, abs=STEP_S / 10)
        assert times.ttft_s == pytest.approx(STEP_S)
        assert times.last_token_s is not None
        assert times.last_token_s - times.arrival_s == pytest.approx(3 * STEP_S)

    with_fleet(work)


def test_what_waits_is_counted_before_a_replica_has_heard_of_it():
    async def work(fleet: FleetEngine) -> None:
        responses = [fleet.submit(request(str(index))) for index in range(8)]
        load = fleet.load()
        assert (load.num_running, load.num_waiting) == (0, 8)
        assert load.num_promised_blocks == 8 * 4
        assert load.num_free_blocks == 2 * CONFIG.num_kv_blocks
        with pytest.raises(EngineBusyError):
            fleet.submit(request("one too many"))
        await asyncio.sleep(1.5 * STEP_S)
        load = fleet.load()
        assert (load.num_running, load.num_waiting) == (8, 0)
        assert load.num_promised_blocks + fleet.kv_usage.num_referenced_blocks == 8 * 4
        assert fleet.config.max_num_seqs == 2 * CONFIG.max_num_seqs
        assert len(fleet.kv_block_states) == fleet.config.num_kv_blocks == fleet.kv_usage.num_blocks
        assert len(fleet.live_sequences()) == 8
        for response in responses:
            await response.result()
        assert fleet.load().num_promised_blocks == 0

    with_fleet(work)


def test_what_was_let_in_is_never_refused_when_its_replica_dies():
    async def work(fleet: FleetEngine) -> None:
        running = [fleet.submit(request(str(index))) for index in range(8)]
        await asyncio.sleep(1.5 * STEP_S)
        waiting = [fleet.submit(request(f"w{index}")) for index in range(8)]
        victim = fleet.replicas[0]
        fleet.leave(victim.id)
        assert isinstance(victim, Local)
        await victim.close()
        outputs = [await response.result() for response in running + waiting]
        assert all(output.outputs[0].finish_reason is FinishReason.LENGTH for output in outputs)

    with_fleet(work)


def test_sequences_of_different_replicas_are_told_apart():
    records: list[StepRecord] = []

    async def work(fleet: FleetEngine) -> None:
        fleet.add_observer(records.append)
        responses = [fleet.submit(request(str(index), max_tokens=4)) for index in range(4)]
        for response in responses:
            await response.result()
        await asyncio.sleep(STEP_S)
        fleet.remove_observer(records.append)
        await fleet.submit(request("unseen")).result()

    with_fleet(work)
    assert sum(len(record.sampled) for record in records) == 16
    assert len({one for record in records for one in record.sampled}) == 4
    assert all({one for one, _, _ in record.works} == set(record.sampled) for record in records)
    assert records[0].num_running == 4


def test_wrong_requests_are_refused_whole():
    async def work(fleet: FleetEngine) -> None:
        for wrong, error in (
            (request(num_prompt=64), PromptError),
            (request(max_tokens=100), ParamsError),
            (request(stop=("a",)), ParamsError),
        ):
            with pytest.raises(error):
                fleet.submit(wrong)
        fleet.submit(request())
        with pytest.raises(ParamsError, match="in use"):
            fleet.submit(request())
        fleet.cancel("a")
        fleet.cancel("nobody")
        fleet.check_idle()

    with_fleet(work)


def test_cancelled_deadlines_and_closing():
    async def work(fleet: FleetEngine) -> None:
        cancelled = fleet.submit(request("c", n=2))
        late = fleet.submit(replace(request("d"), deadline_s=asyncio.get_running_loop().time() + 3.5 * STEP_S))
        await asyncio.sleep(2.5 * STEP_S)
        fleet.cancel("c")
        assert [one.finish_reason for one in cancelled.snapshot().outputs] == [FinishReason.CANCELLED] * 2
        assert (await late.result()).outputs[0].finish_reason is FinishReason.DEADLINE
        left = fleet.submit(request("e"))
        await fleet.close()
        with pytest.raises(EngineStoppedError):
            await left.result()
        with pytest.raises(EngineStoppedError):
            fleet.submit(request("f"))

    with_fleet(work)


def test_when_nobody_is_left_requests_end_with_an_error_and_no_task_stays():
    async def work(fleet: FleetEngine) -> None:
        response = fleet.submit(request(n=3))
        await asyncio.sleep(2.5 * STEP_S)
        for one in fleet.replicas:
            fleet.leave(one.id)
            assert isinstance(one, Local)
            await one.close()
        with pytest.raises(NoReplicaError):
            await response.result()
        assert response.finished
        fleet.check_idle()

    with_fleet(work)


def test_shares_reach_replicas_that_come_later_and_hits_of_the_lost_stay_counted():
    async def work(fleet: FleetEngine) -> None:
        fleet.set_shares({"ann": 2.0})
        late = Local("late")
        fleet.join(late)
        assert late.shares == {"ann": 2.0}
        for index in range(6):
            await fleet.submit(request(str(index), num_prompt=17)).result()
        before = fleet.kv_usage
        assert before.num_hit_tokens > 0
        fleet.leave("late")
        fleet.leave("late")
        after = fleet.kv_usage
        assert (after.num_hit_tokens, after.num_miss_tokens) == (before.num_hit_tokens, before.num_miss_tokens)
        await late.close()

    with_fleet(work)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_lives_leave_nothing_behind(data: st.DataObject):
    plans = data.draw(
        st.lists(
            st.tuples(st.integers(0, 30), st.integers(1, 30), st.integers(1, 3), st.none() | st.integers(0, 30)),
            min_size=1,
            max_size=8,
        )
    )
    dies_after = data.draw(st.none() | st.integers(0, 40))

    async def one(fleet: FleetEngine, index: int, start: int, length: int, n: int, leaves: int | None) -> None:
        await asyncio.sleep(start * STEP_S)
        asked = request(str(index), max_tokens=length, n=n)
        try:
            response = fleet.submit(asked)
        except EngineBusyError:
            return
        if leaves is not None:
            await asyncio.sleep(leaves * STEP_S)
            fleet.cancel(asked.id)
        output = await response.result()
        if leaves is None:
            tokens = SyntheticTokens(VOCABULARY)
            for completion in output.outputs:
                seed = 3 + completion.index
                assert completion.token_ids == tuple(tokens.token(seed, 6 + place) for place in range(length))

    async def death(fleet: FleetEngine) -> None:
        if dies_after is None:
            return
        await asyncio.sleep(dies_after * STEP_S)
        victim = fleet.replicas[0]
        fleet.leave(victim.id)
        assert isinstance(victim, Local)
        await victim.close()

    async def work(fleet: FleetEngine) -> None:
        await asyncio.gather(death(fleet), *(one(fleet, index, *plan) for index, plan in enumerate(plans)))
        fleet.check_idle()

    with_fleet(work)
