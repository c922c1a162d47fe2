"""An engine as a replica: increments that add up, and a death in the middle of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from steelyard.core.batch import Batch, StepOutput
from steelyard.core.errors import EngineStoppedError, ParamsError, ReplicaLostError
from steelyard.core.params import SamplingParams
from steelyard.core.request import FinishReason, Request, TokenLogprob
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.executor import Executor, ModelledExecutor, SyntheticTokens
from steelyard.fleet.dispatcher import DispatchConfig, Dispatcher
from steelyard.fleet.replica import EngineReplica, Increment
from steelyard.policies.route import make_route_policy
from steelyard.policies.schedule import make_schedule_policy
from steelyard.sim.virtual import run_virtual

VOCABULARY = 50
REQUEST = Request(id="r", prompt_token_ids=(1, 2, 3), params=SamplingParams(max_tokens=12, seed=7, logprobs=0))


class Letters:
    """Spells token t as the letter number t mod 26, each pair of tokens at once, as a detokeniser may."""

    def __init__(self, params: SamplingParams) -> None:
        self._held = ""

    def push(self, token_id: int) -> str:
        self._held += chr(97 + token_id % 26)
        return self.flush() if len(self._held) == 2 else ""

    def flush(self) -> str:
        text, self._held = self._held, ""
        return text


class WithLogprobs:
    """Synthetic tokens, each with a log-probability that tells its place."""

    def __init__(self) -> None:
        self._tokens = SyntheticTokens(VOCABULARY)

    def __call__(self, batch: Batch) -> StepOutput:
        ends = {work.sequence.id: float(-work.end) for work in batch.works}
        sampled = {
            name: tuple(replace(t, logprob=TokenLogprob(t.token_id, ends[name], 1)) for t in tokens)
            for name, tokens in self._tokens(batch).sampled.items()
        }
        return StepOutput(sampled)


def make_engine(executor: Executor | None = None) -> Engine:
    return Engine(
        EngineConfig(max_model_len=64, num_kv_blocks=32, block_size=4),
        executor or ModelledExecutor(lambda batch: 0.01, WithLogprobs()),
        make_schedule_policy("fcfs"),
        vocab_size=VOCABULARY,
        text=Letters,
    )


async def stream(increments: AsyncGenerator[Increment, None]) -> list[Increment]:
    return [increment async for increment in increments]


async def with_engine(request: Request) -> list[Increment]:
    engine = make_engine()
    loop = asyncio.create_task(engine.run())
    increments = await stream(EngineReplica("a", engine).stream(request))
    engine.check_invariants()
    await engine.close()
    await loop
    return increments


def joined(increments: list[Increment]) -> tuple[object, ...]:
    tokens = tuple(token for increment in increments for token in increment.tokens)
    return tokens, "".join(increment.text for increment in increments), increments[-1].finish_reason


@pytest.mark.parametrize("stop", [(), ("h",)])
def test_a_continued_answer_has_the_missing_tokens_text_and_logprobs_and_no_others(stop):
    request = replace(REQUEST, params=replace(REQUEST.params, stop=stop))
    whole = run_virtual(with_engine(request))
    tokens, text, reason = joined(whole)
    assert len(tokens) == len(whole) > 3
    assert all(token.logprob is not None for token in tokens)
    assert [increment.finish_reason for increment in whole[:-1]] == [None] * (len(whole) - 1)
    for cut in range(1, len(whole)):
        rest = joined(run_virtual(with_engine(replace(request, output=tokens[:cut]))))
        so_far = "".join(increment.text for increment in whole[:cut])
        assert rest == (tokens[cut:], text[len(so_far) :], reason)


@pytest.mark.parametrize("kill_after_s", [0.0, 0.015, 0.055, 0.105])
def test_a_dispatcher_moves_an_answer_between_engines_without_a_seam(kill_after_s):
    async def main() -> list[Increment]:
        dispatcher = Dispatcher(make_route_policy("round_robin"), DispatchConfig())
        engines = [make_engine(), make_engine()]
        loops = [asyncio.create_task(engine.run()) for engine in engines]
        for name, engine in zip("ab", engines, strict=True):
            dispatcher.join(EngineReplica(name, engine))
        client = asyncio.create_task(stream(dispatcher.stream(REQUEST)))
        await asyncio.sleep(kill_after_s)
        await engines[0].close()
        increments = await client
        assert [view.healthy for view in dispatcher.views()] == [False, True]
        await engines[1].close()
        await asyncio.gather(*loops)
        return increments

    assert joined(run_virtual(main())) == joined(run_virtual(with_engine(REQUEST)))


def test_leaving_the_stream_cancels_the_request():
    async def main() -> None:
        engine = make_engine()
        loop = asyncio.create_task(engine.run())
        increments = EngineReplica("a", engine).stream(REQUEST)
        await anext(increments)
        await increments.aclose()
        await asyncio.sleep(0.02)
        assert engine.load().num_running == engine.load().num_waiting == 0
        await engine.close()
        await loop

    run_virtual(main())


class Failing(ModelledExecutor):
    async def execute(self, batch: Batch) -> StepOutput:
        raise OSError("a device is gone")


def test_errors_tell_a_failed_step_from_a_lost_replica():
    async def main() -> None:
        engine = make_engine(Failing(lambda batch: 0.01, WithLogprobs()))
        loop = asyncio.create_task(engine.run())
        replica = EngineReplica("a", engine)
        with pytest.raises(EngineStoppedError):
            await stream(replica.stream(REQUEST))
        with pytest.raises(ParamsError):
            await stream(replica.stream(replace(REQUEST, params=SamplingParams(max_tokens=100))))
        await engine.close()
        await loop
        with pytest.raises(ReplicaLostError, match="a: it was lost"):
            await stream(replica.stream(REQUEST))

    run_virtual(main())


def test_a_deadline_ends_the_stream_with_its_reason():
    assert run_virtual(with_engine(replace(REQUEST, deadline_s=0.035)))[-1].finish_reason is FinishReason.DEADLINE
