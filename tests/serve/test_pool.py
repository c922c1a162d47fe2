"""Loading on demand, leases and eviction, with models that are not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_server import FakeModels

from steelyard.core.errors import MemoryBudgetError, ModelError
from steelyard.serve.config import ModelSpec
from steelyard.serve.errors import ApiError
from steelyard.serve.pool import ModelPool, ModelState
from steelyard.sim.virtual import run_virtual

SIZES = {"a": 40, "b": 50, "c": 60}
SPECS = [ModelSpec(source=name, names=(name, name.upper())) for name in SIZES]


def with_pool(budget: int | None, test: Callable[[ModelPool, FakeModels], Awaitable[None]], **gates: bool) -> None:
    """Run a test of a pool on the virtual clock."""

    async def main() -> None:
        source = FakeModels(dict(SIZES))
        source.gates = {name: asyncio.Event() for name in gates}
        pool = ModelPool(SPECS, source, budget)
        try:
            await test(pool, source)
        finally:
            await pool.close()

    run_virtual(main())


def begin(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work)


async def settle() -> None:
    """Let everything that can happen happen."""
    await asyncio.sleep(1.0)


async def use(pool: ModelPool, name: str, seconds: float = 0.0) -> None:
    async with pool.lease(name):
        await asyncio.sleep(seconds)


def test_names():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        assert pool.find("A") is pool.find("a") is pool.models[0]
        assert (pool.answer_name(None), pool.answer_name("B")) == ("a", "b")
        with pytest.raises(ApiError) as caught:
            pool.find("d")
        assert caught.value.status == 404

    with_pool(None, test)


def test_models_are_loaded_when_they_are_asked_for_and_once():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        assert not pool.is_ready
        await pool.start()
        assert source.log == ["load a"]
        await asyncio.gather(*(use(pool, "b") for _ in range(5)), use(pool, "a"))
        assert source.log == ["load a", "load b"]
        assert [model.state for model in pool.models] == [ModelState.READY, ModelState.READY, ModelState.IDLE]

    with_pool(None, test)


def test_the_least_recently_used_goes():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        for name in ("a", "b", "a", "c"):
            await use(pool, name, 1.0)
        assert source.log == ["load a", "load b", "put away b", "load c"]
        assert pool.find("c").num_loads == 1

    with_pool(100, test)


def test_a_model_in_use_stays_and_others_wait_for_it():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        running = begin(use(pool, "a", 10.0))
        await settle()
        waiting = begin(use(pool, "c"))
        await settle()
        assert source.log == ["load a"]
        assert not waiting.done()
        await asyncio.gather(running, waiting)
        assert source.log == ["load a", "put away a", "load c"]
        assert pool.find("c").switch_s == pytest.approx(9.0)

    with_pool(70, test)


def test_traffic_on_one_model_does_not_keep_another_out():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        order: list[str] = []

        async def ask(name: str, seconds: float) -> None:
            async with pool.lease(name):
                order.append(name)
                await asyncio.sleep(seconds)

        tasks = [begin(ask("a", 3.0))]
        await settle()
        tasks.append(begin(ask("c", 0.0)))
        await settle()
        tasks += [begin(ask("a", 0.0)) for _ in range(3)]  # later than c, so after it, together
        await asyncio.gather(*tasks)
        assert order == ["a", "c", "a", "a", "a"]
        assert source.log.count("load a") == 2

    with_pool(70, test)


def test_the_loop_is_free_while_a_model_loads():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        await pool.start()
        waiting = begin(use(pool, "b"))
        await settle()
        assert pool.find("b").state is ModelState.LOADING
        await use(pool, "a")
        source.gates["b"].set()
        await waiting

    with_pool(None, test, b=True)


def test_a_model_that_cannot_be_loaded_is_told_and_tried_again():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        source.broken["b"] = ModelError("/secret/path is broken", field="model", remedy="Mend it")
        for _ in range(2):
            with pytest.raises(ApiError) as caught:
                await use(pool, "b")
            assert caught.value.status == 503
            assert "/secret" not in caught.value.message
        assert pool.find("b").state is ModelState.FAILED
        await use(pool, "a")
        del source.broken["b"]
        await use(pool, "b")

    with_pool(None, test)


def test_start_says_why():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        source.broken["a"] = ModelError("it is broken", field="model", remedy="Mend it")
        with pytest.raises(ModelError):
            await pool.start()

    with_pool(None, test)


def test_a_model_larger_than_the_budget():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        with pytest.raises(ApiError):
            await use(pool, "c")
        assert isinstance(pool.find("c").error, MemoryBudgetError)
        assert source.log == []

    with_pool(50, test)


def test_a_model_that_turns_out_larger_is_put_away_again():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        async def small(spec: ModelSpec) -> int:
            return 1

        source.need_bytes = small  # type: ignore[method-assign]
        with pytest.raises(ApiError):
            await use(pool, "c")
        assert source.log == ["load c", "put away c"]
        await use(pool, "a")

    with_pool(50, test)


def test_where_the_machine_has_too_little_memory_another_model_goes():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        await use(pool, "a")
        load = source.load

        async def tight(spec: ModelSpec) -> Any:
            if source.log[-1] != "put away a":
                raise MemoryBudgetError("too little", field="model", remedy="Buy more")
            return await load(spec)

        source.load = tight  # type: ignore[method-assign]
        await use(pool, "b")
        assert source.log == ["load a", "put away a", "load b"]

    with_pool(None, test)


def test_who_stops_waiting_holds_no_lease():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        waiting = [begin(use(pool, "b")) for _ in range(3)]
        await settle()
        waiting[0].cancel()
        source.gates["b"].set()
        await settle()
        assert [task.cancelled() for task in waiting] == [True, False, False]
        assert pool.find("b").num_leases == 0

    with_pool(None, test, b=True)


def test_close_ends_the_waiting():
    async def test(pool: ModelPool, source: FakeModels) -> None:
        waiting = begin(use(pool, "b"))
        await settle()
        await pool.close()
        with pytest.raises(ApiError):
            await waiting

    with_pool(None, test, b=True)


@given(
    budget=st.integers(60, 160),
    asked=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 5), st.floats(0, 3)), min_size=1, max_size=25),
)
def test_every_request_is_served_within_the_budget(budget, asked):
    async def test(pool: ModelPool, source: FakeModels) -> None:
        served = 0

        async def ask(name: str, start_s: float, seconds: float) -> None:
            nonlocal served
            await asyncio.sleep(start_s)
            async with pool.lease(name) as llm:
                assert llm.name == name  # type: ignore[attr-defined]
                assert sum(model.held_bytes for model in pool.models) <= budget
                await asyncio.sleep(seconds)
                assert pool.find(name).llm is llm
            served += 1

        await asyncio.gather(*(ask(*one) for one in asked))
        assert served == len(asked)
        assert all(model.num_leases == 0 and not model.waiters for model in pool.models)

    with_pool(budget, test)
