"""The modelled fleet: faults happen when asked for, and the dead are gone."""

from __future__ import annotations

import asyncio

import pytest

from steelyard.core.batch import Batch
from steelyard.core.clock import now_s
from steelyard.core.errors import EngineStoppedError
from steelyard.core.params import SamplingParams
from steelyard.core.request import FinishReason, Request
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.executor import ModelledExecutor, SyntheticTokens
from steelyard.fleet.dispatcher import DispatchConfig, Dispatcher
from steelyard.fleet.replica import EngineReplica
from steelyard.policies.route import make_route_policy
from steelyard.policies.schedule import make_schedule_policy
from steelyard.sim.fleet import Built, FaultyExecutor, ModelledFleet
from steelyard.sim.virtual import run_virtual

EMPTY = Batch(0, ())
REQUEST = Request(id="r", prompt_token_ids=(1, 2), params=SamplingParams(max_tokens=5, seed=1))


def machine() -> ModelledExecutor:
    return ModelledExecutor(lambda batch: 0.5, SyntheticTokens(10))


def build(place: int, name: str) -> Built[FaultyExecutor]:
    executor = FaultyExecutor(machine())
    config = EngineConfig(max_model_len=32, num_kv_blocks=8, block_size=4)
    engine = Engine(config, executor, make_schedule_policy("fcfs"), vocab_size=10)
    return Built(engine, executor, EngineReplica(name, engine))


def make_fleet(num_places: int) -> ModelledFleet[FaultyExecutor]:
    fleet = ModelledFleet(Dispatcher(make_route_policy("round_robin"), DispatchConfig()), build)
    for place in range(num_places):
        fleet.start(place)
    return fleet


def test_a_machine_slows_down_and_fails_as_told():
    async def main() -> None:
        executor = FaultyExecutor(machine())
        await executor.execute(EMPTY)
        assert now_s() == 0.5
        executor.slowdown = 3.0
        await executor.execute(EMPTY)
        assert now_s() == 2.0
        executor.num_failures, executor.slowdown = 1, 1.0
        with pytest.raises(EngineStoppedError, match="injected"):
            await executor.execute(EMPTY)
        await executor.execute(EMPTY)
        await executor.close()

    run_virtual(main())


def test_a_killed_replica_leaves_and_a_fresh_one_has_a_new_name():
    async def main() -> None:
        fleet = make_fleet(2)
        await fleet.kill(0)
        await fleet.kill(0)
        assert fleet.machine(0) is None
        assert [view.id for view in fleet.dispatcher.views()] == ["replica-1.1"]
        fleet.start(0)
        assert [view.id for view in fleet.dispatcher.views()] == ["replica-1.1", "replica-0.2"]
        fleet.check_idle()
        await fleet.close()

    run_virtual(main())


def test_death_comes_in_the_middle_of_a_step():
    """Unlike ``Engine.close``, which lets the step in flight end: its token is not delivered."""

    async def main() -> list[float]:
        fleet, times = make_fleet(2), []

        async def client() -> FinishReason | None:
            reason = None
            async for increment in fleet.dispatcher.stream(REQUEST):
                times.append(now_s())
                reason = increment.finish_reason
            return reason

        task = asyncio.create_task(client())
        await asyncio.sleep(1.25)
        await fleet.kill(0)
        assert await task is FinishReason.LENGTH
        fleet.check_idle()
        await fleet.close()
        return times

    assert run_virtual(main()) == [0.5, 1.0, 1.75, 2.25, 2.75]


def test_what_is_left_behind_is_found():
    async def main() -> None:
        fleet = make_fleet(1)
        stream = fleet.dispatcher.stream(REQUEST)
        await anext(stream)
        with pytest.raises(AssertionError, match="a sequence is left"):
            fleet.check_idle()
        await stream.aclose()
        await asyncio.sleep(1.0)
        fleet.check_idle()
        await fleet.close()

    run_virtual(main())


def test_a_retired_replica_ends_what_it_has_and_gets_nothing_more():
    async def main() -> None:
        fleet = make_fleet(1)
        stream = fleet.dispatcher.stream(REQUEST)
        await anext(stream)
        leaving = asyncio.create_task(fleet.retire(0))
        await asyncio.sleep(0)
        assert fleet.dispatcher.views() == ()
        assert [increment.finish_reason async for increment in stream][-1] is FinishReason.LENGTH
        await leaving
        assert fleet.standing() == {}

    run_virtual(main())
