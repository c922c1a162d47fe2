"""What an engine's steps are summed up to, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from steelyard.core.clock import now_s
from steelyard.cost.roofline import StepShape
from steelyard.engine.engine import Engine
from steelyard.engine.pricing import Pricing, StepPrice
from steelyard.engine.view import Observer, StepRecord
from steelyard.policies.schedule.types import Schedule
from steelyard.serve.dashboard.watch import BUCKET_S, LINGER_S, EngineWatch, Phase
from steelyard.sim.virtual import run_virtual


class WatchedEngine:
    """Tells its observers of steps."""

    def __init__(self) -> None:
        self.observers: list[Observer] = []

    def add_observer(self, observer: Observer) -> None:
        self.observers.append(observer)

    def remove_observer(self, observer: Observer) -> None:
        self.observers.remove(observer)

    async def step(self, seconds: float, *works: tuple[int, int, int], preempt: tuple[int, ...] = ()) -> None:
        """Take a step of ``seconds`` in which all works sample."""
        start_s = now_s()
        await asyncio.sleep(seconds)
        record = StepRecord(
            step=0, start_s=start_s, end_s=now_s(), schedule=Schedule(preempt=preempt), works=works,
            sampled=tuple(one for one, _, _ in works), num_running=len(works), num_waiting=1, num_free_blocks=0,
        )  # fmt: skip
        for observer in self.observers:
            observer(record)


class FlatPrice:
    """Each step should take 10 ms and cannot take less than 5."""

    def price(self, step: StepShape) -> StepPrice:
        return StepPrice(predicted_s=0.010, limit_s=0.005, num_bytes=100.0, flop=7.0 * step.num_tokens)


def watched(work: Callable[[WatchedEngine, EngineWatch], Coroutine[Any, Any, None]], *, priced: bool = True) -> None:
    async def main() -> None:
        engine = WatchedEngine()
        pricing = cast(Pricing, FlatPrice()) if priced else None
        await work(engine, EngineWatch(cast(Engine, engine), pricing))

    run_virtual(main())


def test_nothing_is_observed_unless_somebody_looks():
    async def work(engine: WatchedEngine, watch: EngineWatch) -> None:
        assert not engine.observers
        watch.look()
        watch.look()
        assert len(engine.observers) == 1
        assert watch.is_looking
        await asyncio.sleep(LINGER_S - 0.1)
        watch.look()
        await asyncio.sleep(LINGER_S - 0.1)
        assert watch.is_looking, "somebody asked meanwhile"
        await asyncio.sleep(0.2)
        assert not engine.observers
        assert not watch.is_looking
        watch.look()
        assert len(engine.observers) == 1

    watched(work)


def test_steps_become_buckets():
    async def work(engine: WatchedEngine, watch: EngineWatch) -> None:
        watch.look()
        await engine.step(0.020, (1, 0, 30), (2, 5, 1))
        await engine.step(0.010, (1, 30, 1), (2, 6, 1), preempt=(3, 4))
        await engine.step(0.012, (1, 31, 1), (2, 7, 1))
        watch.look()
        assert not list(watch.buckets(0.0)), "this half second is not over"
        await asyncio.sleep(BUCKET_S)
        (bucket,) = watch.buckets(0.0)
        assert (bucket.start_s, bucket.num_prompt_tokens, bucket.num_output_tokens) == (0.0, 30, 6)
        assert (bucket.num_running, bucket.num_waiting, bucket.num_preemptions) == (2, 1, 2)
        assert bucket.num_gaps == 4
        assert bucket.gap_sum_s == pytest.approx(2 * (0.010 + 0.012))
        assert bucket.gap_max_s == pytest.approx(0.012)
        decode, prefill = bucket.phases[Phase.DECODE], bucket.phases[Phase.PREFILL]
        assert (prefill.num_steps, decode.num_steps) == (1, 2)
        assert (prefill.measured_s, decode.measured_s) == pytest.approx((0.020, 0.022))
        assert decode.priced_s == decode.measured_s
        assert (decode.predicted_s, decode.limit_s) == pytest.approx((0.020, 0.010))
        assert (bucket.num_bytes, bucket.flop) == (300.0, 7.0 * 35)

    watched(work)


def test_a_bucket_is_told_once_to_who_asks_for_what_is_new():
    async def work(engine: WatchedEngine, watch: EngineWatch) -> None:
        watch.look()
        since_s, told = 0.0, []
        for _ in range(200):
            await engine.step(0.037, (1, 9, 1))
            watch.look()
            told += [bucket.start_s for bucket in watch.buckets(since_s)]
            since_s = now_s()
        assert told == [BUCKET_S * number for number in range(len(told))]
        assert len(told) == int(now_s() / BUCKET_S)

    watched(work)


def test_without_prices_steps_are_counted_all_the_same():
    async def work(engine: WatchedEngine, watch: EngineWatch) -> None:
        watch.look()
        await engine.step(0.020, (1, 0, 30))
        await asyncio.sleep(1.0)
        watch.look()
        (bucket,) = watch.buckets(0.0)
        prefill = bucket.phases[Phase.PREFILL]
        assert (prefill.num_steps, prefill.priced_s, prefill.predicted_s) == (1, 0.0, None)

    watched(work, priced=False)


def test_work_without_a_pause_is_one_span():
    async def work(engine: WatchedEngine, watch: EngineWatch) -> None:
        watch.look()
        await engine.step(0.1, (1, 0, 30))
        await engine.step(0.1, (1, 30, 10))
        await engine.step(0.1, (1, 40, 1))
        await engine.step(0.1, (1, 41, 1), (2, 0, 5))
        await asyncio.sleep(1.0)
        await engine.step(0.1, (1, 42, 1))
        watch.look()
        spans = [(one.sequence_id, one.phase, one.start_s, one.end_s, one.num_tokens) for one in watch.spans(0.0)]
        assert sorted(spans, key=lambda span: (span[0], span[2])) == [
            (1, Phase.PREFILL, 0.0, pytest.approx(0.2), 40),
            (1, Phase.DECODE, pytest.approx(0.2), pytest.approx(0.4), 2),
            (1, Phase.DECODE, pytest.approx(1.4), pytest.approx(1.5), 1),
            (2, Phase.PREFILL, pytest.approx(0.3), pytest.approx(0.4), 5),
        ]
        assert [one.start_s for one in watch.spans(1.0)] == [pytest.approx(1.4)]

    watched(work)


def test_overlapping_steps_are_not_counted_twice():
    async def work(engine: WatchedEngine, watch: EngineWatch) -> None:
        watch.look()
        first = asyncio.create_task(engine.step(0.10, (1, 5, 1)))
        await asyncio.sleep(0.04)
        await asyncio.gather(first, asyncio.create_task(engine.step(0.08, (1, 6, 1))))
        await asyncio.sleep(1.0)
        watch.look()
        (bucket,) = watch.buckets(0.0)
        assert bucket.phases[Phase.DECODE].measured_s == pytest.approx(0.12)

    watched(work)


def test_what_is_kept_has_an_end():
    async def work(engine: WatchedEngine, watch: EngineWatch) -> None:
        watch.look()
        for number in range(20_000):
            await engine.step(0.05, (number, 0, 3))
            if number % 50 == 0:
                watch.look()
        watch.look()
        assert len(list(watch.buckets(0.0))) <= 240
        assert len(list(watch.spans(0.0))) <= 4096 + 200

    watched(work)
