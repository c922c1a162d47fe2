"""Prompts that become vectors, through the same scheduler as prompts that are continued."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engine import VOCABULARY, make_request, step_seconds, tiny_decoder, tiny_runner

from steelyard.core.errors import ParamsError, ResourceError
from steelyard.core.params import SamplingParams
from steelyard.core.pooling import NO_SAMPLING, PoolingKind, PoolingParams
from steelyard.core.request import FinishReason, Request, RequestOutput, SampledToken
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.executor import Executor, ModelledExecutor, SyntheticTokens
from steelyard.engine.pooling import PooledVector, pool_rows, unit_vector
from steelyard.engine.torch_executor import TorchExecutor
from steelyard.models.dense_kv import DenseKV
from steelyard.policies.schedule import make_schedule_policy
from steelyard.sim.virtual import run_virtual

RNG = Random(5)
STEM = tuple(RNG.randrange(VOCABULARY) for _ in range(20))
WATCHED = tuple(RNG.randrange(VOCABULARY) for _ in range(45))
KINDS = pytest.mark.parametrize("kind", PoolingKind)
STORES = pytest.mark.parametrize("block_size", [4, pytest.param(16, marks=pytest.mark.native)], ids=["torch", "native"])


def pooled_request(name: str, prompt: tuple[int, ...], kind: PoolingKind = PoolingKind.MEAN, **more: bool) -> Request:
    pooling = PoolingParams(kind=kind, **more)
    return Request(id=name, prompt_token_ids=prompt, params=NO_SAMPLING, pooling=pooling)


async def serve(
    requests: list[Request], executor: Executor, policy: str = "fcfs", **sizes: int
) -> tuple[list[RequestOutput], int]:
    """Serve all at once; return outputs and preemptions seen, having checked the books."""
    records = []
    plain = {"max_model_len": 64, "num_kv_blocks": 1024, "block_size": 4, "max_num_seqs": 64}
    engine = Engine(
        EngineConfig(**plain | sizes),  # type: ignore[arg-type]
        executor,
        make_schedule_policy(policy),
        vocab_size=VOCABULARY,
        observers=(records.append,),
    )
    loop = asyncio.create_task(engine.run())
    outputs = await asyncio.gather(*(engine.submit(request).result() for request in requests))
    engine.check_invariants()
    assert engine.kv_usage.num_referenced_blocks == 0
    await engine.close()
    await loop
    return list(outputs), sum(len(record.schedule.preempt) for record in records)


def neighbours(count: int) -> list[Request]:
    """Prompts to be pooled or continued, some beginning as the watched one."""
    rng, found = Random(9), []
    for number in range(count):
        prompt = WATCHED[: rng.randint(1, 40)] + tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 10)))
        made = (
            pooled_request(f"n{number}", prompt, rng.choice(list(PoolingKind)))
            if number % 2
            else make_request(f"n{number}", prompt, rng.randint(1, 8))
        )
        found.append(made)
    return found


def vector_of(requests: list[Request], block_size: int, **sizes: int) -> tuple[tuple[float, ...], int]:
    blocks = {"block_size": block_size} | sizes
    executor = TorchExecutor(tiny_runner(blocks.get("num_kv_blocks", 1024), block_size))
    outputs, preemptions = asyncio.run(serve(requests, executor, **blocks))
    (found,) = [output for output in outputs if output.request_id == "watched"]
    assert found.pooled is not None
    assert found.outputs[0].token_ids == ()
    assert found.outputs[0].finish_reason is FinishReason.STOP
    return found.pooled, preemptions


@STORES
@KINDS
def test_equal_to_the_models_own_hidden_states(kind, block_size):
    decoder, _ = tiny_decoder()
    with torch.inference_mode():
        hidden = decoder(torch.tensor(WATCHED), torch.arange(len(WATCHED)), DenseKV((len(WATCHED),)))
    wanted = (hidden.mean(dim=0) if kind is PoolingKind.MEAN else hidden[-1]).double().numpy()
    raw, _ = vector_of([pooled_request("watched", WATCHED, kind, normalize=False)], block_size)
    unit, _ = vector_of([pooled_request("watched", WATCHED, kind)], block_size)
    np.testing.assert_allclose(raw, wanted, atol=2e-5)
    np.testing.assert_allclose(unit, wanted / np.linalg.norm(wanted), atol=2e-6)


@STORES
@KINDS
@pytest.mark.parametrize(
    "sizes", [{}, {"enable_prefix_caching": False}, {"max_num_batched_tokens": 7}, {"overlap_steps": True}]
)
def test_the_same_bits_whatever_runs_beside_it(kind, block_size, sizes):
    watched = pooled_request("watched", WATCHED, kind)
    alone, _ = vector_of([watched], block_size)
    assert vector_of([watched, *neighbours(30)], block_size, **sizes)[0] == alone
    assert vector_of([*neighbours(30), watched], block_size, **sizes)[0] == alone


@KINDS
def test_the_same_bits_after_a_preemption(kind):
    watched = pooled_request("watched", WATCHED, kind)
    alone, _ = vector_of([watched], 4)
    crowd = [make_request(f"c{n}", STEM[: 3 + n], 40) for n in range(6)]
    crowded, preemptions = vector_of([*crowd, watched], 4, num_kv_blocks=24, max_num_batched_tokens=5)
    assert preemptions > 0
    assert crowded == alone


@KINDS
@pytest.mark.parametrize("policy", ["fcfs", "vtc", "priority"])
@pytest.mark.parametrize("overlap_steps", [False, True])
def test_modelled_engines_pool_too(kind, policy, overlap_steps):
    requests = [pooled_request("watched", WATCHED, kind, normalize=False), *neighbours(12)]
    executor = ModelledExecutor(step_seconds, SyntheticTokens(VOCABULARY))
    sizes = {"max_num_batched_tokens": 11, "overlap_steps": overlap_steps}
    outputs, _ = run_virtual(serve(requests, executor, policy, **sizes))
    wanted = (sum(WATCHED) / len(WATCHED), 1.0) if kind is PoolingKind.MEAN else (float(WATCHED[-1]), 1.0)
    assert outputs[0].pooled == wanted
    assert all(
        (output.pooled is None) == (request.pooling is None) for output, request in zip(outputs, requests, strict=True)
    )


def test_the_prefix_cache_serves_last_tokens_but_not_means():
    async def cached(kind: PoolingKind) -> int:
        executor = ModelledExecutor(step_seconds, SyntheticTokens(VOCABULARY))
        engine = Engine(
            EngineConfig(max_model_len=64, num_kv_blocks=64, block_size=4, max_num_seqs=4),
            executor,
            make_schedule_policy("fcfs"),
            vocab_size=VOCABULARY,
        )
        loop = asyncio.create_task(engine.run())
        await engine.submit(make_request("before", WATCHED, 1)).result()
        output = await engine.submit(pooled_request("pooled", WATCHED, kind)).result()
        await engine.close()
        await loop
        return output.num_cached_tokens

    assert run_virtual(cached(PoolingKind.LAST)) == 44
    assert run_virtual(cached(PoolingKind.MEAN)) == 0


def test_a_prompt_that_is_given_up_has_no_vector():
    async def give_up() -> RequestOutput:
        engine = Engine(
            EngineConfig(max_model_len=64, num_kv_blocks=64, block_size=4, max_num_seqs=4, max_num_batched_tokens=10),
            ModelledExecutor(step_seconds, SyntheticTokens(VOCABULARY)),
            make_schedule_policy("fcfs"),
            vocab_size=VOCABULARY,
        )
        loop = asyncio.create_task(engine.run())
        pooling = PoolingParams()
        request = Request(id="late", prompt_token_ids=WATCHED, params=NO_SAMPLING, pooling=pooling, deadline_s=0.03)
        output = await engine.submit(request).result()
        await engine.close()
        await loop
        return output

    output = run_virtual(give_up())
    assert output.outputs[0].finish_reason is FinishReason.DEADLINE
    assert output.pooled is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"params": SamplingParams()}, "params"), ({"output": (SampledToken(1),)}, "output")],
)
def test_what_is_pooled_is_not_continued(changes, field):
    async def submit() -> None:
        engine = Engine(
            EngineConfig(max_model_len=64, num_kv_blocks=64, block_size=4, max_num_seqs=4),
            ModelledExecutor(step_seconds, SyntheticTokens(VOCABULARY)),
            make_schedule_policy("fcfs"),
            vocab_size=VOCABULARY,
        )
        given = {"params": NO_SAMPLING, **changes}
        engine.submit(Request(id="x", prompt_token_ids=(1,), pooling=PoolingParams(), **given))

    with pytest.raises(ParamsError) as caught:
        run_virtual(submit())
    assert caught.value.field == field


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(0, 1 << 30), st.lists(st.integers(0, 40), max_size=5), st.sampled_from(PoolingKind)
)
def test_chunks_do_not_matter(num_tokens, seed, cuts, kind):
    hidden = torch.randn(num_tokens, 8, generator=torch.Generator().manual_seed(seed)) * 30
    params = PoolingParams(kind=kind, normalize=False)

    def pooled(borders: list[int]) -> tuple[float, ...]:
        vector = PooledVector(params, num_tokens)
        for start, end in pairwise(borders):
            vector.add(start, pool_rows(hidden[start:end], kind, reaches_end=end == num_tokens))
        return vector.value()

    whole = pooled([0, num_tokens])
    assert pooled(sorted({0, num_tokens, *(cut for cut in cuts if cut < num_tokens)})) == whole
    wanted = hidden.double().mean(dim=0) if kind is PoolingKind.MEAN else hidden[-1].double()
    np.testing.assert_allclose(whole, wanted, atol=1e-7)


def test_a_vector_begins_anew_at_position_0():
    vector = PooledVector(PoolingParams(normalize=False), 2)
    vector.add(0, (5.0,))
    vector.add(0, (1.0,))
    vector.add(1, (3.0,))
    assert vector.value() == (2.0,)


def test_unit_vectors():
    assert unit_vector((3.0, -4.0)) == (0.6, -0.8)
    assert unit_vector((0.0, 0.0)) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@KINDS
def test_broken_hidden_states_are_refused(bad, kind):
    with pytest.raises(ResourceError):
        pool_rows(torch.tensor([[1.0, bad]]), kind, reaches_end=True)
