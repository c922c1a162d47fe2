"""The meter of service: it sees what a fair policy keeps small and an unfair one does not."""

from __future__ import annotations

import asyncio

import pytest

from steelyard.core.params import SamplingParams
from steelyard.core.request import Request
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.executor import ModelledExecutor, SyntheticTokens
from steelyard.policies.schedule import make_schedule_policy
from steelyard.policies.schedule.vtc import VtcConfig
from steelyard.sim.fairness import ServiceMeter
from steelyard.sim.virtual import run_virtual

PARAMS = SamplingParams(max_tokens=4, seed=0)


def metered(policy: str, tenants: str, config: VtcConfig) -> ServiceMeter:
    """Serve one request of three prompt and four output tokens after another, for the tenants in this order."""

    async def main() -> ServiceMeter:
        meter = ServiceMeter(make_schedule_policy(policy), config)
        sizes = EngineConfig(max_model_len=16, num_kv_blocks=8, block_size=4, max_num_seqs=1)
        executor = ModelledExecutor(lambda batch: 0.01, SyntheticTokens(10))
        engine = Engine(sizes, executor, meter, vocab_size=10)
        loop = asyncio.create_task(engine.run())
        requests = [
            Request(id=str(number), prompt_token_ids=(1, 2, 3), params=PARAMS, tenant=tenant)
            for number, tenant in enumerate(tenants)
        ]
        responses = [engine.submit(request) for request in requests]
        for response in responses:
            await response.result()
        await engine.close()
        await loop
        return meter

    return run_virtual(main())


def test_each_request_counts_its_prompt_and_its_output():
    meter = metered("fcfs", "ab", VtcConfig(input_weight=1.0, output_weight=2.0, shares={"b": 2.0}))
    assert meter.worst_difference("a", "b") == 0.0, "b waits alone, a never"
    assert meter.service[4] == {"a": 3.0 + 4 * 2.0}
    assert meter.service[5]["b"] == (3.0 + 2.0) / 2
    assert meter.waiting == [frozenset("b")] * 4 + [frozenset()] * 4


@pytest.mark.parametrize(("policy", "difference"), [("fcfs", 8 * 11.0), ("vtc", 11.0)])
def test_differences_add_up_while_both_wait(policy, difference):
    meter = metered(policy, "a" * 9 + "b" * 9, VtcConfig())
    assert meter.worst_difference("a", "b") == meter.worst_difference("b", "a") == difference
