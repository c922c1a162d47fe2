"""One scheduler, two clocks: 1,000 requests on a real model in real time, and on a modelled one in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest
from tiny_engine import VOCABULARY, make_request, step_seconds, tiny_runner

from steelyard.core.batch import Batch, SequenceWork, StepOutput
from steelyard.core.request import Request, RequestOutput, SampledToken
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.executor import Executor, ModelledExecutor, SyntheticTokens
from steelyard.engine.torch_executor import TorchExecutor
from steelyard.engine.view import StepRecord
from steelyard.policies.schedule import make_schedule_policy
from steelyard.sim.virtual import run_virtual

# Time is an input of the starvation bound, and the two worlds' clocks differ: nobody starves here.
OPTIONS = {"fcfs": {}, "priority": {"starvation_s": 1e6}, "vtc": {"shares": {"b": 2.0}}}
CONFIG = EngineConfig(
    max_model_len=64, num_kv_blocks=64, block_size=4, max_num_seqs=24, max_num_batched_tokens=96, max_waiting=2000
)


def workload(count: int) -> list[Request]:
    """Prompts with shared beginnings, several completions, priorities; tight enough to preempt."""
    rng = Random(7)
    stems = [tuple(rng.randrange(VOCABULARY) for _ in range(12)) for _ in range(5)]
    return [
        make_request(
            str(number),
            rng.choice(stems) + tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 20))),
            max_tokens=rng.randint(1, 28),
            n=rng.choice([1, 1, 1, 2]),
            priority=rng.randint(0, 3),
            tenant=rng.choice("abc"),
        )
        for number in range(count)
    ]


async def run(
    executor: Executor, policy: str, requests: list[Request], config: EngineConfig = CONFIG
) -> tuple[list[StepRecord], list[RequestOutput]]:
    records: list[StepRecord] = []
    engine = Engine(
        config,
        executor,
        make_schedule_policy(policy, **OPTIONS[policy]),
        vocab_size=VOCABULARY,
        observers=(records.append,),
    )
    responses = [engine.submit(request) for request in requests]
    loop = asyncio.create_task(engine.run())
    outputs = [await response.result() for response in responses]
    engine.check_invariants()
    await engine.close()
    await loop
    return records, outputs


def decisions(records: list[StepRecord]) -> list[tuple[object, ...]]:
    """Everything of a step but its times."""
    return [(r.step, r.schedule, r.works, r.num_running, r.num_waiting, r.num_free_blocks) for r in records]


class Recorded:
    """A real executor whose tokens are kept, and then the modelled executor's source of the same tokens.

    Which blocks hold equal content, and so what the prefix cache finds, depends on the tokens; with the same tokens
    nothing else may.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._tokens: dict[tuple[int, int], tuple[SampledToken, ...]] = {}

    async def execute(self, batch: Batch) -> StepOutput:
        output = await self._executor.execute(batch)
        self._tokens |= {(work.sequence.id, work.end): output.sampled[work.sequence.id] for work in sampling(batch)}
        return output

    async def close(self) -> None:
        await self._executor.close()

    def __call__(self, batch: Batch) -> StepOutput:
        return StepOutput({work.sequence.id: self._tokens[work.sequence.id, work.end] for work in sampling(batch)})


def sampling(batch: Batch) -> list[SequenceWork]:
    return [work for work in batch.works if work.samples]


@pytest.mark.parametrize("policy", OPTIONS)
def test_a_thousand_requests_meet_the_same_decisions_in_both_worlds(policy: str) -> None:
    requests = workload(1000)
    recorded = Recorded(TorchExecutor(tiny_runner(CONFIG.num_kv_blocks)))
    real, real_outputs = asyncio.run(run(recorded, policy, requests))
    virtual, virtual_outputs = run_virtual(run(ModelledExecutor(step_seconds, recorded), policy, requests))
    assert decisions(real) == decisions(virtual)
    assert any(record.schedule.preempt for record in real), "the workload must be tight enough to preempt"
    assert any(output.num_cached_tokens for output in real_outputs), "and share prefixes"
    for one, other in zip(real_outputs, virtual_outputs, strict=True):
        assert one.outputs == other.outputs
        assert one.num_cached_tokens == other.num_cached_tokens


def test_without_a_prefix_cache_decisions_do_not_depend_on_the_tokens_either() -> None:
    requests, config = workload(300), replace(CONFIG, enable_prefix_caching=False)
    real, _ = asyncio.run(run(TorchExecutor(tiny_runner(config.num_kv_blocks)), "fcfs", requests, config))
    modelled = ModelledExecutor(step_seconds, SyntheticTokens(VOCABULARY))
    virtual, _ = run_virtual(run(modelled, "fcfs", requests, config))
    assert decisions(real) == decisions(virtual)


def test_real_tokens_on_virtual_time_are_bit_identical_from_run_to_run() -> None:
    """A modelled machine may be paired with the real model: modelled time, real tokens."""
    requests = workload(60)

    def once() -> tuple[list[StepRecord], list[RequestOutput]]:
        return run_virtual(run(ModelledExecutor(step_seconds, tiny_runner(CONFIG.num_kv_blocks).run), "fcfs", requests))

    assert once() == once()
