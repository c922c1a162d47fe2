"""What one engine has computed, another need not: same tokens, and no block lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from tiny_engine import TINY, EngineFactory, make_request, tiny_decoder

from steelyard.core.errors import EngineStoppedError, InputError
from steelyard.core.request import Request, RequestOutput, SampledToken
from steelyard.engine.engine import Engine
from steelyard.engine.handover import KVPort
from steelyard.engine.model_runner import ModelRunner
from steelyard.engine.sampling import Sampler
from steelyard.engine.torch_executor import TorchExecutor
from steelyard.memory.kv_store import make_kv_store

PROMPT = tuple(3 * i % 97 for i in range(41))
BLOCK_SIZES = [4, 16]  # PyTorch's store, and the compiled kernels' where they are


@dataclass
class Site:
    engine: Engine
    port: KVPort

    async def answer(self, request: Request) -> RequestOutput:
        return await self.engine.submit(request).result()


@asynccontextmanager
async def site(
    make_engine: EngineFactory, block_size: int, *, num_blocks: int = 64, model: str = "tiny", **config: int
) -> AsyncIterator[Site]:
    """A real engine of its own that runs meanwhile."""
    decoder, row_tile = tiny_decoder()
    store = make_kv_store(replace(TINY, block_size=block_size), num_blocks, torch.device("cpu"))
    runner = ModelRunner(decoder, store, Sampler(eos_token_ids=frozenset()), row_tile)
    sizes = {"block_size": block_size, "num_kv_blocks": num_blocks, "max_model_len": 64}
    engine = make_engine(executor=TorchExecutor(runner), **sizes, **config)
    loop = asyncio.create_task(engine.run())
    try:
        yield Site(engine, KVPort(engine, store, model))
        engine.check_invariants()
    finally:
        await engine.close()
        await loop


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("overlap", [False, True])
def test_prompts_here_and_decodes_there_give_the_tokens_of_one_engine(
    make_engine: EngineFactory, block_size: int, overlap: bool
) -> None:
    whole = make_request("whole", PROMPT, max_tokens=12)

    async def main() -> None:
        async with (
            site(make_engine, block_size, overlap_steps=overlap) as prompts,
            site(make_engine, block_size, overlap_steps=overlap) as decodes,
            site(make_engine, block_size) as alone,
        ):
            expected = (await alone.answer(whole)).outputs[0].token_ids
            first = await prompts.answer(make_request("first", PROMPT, max_tokens=1))
            num_kept = await decodes.port.unpack(await prompts.port.pack(PROMPT))
            (token,) = first.outputs[0].token_ids
            rest = await decodes.answer(replace(whole, output=(SampledToken(token),)))
            assert rest.outputs[0].token_ids == expected
            assert num_kept == rest.num_cached_tokens == len(PROMPT) // block_size * block_size

    asyncio.run(main())


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_parcels_come_and_go_while_others_are_computed(make_engine: EngineFactory, block_size: int) -> None:
    other = make_request("other", tuple(range(10)), max_tokens=50)

    async def main() -> None:
        async with site(make_engine, block_size) as one, site(make_engine, block_size) as two:
            expected = (await one.answer(other)).outputs[0].token_ids
            await one.answer(make_request("prompt", PROMPT, max_tokens=1))
            under_way = asyncio.create_task(two.answer(other))
            num_parcels = 0
            while not under_way.done():
                assert await two.port.unpack(await one.port.pack(PROMPT)) > 0
                two.engine.check_invariants()
                num_parcels += 1
                await asyncio.sleep(0)  # neither call waits while its engine is idle
            assert (await under_way).outputs[0].token_ids == expected
            assert num_parcels > 1

    asyncio.run(main())


def test_what_finds_no_room_is_computed(make_engine: EngineFactory) -> None:
    async def main() -> None:
        async with site(make_engine, 4) as large, site(make_engine, 4, num_blocks=16) as small:
            await large.answer(make_request("prompt", PROMPT, max_tokens=1))
            holder = small.engine.submit(make_request("holder", tuple(range(40)), max_tokens=16))
            while small.engine.num_running == 0:
                await asyncio.sleep(0)
            num_kept = await small.port.unpack(await large.port.pack(PROMPT))
            assert 0 < num_kept < len(PROMPT) // 4 * 4
            small.engine.check_invariants()
            await holder.result()
            expected = (await large.answer(make_request("again", PROMPT))).outputs[0].token_ids
            assert (await small.answer(make_request("here", PROMPT))).outputs[0].token_ids == expected

    asyncio.run(main())


def test_other_salts_and_unknown_prompts_have_nothing_to_send(make_engine: EngineFactory) -> None:
    async def main() -> None:
        async with site(make_engine, 4) as one, site(make_engine, 4) as two:
            await one.answer(make_request("prompt", PROMPT, max_tokens=1, cache_salt="ann"))
            for parcel in (await one.port.pack(PROMPT), await one.port.pack(PROMPT[1:], "ann")):
                assert (parcel.token_ids, len(parcel.content)) == ((), 0)
                assert await two.port.unpack(parcel) == 0
            assert len((await one.port.pack(PROMPT, "ann")).token_ids) == 40

    asyncio.run(main())


def test_parcels_of_other_engines_are_refused_by_name(make_engine: EngineFactory) -> None:
    async def main() -> None:
        async with (
            site(make_engine, 4) as one,
            site(make_engine, 4, model="other") as stranger,
            site(make_engine, 8) as coarse,
        ):
            await one.answer(make_request("prompt", PROMPT, max_tokens=1))
            parcel = await one.port.pack(PROMPT)
            for other, named in ((stranger, "model"), (coarse, "block_format")):
                with pytest.raises(InputError) as caught:
                    await other.port.unpack(parcel)
                assert caught.value.field == named
            for broken in (replace(parcel, token_ids=PROMPT), replace(parcel, content=parcel.content[:, 1:])):
                with pytest.raises(InputError, match="tokens") as caught:
                    await one.port.unpack(broken)
                assert caught.value.field == "content"

    asyncio.run(main())


def test_a_closed_engine_says_so(make_engine: EngineFactory) -> None:
    async def main() -> None:
        async with site(make_engine, 4) as one:
            await one.engine.close()
            with pytest.raises(EngineStoppedError):
                await one.port.pack(PROMPT)

    asyncio.run(main())
