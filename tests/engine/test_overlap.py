"""Overlapped steps: another order of work on the host, the same tokens."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from test_two_worlds import CONFIG, OPTIONS, workload
from tiny_engine import VOCABULARY, make_request, step_seconds, tiny_runner

from steelyard.core.batch import Batch, StepOutput
from steelyard.core.clock import sleep_s
from steelyard.core.errors import EngineStoppedError, ParamsError
from steelyard.core.request import FinishReason, Request, RequestOutput
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.executor import Executor, ModelledExecutor, SyntheticTokens
from steelyard.engine.llm import LLM
from steelyard.engine.torch_executor import InlineExecutor, TorchExecutor
from steelyard.engine.view import StepRecord
from steelyard.policies.schedule import make_schedule_policy
from steelyard.policies.schedule.types import Schedule, SchedulerView
from steelyard.sim.virtual import run_virtual

OVERLAPPED = replace(CONFIG, overlap_steps=True)


def modelled() -> Executor:
    return ModelledExecutor(step_seconds, SyntheticTokens(VOCABULARY))


async def serve(
    config: EngineConfig, executor: Executor, requests: list[Request], policy: str = "fcfs"
) -> tuple[list[RequestOutput], list[StepRecord]]:
    """Serve all requests, checking the engine's books whenever it is idle."""
    records: list[StepRecord] = []
    engine = Engine(
        config,
        executor,
        make_schedule_policy(policy, **OPTIONS[policy]),
        vocab_size=VOCABULARY,
        observers=(records.append,),
    )
    loop = asyncio.create_task(engine.run())
    outputs = []
    for start in range(0, len(requests), 150):
        responses = [engine.submit(request) for request in requests[start : start + 150]]
        outputs += [await response.result() for response in responses]
        engine.check_invariants()
    await engine.close()
    await loop
    return outputs, records


def contents(outputs: list[RequestOutput]) -> list[object]:
    return [(output.request_id, output.outputs) for output in outputs]


@pytest.mark.parametrize("policy", OPTIONS)
@pytest.mark.parametrize("changes", [{}, {"enable_prefix_caching": False}, {"max_num_batched_tokens": 7}])
def test_overlapped_steps_give_the_same_tokens_on_the_virtual_clock(policy: str, changes: dict[str, int]) -> None:
    requests = workload(300)
    plain, _ = run_virtual(serve(replace(CONFIG, **changes), modelled(), requests, policy))
    overlapped, records = run_virtual(serve(replace(OVERLAPPED, **changes), modelled(), requests, policy))
    assert contents(plain) == contents(overlapped)
    if "max_num_batched_tokens" not in changes:
        assert any(record.schedule.preempt for record in records), "the workload must be tight enough to preempt"


def test_overlapped_steps_give_the_same_tokens_on_a_real_model() -> None:
    requests = workload(150)

    def run(config: EngineConfig) -> list[object]:
        outputs, _ = asyncio.run(serve(config, TorchExecutor(tiny_runner(config.num_kv_blocks)), requests))
        assert any(output.num_cached_tokens for output in outputs)
        return contents(outputs)

    assert run(CONFIG) == run(OVERLAPPED)


class Watched:
    """An executor that knows whether it works, and a policy that notes whether it does when it is asked."""

    def __init__(self, fails_at: int | None = None) -> None:
        self._inner, self._fails_at = modelled(), fails_at
        self._policy = make_schedule_policy("fcfs")
        self.busy, self.num_busy, self.num_idle, self.num_started = False, 0, 0, 0

    async def execute(self, batch: Batch) -> StepOutput:
        assert not self.busy, "one step at a time"
        self.busy = True
        self.num_started += 1
        try:
            output = await self._inner.execute(batch)
        finally:
            self.busy = False
        if batch.step == self._fails_at:
            raise RuntimeError("the device fell over")
        return output

    async def close(self) -> None:
        await self._inner.close()

    def __call__(self, view: SchedulerView) -> Schedule:
        self.num_busy += self.busy
        self.num_idle += not self.busy
        return self._policy(view)


def make_watched_engine(watched: Watched, config: EngineConfig = OVERLAPPED) -> Engine:
    return Engine(config, watched, watched, vocab_size=VOCABULARY)


def test_steps_are_scheduled_while_the_device_works() -> None:
    async def run(config: EngineConfig) -> Watched:
        watched = Watched()
        engine = make_watched_engine(watched, config)
        loop = asyncio.create_task(engine.run())
        await engine.submit(make_request("r", (1, 2, 3), max_tokens=20)).result()
        await engine.close()
        await loop
        return watched

    overlapped, plain = run_virtual(run(OVERLAPPED)), run_virtual(run(CONFIG))
    assert plain.num_busy == 0
    assert overlapped.num_idle == 1, "only the first step is scheduled while nothing executes"
    assert overlapped.num_busy == 20


def test_a_failed_step_ends_its_own_requests_only() -> None:
    """The second request is planned while the failing step executes, on a prefix that this step was to write."""

    async def run() -> tuple[RequestOutput, list[StepRecord]]:
        watched, records = Watched(fails_at=2), list[StepRecord]()
        engine = make_watched_engine(watched, replace(OVERLAPPED, max_num_batched_tokens=8))
        engine.add_observer(records.append)
        loop = asyncio.create_task(engine.run())
        first = engine.submit(make_request("first", tuple(range(20)), max_tokens=40))
        while watched.num_started < 2:
            await sleep_s(0.001)
        second = engine.submit(make_request("second", (*range(20), 7), max_tokens=5))
        with pytest.raises(EngineStoppedError, match="fell over"):
            await first.result()
        output = await second.result()
        await sleep_s(1.0)
        engine.check_invariants()
        await engine.close()
        await loop
        return output, records

    output, records = run_virtual(run())
    assert len(output.outputs[0].token_ids) == 5
    assert records[3].schedule.grants[-1].num_tokens == 1, "planned upon the prefix"
    starts = [start for record in records for sequence_id, start, _ in record.works if sequence_id == 1]
    assert starts == [0, 8, 16, 21, 22, 23, 24], "computed from the beginning: nothing of the failed step is believed"


def test_cancelling_while_a_step_executes_leaks_nothing() -> None:
    async def run() -> list[FinishReason | None]:
        engine = make_watched_engine(Watched())
        loop = asyncio.create_task(engine.run())
        responses = [engine.submit(make_request(str(n), tuple(range(n + 1)), max_tokens=30)) for n in range(4)]
        await sleep_s(0.075)
        engine.cancel("1")
        await sleep_s(0.001)
        engine.cancel("3")
        outputs = [await response.result() for response in responses]
        await sleep_s(1.0)
        engine.check_invariants()
        await engine.close()
        await loop
        return [output.outputs[0].finish_reason for output in outputs]

    length, cancelled = FinishReason.LENGTH, FinishReason.CANCELLED
    assert run_virtual(run()) == [length, cancelled, length, cancelled]


def test_closing_lets_the_step_in_flight_end() -> None:
    async def run() -> None:
        watched = Watched()
        engine = make_watched_engine(watched)
        loop = asyncio.create_task(engine.run())
        response = engine.submit(make_request("r", (1, 2, 3), max_tokens=30))
        await sleep_s(0.05)
        assert watched.busy
        await engine.close()
        await loop
        assert not watched.busy
        assert response.finished
        engine.check_invariants()

    run_virtual(run())


@pytest.mark.parametrize(("overlap", "expected"), [(False, InlineExecutor), (True, TorchExecutor)])
def test_overlapped_steps_run_on_a_thread_of_their_own(
    overlap: bool, expected: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def refuse(model: str | None, **options: object) -> None:
        asked.update(options)
        raise ParamsError("no model is needed here", field="model", remedy="None")

    monkeypatch.setattr("steelyard.engine.llm.AsyncLLM", refuse)
    with pytest.raises(ParamsError):
        LLM(overlap_steps=overlap)
    assert asked["executor"] is expected
