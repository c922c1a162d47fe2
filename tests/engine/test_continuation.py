"""A request begun elsewhere goes on as if it had never moved: same tokens, same end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tiny_engine import VOCABULARY, EngineFactory, make_request, tiny_runner

from steelyard.core.errors import ParamsError, PromptError
from steelyard.core.params import SamplingParams
from steelyard.core.request import CompletionOutput, Request, SampledToken
from steelyard.engine.engine import Engine
from steelyard.engine.torch_executor import TorchExecutor
from steelyard.sim.virtual import run_virtual

PROMPT = (5, 6, 7, 8, 9, 10)
PARAMS = [
    SamplingParams(temperature=0.0, max_tokens=14),
    SamplingParams(temperature=0.9, seed=3, max_tokens=14, logprobs=2),
    SamplingParams(temperature=1.0, seed=4, max_tokens=14, repetition_penalty=1.3, frequency_penalty=0.7),
    SamplingParams(temperature=0.0, max_tokens=14, min_tokens=8, presence_penalty=2.0),
]


@pytest.fixture
def runner():
    return tiny_runner(64)


async def answer(engine: Engine, requests: list[Request]) -> list[CompletionOutput]:
    loop = asyncio.create_task(engine.run())
    outputs = [(await engine.submit(request).result()).outputs[0] for request in requests]
    engine.check_invariants()
    await engine.close()
    await loop
    return outputs


@pytest.mark.parametrize("params", PARAMS)
def test_every_cut_gives_the_uncut_answer(make_engine: EngineFactory, runner, params: SamplingParams) -> None:
    whole = Request(id="whole", prompt_token_ids=PROMPT, params=params)

    async def main(requests: list[Request]) -> list[CompletionOutput]:
        return await answer(make_engine(executor=TorchExecutor(runner)), requests)

    (expected,) = asyncio.run(main([whole]))
    tokens = expected.logprobs or tuple(SampledToken(token) for token in expected.token_ids)
    cuts = [replace(whole, id=str(cut), output=tokens[:cut]) for cut in range(1, len(tokens))]
    assert asyncio.run(main(cuts)) == [expected] * len(cuts)


def test_what_cannot_be_continued_is_refused_by_name(make_engine: EngineFactory) -> None:
    async def main() -> None:
        engine = make_engine()
        two = (SampledToken(1), SampledToken(2))
        with pytest.raises(ParamsError, match="ends within the 2 tokens") as caught:
            engine.submit(make_request("ended", PROMPT, max_tokens=2, output=two))
        assert caught.value.field == "output"
        with pytest.raises(ParamsError, match="3 completions"):
            engine.submit(make_request("many", PROMPT, n=3, output=two))
        with pytest.raises(PromptError, match="outside the vocabulary"):
            engine.submit(make_request("strange", PROMPT, output=(SampledToken(VOCABULARY),)))
        with pytest.raises(PromptError, match="do not fit"):
            engine.submit(make_request("long", PROMPT, output=(SampledToken(0),) * 60))
        assert engine.num_waiting == 0
        await engine.close()

    run_virtual(main())
