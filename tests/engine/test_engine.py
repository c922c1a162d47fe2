"""The engine's loop on the virtual clock: nothing lost, nothing leaked, every ending right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engine import EngineFactory, make_request, step_seconds

from steelyard.core.batch import Batch, StepOutput
from steelyard.core.clock import now_s
from steelyard.core.errors import EngineBusyError, EngineStoppedError, MemoryBudgetError, ParamsError, PromptError
from steelyard.core.params import SamplingParams
from steelyard.core.request import FinishReason, RequestOutput
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import MAX_FAILED_STEPS, Engine, StepRecord
from steelyard.engine.executor import ModelledExecutor, SyntheticTokens
from steelyard.policies.admit.types import EngineLoad
from steelyard.policies.schedule import SCHEDULE_POLICIES
from steelyard.policies.schedule.types import Schedule
from steelyard.sim.virtual import run_virtual


async def serve(engine: Engine, work: Callable[[], Awaitable[Any]]) -> Any:
    """Run ``work`` beside the engine's loop; afterwards nothing may be left behind."""
    loop = asyncio.create_task(engine.run())
    try:
        return await work()
    finally:
        await engine.close()
        await loop
        engine.check_invariants()
        assert engine.num_waiting == 0


def test_one_request_takes_a_prefill_and_a_step_per_token(make_engine: EngineFactory) -> None:
    async def main() -> RequestOutput:
        engine = make_engine()
        return await serve(engine, engine.submit(make_request("a", (1, 2, 3, 4, 5), max_tokens=3)).result)

    output = run_virtual(main())
    assert len(output.outputs[0].token_ids) == 3
    assert output.outputs[0].finish_reason is FinishReason.LENGTH
    assert output.times.ttft_s == pytest.approx(0.015)
    assert output.times.last_token_s == pytest.approx(0.015 + 2 * 0.011)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    policy=st.sampled_from(sorted(SCHEDULE_POLICIES)),
    blocks=st.sampled_from([16, 24, 64]),
    budget=st.sampled_from([3, 16, 64]),
    caching=st.booleans(),
)
def test_random_workloads_end_completely(seed: int, policy: str, blocks: int, budget: int, caching: bool) -> None:
    """Arrivals, n > 1, shared prefixes, cancellations, deadlines and a tight cache: every request ends as it must."""
    rng = Random(seed)

    async def one(engine: Engine, number: int) -> None:
        await asyncio.sleep(rng.random())
        length, n, wanted = rng.randint(1, 40), rng.choice([1, 1, 3]), rng.randint(1, 20)
        prompt = tuple(range(min(length, 12))) + tuple(rng.randrange(100) for _ in range(length - 12))
        fate = rng.choice(["end", "end", "cancel", "deadline"])
        deadline_s = now_s() + rng.random() if fate == "deadline" else None
        request = make_request(
            str(number), prompt, wanted, n=n, priority=rng.randint(0, 2), cache_salt=rng.choice(["", "x"]),
            deadline_s=deadline_s, prompt_logprobs=rng.choice([None, None, 0]),
        )  # fmt: skip
        response = engine.submit(request)
        if fate == "cancel":
            await asyncio.sleep(rng.random())
            engine.cancel(request.id)
        output = await response.result()
        for completion in output.outputs:
            early = completion.finish_reason in (FinishReason.CANCELLED, FinishReason.DEADLINE)
            assert early or len(completion.token_ids) == wanted
            assert len(completion.token_ids) <= wanted
            assert completion.finish_reason is FinishReason.LENGTH or fate in ("cancel", "deadline")

    async def main() -> None:
        engine = Engine(
            EngineConfig(
                max_model_len=64, num_kv_blocks=blocks, block_size=4, max_num_seqs=6, max_num_batched_tokens=budget,
                enable_prefix_caching=caching,
            ),
            ModelledExecutor(step_seconds, SyntheticTokens(100)),
            SCHEDULE_POLICIES[policy](),
            vocab_size=100,
        )  # fmt: skip
        engine.add_observer(lambda record: engine.check_invariants())
        await serve(engine, lambda: asyncio.gather(*(one(engine, i) for i in range(12))))

    run_virtual(main())


def test_tokens_do_not_depend_on_batch_or_preemption(make_engine: EngineFactory) -> None:
    requests = [make_request(str(i), tuple(range(i, i + 20)), max_tokens=15, seed=i) for i in range(8)]

    async def main(num_kv_blocks: int) -> list[tuple[int, ...]]:
        engine = make_engine(num_kv_blocks=num_kv_blocks)
        responses = [engine.submit(request) for request in requests]
        outputs = await serve(engine, lambda: asyncio.gather(*(r.result() for r in responses)))
        return [output.outputs[0].token_ids for output in outputs]

    assert run_virtual(main(16)) == run_virtual(main(64))


def test_completions_of_one_request_share_its_prompt(make_engine: EngineFactory) -> None:
    records: list[StepRecord] = []

    async def main() -> RequestOutput:
        engine = make_engine(observers=(records.append,))
        request = make_request("a", tuple(range(21)), max_tokens=2, n=4)
        return await serve(engine, engine.submit(request).result)

    output = run_virtual(main())
    assert [c.index for c in output.outputs] == [0, 1, 2, 3]
    prefilled = sum(tokens for record in records for _, start, tokens in record.works if start < 21)
    assert prefilled == 21 + 3, "three completions compute only the token after the shared full blocks"


def test_same_prefix_is_cached_within_a_salt_only(make_engine: EngineFactory) -> None:
    prompt = tuple(range(30))

    async def main() -> list[int]:
        engine = make_engine()

        async def work() -> list[int]:
            cached = []
            for name, salt in [("a", ""), ("b", ""), ("c", "tenant"), ("d", "tenant")]:
                output = await engine.submit(make_request(name, prompt, cache_salt=salt)).result()
                cached.append(output.num_cached_tokens)
            return cached

        return await serve(engine, work)

    assert run_virtual(main()) == [0, 28, 0, 28]


def test_cancelling_frees_blocks_at_the_next_step(make_engine: EngineFactory) -> None:
    async def main() -> tuple[RequestOutput, float]:
        engine = make_engine()

        async def work() -> tuple[RequestOutput, float]:
            response = engine.submit(make_request("a", (1,), max_tokens=60))
            await asyncio.sleep(0.1)
            engine.cancel("a")
            return await response.result(), now_s()

        return await serve(engine, work)

    output, ended_s = run_virtual(main())
    assert output.outputs[0].finish_reason is FinishReason.CANCELLED
    assert ended_s <= 0.1 + step_seconds(Batch(0, ())) + 0.001


def test_deadline_ends_a_request_with_its_tokens_so_far(make_engine: EngineFactory) -> None:
    async def main() -> RequestOutput:
        engine = make_engine()
        return await serve(engine, engine.submit(make_request("a", (1,), max_tokens=60, deadline_s=0.2)).result)

    output = run_virtual(main())
    assert output.outputs[0].finish_reason is FinishReason.DEADLINE
    assert 0 < len(output.outputs[0].token_ids) < 60


def test_a_full_queue_refuses_and_feeders_wait(make_engine: EngineFactory) -> None:
    async def main() -> int:
        engine = make_engine(max_waiting=2, max_num_seqs=1)
        engine.submit(make_request("a", (1,)))
        engine.submit(make_request("b", (1,)))
        with pytest.raises(EngineBusyError, match="max_waiting"):
            engine.submit(make_request("c", (1,)))

        async def feed() -> int:
            for number in range(10):
                await engine.wait_for_room()
                await engine.submit(make_request(str(number), (1,))).result()
            return number

        return await serve(engine, feed)

    assert run_virtual(main()) == 9


@pytest.mark.parametrize(
    ("request_fields", "error", "field"),
    [
        ({"prompt": ()}, PromptError, "prompt"),
        ({"prompt": tuple([1] * 64)}, PromptError, "prompt"),
        ({"prompt": (100,)}, PromptError, "prompt_token_ids"),
        ({"prompt": (-1,)}, PromptError, "prompt_token_ids"),
        ({"prompt": (1,), "max_tokens": 65}, ParamsError, "max_tokens"),
        ({"prompt": (1,), "stop": ("x",)}, ParamsError, "stop"),
        ({"prompt": (1,), "logit_bias": {100: 1.0}}, ParamsError, "logit_bias"),
    ],
)
def test_bad_requests_are_refused_by_name(
    make_engine: EngineFactory, request_fields: dict[str, Any], error: type[Exception], field: str
) -> None:
    async def main() -> None:
        engine = make_engine()
        with pytest.raises(error, match=f"^{field}:"):
            engine.submit(make_request("a", **request_fields))
        assert engine.num_waiting == 0
        await engine.close()

    run_virtual(main())


def test_context_length_ends_a_completion(make_engine: EngineFactory) -> None:
    async def main() -> RequestOutput:
        engine = make_engine(max_model_len=16)
        return await serve(engine, engine.submit(make_request("a", tuple(range(10)), max_tokens=None)).result)

    completion = run_virtual(main()).outputs[0]
    assert completion.finish_reason is FinishReason.LENGTH
    assert len(completion.token_ids) == 6


def test_a_failing_step_ends_its_requests_and_the_engine_goes_on(make_engine: EngineFactory) -> None:
    synthetic = SyntheticTokens(100)

    def tokens(batch: Batch) -> StepOutput:
        if batch.step == 1:
            raise RuntimeError("device fell off")
        return synthetic(batch)

    async def main() -> tuple[RequestOutput, RequestOutput]:
        engine = make_engine(executor=ModelledExecutor(step_seconds, tokens))

        async def work() -> tuple[RequestOutput, RequestOutput]:
            with pytest.raises(EngineStoppedError, match="device fell off"):
                await engine.submit(make_request("a", tuple(range(20)))).result()
            again = await engine.submit(make_request("b", tuple(range(20)))).result()
            return again, again

        return await serve(engine, work)

    output, _ = run_virtual(main())
    assert output.num_cached_tokens == 0, "blocks of a failed step must not be found again"
    assert len(output.outputs[0].token_ids) == 8


@pytest.mark.parametrize("overlap_steps", [False, True])
def test_an_executor_that_fails_again_and_again_ends_the_engine(
    make_engine: EngineFactory, overlap_steps: bool
) -> None:
    failing = True

    def tokens(batch: Batch) -> StepOutput:
        if failing:
            raise RuntimeError("device fell off")
        return SyntheticTokens(100)(batch)

    async def main() -> None:
        nonlocal failing
        engine = make_engine(executor=ModelledExecutor(step_seconds, tokens), overlap_steps=overlap_steps)
        loop = asyncio.create_task(engine.run())

        async def ask(num_requests: int) -> None:
            for number in range(num_requests):
                with pytest.raises(EngineStoppedError, match="device fell off"):
                    await engine.submit(make_request(str(number), (1,))).result()

        await ask(MAX_FAILED_STEPS - 1)
        failing = False
        await engine.submit(make_request("good", (1,))).result()
        failing = True
        await ask(MAX_FAILED_STEPS - 1)
        assert not engine.closed, "a step that did not fail makes a new beginning"
        await ask(1)
        with pytest.raises(EngineStoppedError, match="device fell off"):
            await loop
        assert engine.closed
        engine.check_invariants()
        await engine.close()

    run_virtual(main())


def test_a_broken_policy_ends_every_request_instead_of_hanging(make_engine: EngineFactory) -> None:
    async def main() -> None:
        engine = make_engine()
        engine._policy = lambda view: Schedule()
        loop = asyncio.create_task(engine.run())
        responses = [engine.submit(make_request(name, (1,))) for name in "ab"]
        for response in responses:
            with pytest.raises(EngineStoppedError, match="scheduler"):
                await response.result()
        with pytest.raises(AssertionError, match="does nothing"):
            await loop
        with pytest.raises(EngineStoppedError):
            engine.submit(make_request("c", (1,)))
        engine.check_invariants()
        await engine.close()

    run_virtual(main())


def test_a_far_deadline_does_not_keep_a_request_that_has_ended(make_engine: EngineFactory) -> None:
    async def main() -> None:
        engine = make_engine()
        for name in "ab":
            engine.submit(make_request(name, (1,), max_tokens=1, deadline_s=1e6))
        engine.cancel("b")
        await engine.step()
        assert not engine._deadlines
        await engine.close()

    run_virtual(main())


def test_an_id_may_be_used_again_and_an_old_deadline_does_not_meet_the_new_request(make_engine: EngineFactory) -> None:
    async def main() -> RequestOutput:
        engine = make_engine()

        async def work() -> RequestOutput:
            await engine.submit(make_request("a", (1,), max_tokens=2, deadline_s=0.1)).result()
            again = engine.submit(make_request("a", (1,), max_tokens=50))
            with pytest.raises(ParamsError, match="request_id"):
                engine.submit(make_request("a", (1,)))
            return await again.result()

        return await serve(engine, work)

    assert run_virtual(main()).outputs[0].finish_reason is FinishReason.LENGTH


def test_closing_ends_what_runs_and_refuses_more(make_engine: EngineFactory) -> None:
    async def main() -> None:
        engine = make_engine()
        loop = asyncio.create_task(engine.run())
        response = engine.submit(make_request("a", (1,), max_tokens=50))
        await asyncio.sleep(0.05)
        await engine.close()
        await engine.close()
        await loop
        with pytest.raises(EngineStoppedError):
            await response.result()
        with pytest.raises(EngineStoppedError):
            engine.submit(make_request("b", (1,)))

    run_virtual(main())


def test_outputs_grow_and_end_finished(make_engine: EngineFactory) -> None:
    async def main() -> list[RequestOutput]:
        engine = make_engine()

        async def work() -> list[RequestOutput]:
            return [output async for output in engine.submit(make_request("a", (1, 2), max_tokens=5)).outputs()]

        return await serve(engine, work)

    outputs = run_virtual(main())
    lengths = [len(output.outputs[0].token_ids) for output in outputs]
    assert lengths == sorted(lengths)
    assert lengths[-1] == 5
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]


def test_a_cache_too_small_for_one_sequence_is_refused() -> None:
    with pytest.raises(MemoryBudgetError, match="max_model_len"):
        EngineConfig(max_model_len=100, num_kv_blocks=4, block_size=16)


def test_unseeded_requests_draw_different_seeds_from_the_engines(make_engine: EngineFactory) -> None:
    async def main() -> list[RequestOutput]:
        engine = make_engine()
        responses = [engine.submit(make_request(name, (1, 2, 3))) for name in "ab"]
        return await serve(engine, lambda: asyncio.gather(*(r.result() for r in responses)))

    first, second = run_virtual(main())
    assert first.outputs[0].token_ids != second.outputs[0].token_ids
    assert [o.outputs[0].token_ids for o in run_virtual(main())] == [
        first.outputs[0].token_ids,
        second.outputs[0].token_ids,
    ]
    assert SamplingParams().seed is None


def test_the_load_tells_what_runs_waits_and_was_promised(make_engine: EngineFactory) -> None:
    async def main() -> None:
        engine = make_engine(max_num_seqs=1)
        assert engine.load() == EngineLoad(num_free_blocks=64, block_size=4)
        engine.submit(make_request("a", (1, 2, 3, 4, 5), max_tokens=11))
        engine.submit(make_request("b", (1,), max_tokens=None))
        assert (engine.load().num_running, engine.load().num_waiting) == (0, 2)
        assert engine.load().num_promised_blocks == 4 + 16, "16 tokens; and the whole context of 64"
        await engine.step()
        assert engine.load() == EngineLoad(
            num_running=1, num_waiting=1, num_free_blocks=62, num_promised_blocks=18, block_size=4
        )
        assert engine.waiting_tenants() == {"": 1}
        engine.submit(make_request("c", (1,), max_tokens=4, tenant="t"))
        engine.cancel("a")
        engine.cancel("b")
        await engine.step()
        assert engine.load().num_promised_blocks == 1
        engine.cancel("c")
        engine.submit(make_request("d", (1,), max_tokens=4))
        engine.cancel("d")
        await engine.step()
        assert engine.load().num_promised_blocks == 0
        engine.check_invariants()
        await engine.close()

    run_virtual(main())


def test_who_looks_on_sees_running_sequences_and_then_waiting_ones(make_engine: EngineFactory) -> None:
    async def main() -> None:
        engine = make_engine(max_num_seqs=1)

        async def work() -> None:
            assert engine.live_sequences() == ()
            responses = [engine.submit(make_request(name, (1, 2, 3, 4, 5))) for name in ("a", "b")]
            await asyncio.sleep(0.03)
            first, second = engine.live_sequences()
            assert (first.running, second.running) == (True, False)
            assert (first.num_prompt_tokens, second.num_prompt_tokens) == (5, 5)
            assert first.num_tokens > first.num_prompt_tokens
            assert first.num_computed_tokens >= 5
            assert (first.num_blocks, second.num_blocks) == (2, 0)
            assert first.arrival_s == 0.0
            assert len(engine.kv_block_states) == engine.kv_usage.num_blocks
            assert sum(state > 1 for state in engine.kv_block_states) == 2
            for response in responses:
                await response.result()
            assert engine.live_sequences() == ()

        await serve(engine, work)

    run_virtual(main())
