"""A request's tokens do not depend on its neighbours, nor on prefix cache, chunking or preemption."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from tiny_engine import VOCABULARY, tiny_runner

from steelyard.core.params import SamplingParams
from steelyard.core.request import Request, RequestOutput
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.torch_executor import TorchExecutor
from steelyard.policies.schedule import make_schedule_policy

SAMPLED = {"temperature": 1.0, "top_p": 0.9, "seed": 11}
GREEDY = {"temperature": 0.0}


def requests(count: int, **sampling: float) -> list[Request]:
    """The first request is always the same; the others differ in everything."""
    rng = Random(3)
    stem = tuple(rng.randrange(VOCABULARY) for _ in range(17))
    found = []
    for number in range(count):
        prompt = stem[: 8 + number % 10] + tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 30)))
        params = SamplingParams(max_tokens=24 if number == 0 else rng.randint(1, 24), logprobs=2, **sampling)  # type: ignore[arg-type]
        found.append(Request(id=str(number), prompt_token_ids=prompt, params=params))
    return found


async def answer(config: EngineConfig, load: list[Request], warm: bool) -> tuple[list[RequestOutput], int]:
    """Serve ``load``, the watched request again at the end if ``warm``; return outputs and preemptions seen."""
    preemptions = 0

    def watch(record: object) -> None:
        nonlocal preemptions
        preemptions += len(record.schedule.preempt)  # type: ignore[attr-defined]

    engine = Engine(
        config,
        TorchExecutor(tiny_runner(config.num_kv_blocks, config.block_size)),
        make_schedule_policy("fcfs"),
        vocab_size=VOCABULARY,
        observers=(watch,),
    )
    loop = asyncio.create_task(engine.run())
    outputs = await asyncio.gather(*(engine.submit(request).result() for request in load))
    if warm:
        again = Request(id="again", prompt_token_ids=load[0].prompt_token_ids, params=load[0].params)
        outputs = [await engine.submit(again).result()]
        assert outputs[0].num_cached_tokens > 0
    await engine.close()
    await loop
    return list(outputs), preemptions


def serve(
    load: list[Request], block_size: int, *, warm: bool = False, num_kv_tokens: int = 16384, **sizes: int
) -> tuple[list[RequestOutput], int]:
    blocks = {"num_kv_blocks": num_kv_tokens // block_size, "block_size": block_size}
    config = EngineConfig(**{"max_model_len": 128, "max_num_seqs": 64} | blocks | sizes)  # type: ignore[arg-type]
    return asyncio.run(answer(config, load, warm))


# Blocks of 4 tokens are PyTorch's store, blocks of 16 the native one's.
STORES = pytest.mark.parametrize("block_size", [4, pytest.param(16, marks=pytest.mark.native)], ids=["torch", "native"])


@STORES
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("neighbours", [1, 8, 44, 64])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"enable_prefix_caching": False},
        {"max_num_batched_tokens": 7},
        {"num_kv_tokens": 96, "max_model_len": 80},
        {"num_kv_tokens": 96, "max_model_len": 80, "max_num_batched_tokens": 20, "enable_prefix_caching": False},
    ],
    ids=["plain", "no prefix cache", "chunked", "preempted", "chunked, preempted, no prefix cache"],
)
def test_company_does_not_change_a_requests_tokens(
    block_size: int, sampling: dict[str, float], neighbours: int, sizes: dict[str, int]
) -> None:
    (alone,), _ = serve(requests(1, **sampling), block_size, enable_prefix_caching=False)
    outputs, preemptions = serve(requests(neighbours, **sampling), block_size, **sizes)
    assert outputs[0].outputs[0].token_ids == alone.outputs[0].token_ids
    assert outputs[0].outputs[0].logprobs == alone.outputs[0].logprobs, "not even the last bit of a log-probability"
    if "num_kv_tokens" in sizes and neighbours >= 44 and block_size == 4:  # larger blocks are reserved ahead
        assert preemptions > 0


@STORES
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_prefix_from_the_cache_changes_nothing(block_size: int, sampling: dict[str, float]) -> None:
    (alone,), _ = serve(requests(1, **sampling), block_size, enable_prefix_caching=False)
    (again,), _ = serve(requests(8, **sampling), block_size, warm=True)
    assert again.outputs[0].token_ids == alone.outputs[0].token_ids
    assert again.outputs[0].logprobs == alone.outputs[0].logprobs


@STORES
def test_every_one_of_many_gets_what_it_gets_alone(block_size: int) -> None:
    load = requests(16, **GREEDY)
    together, _ = serve(load, block_size, max_num_batched_tokens=40, num_kv_tokens=160)
    for request, output in zip(load, together, strict=True):
        (alone,), _ = serve([request], block_size)
        assert output.outputs[0].token_ids == alone.outputs[0].token_ids, request.id
