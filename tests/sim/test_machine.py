"""Steps taken by the run are steps taken one by one: the same decisions, tokens, times and meters, to the bit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.clock import now_s, sleep_s
from steelyard.core.params import SamplingParams
from steelyard.core.request import Request, RequestOutput
from steelyard.cost.estimate import StepEstimate
from steelyard.cost.roofline import StepShape
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.executor import SyntheticTokens
from steelyard.engine.view import StepRecord
from steelyard.policies.schedule import STEADY_POLICIES, make_schedule_policy
from steelyard.sim.machine import MachineMeter, ModelledMachine
from steelyard.sim.virtual import run_virtual

VOCABULARY = 50


class UnevenSteps:
    """Seconds with no round numbers in them, unless told to have only such."""

    def __init__(self, *, even: bool) -> None:
        self._even = even

    def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
        if self._even:
            return StepEstimate(0.5 / clock_share, 100.0)
        contexts = sum(sequence.context_after for sequence in step.sequences)
        return StepEstimate((0.01 + 0.0013 * step.num_tokens + 0.00017 * contexts) / clock_share, 200.0 * clock_share)


@dataclass
class Story:
    """What happened in one run."""

    records: list[StepRecord]
    outputs: list[RequestOutput]
    meter: MachineMeter
    num_asked: int


async def live(seed: int, *, coasts: bool) -> Story:
    """Run a random crowd through one engine: arrivals, departures, deadlines, caps and slow spells."""
    rng = Random(seed)
    even = rng.random() < 0.4
    machine = ModelledMachine(UnevenSteps(even=even), SyntheticTokens(VOCABULARY), rank=1)
    config = EngineConfig(
        max_model_len=64,
        num_kv_blocks=rng.choice([16, 20, 64]),
        block_size=4,
        max_num_seqs=rng.choice([1, 2, 8]),
        max_num_batched_tokens=rng.choice([8, 32]),
        enable_prefix_caching=rng.random() < 0.7,
    )
    policy = make_schedule_policy(rng.choice(sorted(STEADY_POLICIES)))
    story = Story([], [], machine.meter, 0)

    def asked(view: object) -> object:
        story.num_asked += 1
        return policy(view)  # type: ignore[arg-type]

    engine = Engine(
        config,
        machine,
        asked,  # type: ignore[arg-type]
        vocab_size=VOCABULARY,
        observers=(story.records.append,),
        coaster=machine if coasts else None,
    )
    loop = asyncio.create_task(engine.run())
    gap_s = rng.choice([0.1, 1.0, 5.0])
    stems = [tuple(rng.randrange(VOCABULARY) for _ in range(9)) for _ in range(2)]

    def moment() -> float:
        return rng.randint(0, 4) * 0.5 if even else rng.expovariate(1.0 / gap_s)

    async def client(request: Request, leave_after_s: float | None) -> None:
        response = engine.submit(request)
        if leave_after_s is not None:
            await sleep_s(leave_after_s)
            engine.cancel(request.id)
        story.outputs.append(await response.result())

    clients = []
    for number in range(rng.randint(1, 12)):
        await sleep_s(moment())
        if rng.random() < 0.3:
            machine.set_clock_share(rng.choice([1.0, 0.5, 0.8]))
        if rng.random() < 0.2:
            machine.set_slowdown(rng.choice([1.0, 2.5]))
        if rng.random() < 0.2:
            engine.settle()
            engine.check_invariants()
        request = Request(
            id=str(number),
            prompt_token_ids=rng.choice(stems) + (rng.randrange(VOCABULARY),) * rng.randint(1, 8),
            params=SamplingParams(max_tokens=rng.randint(1, 40), seed=rng.choice([1, 2]), n=rng.choice([1, 1, 2])),
            deadline_s=now_s() + moment() if rng.random() < 0.2 else None,
        )
        clients.append(asyncio.create_task(client(request, moment() if rng.random() < 0.2 else None)))
    await asyncio.gather(*clients)
    engine.check_invariants()
    await engine.close()
    await loop
    return story


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_a_run_of_steps_is_those_steps(seed: int) -> None:
    singly, coasting = run_virtual(live(seed, coasts=False)), run_virtual(live(seed, coasts=True))
    assert coasting.records == singly.records
    assert coasting.outputs == singly.outputs
    assert coasting.meter == singly.meter
    assert coasting.num_asked <= singly.num_asked


def test_a_lone_request_is_decided_upon_twice() -> None:
    async def main() -> tuple[int, int]:
        machine = ModelledMachine(UnevenSteps(even=False), SyntheticTokens(VOCABULARY), rank=1)
        policy, asked = make_schedule_policy("fcfs"), []
        engine = Engine(
            EngineConfig(max_model_len=512, num_kv_blocks=64),
            machine,
            lambda view: asked.append(1) or policy(view),  # type: ignore[func-returns-value]
            vocab_size=VOCABULARY,
            coaster=machine,
        )
        loop = asyncio.create_task(engine.run())
        await engine.submit(Request(id="r", prompt_token_ids=(1, 2), params=SamplingParams(max_tokens=400))).result()
        await engine.close()
        await loop
        return len(asked), machine.meter.num_steps

    assert run_virtual(main()) == (2, 400)


@pytest.mark.parametrize("watts", [None, 70.0])
def test_energy_is_the_integral_of_power(watts: float | None) -> None:
    class Steps:
        def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
            return StepEstimate(0.25, watts)

    async def main() -> MachineMeter:
        machine = ModelledMachine(Steps(), SyntheticTokens(VOCABULARY), rank=1)
        engine = Engine(
            EngineConfig(max_model_len=64, num_kv_blocks=8),
            machine,
            make_schedule_policy("fcfs"),
            vocab_size=VOCABULARY,
            coaster=machine,
        )
        loop = asyncio.create_task(engine.run())
        params = SamplingParams(max_tokens=8)
        await engine.submit(Request(id="r", prompt_token_ids=(1, 2, 3), params=params)).result()
        await engine.close()
        await loop
        return machine.meter

    meter = run_virtual(main())
    assert (meter.busy_s, meter.joules) == (2.0, 2.0 * (watts or 0.0))
    assert (meter.num_prefill_tokens, meter.num_decode_tokens) == (3, 7)
