"""Steps on a thread of their own."""

from __future__ import annotations

import asyncio

from tiny_engine import EngineFactory, make_request

from steelyard.core.batch import Batch, StepOutput
from steelyard.engine.executor import SyntheticTokens
from steelyard.engine.torch_executor import TorchExecutor


class WritesDown:
    """Stands for a model runner."""

    def __init__(self, happened: list[str]) -> None:
        self._happened, self._tokens = happened, SyntheticTokens(100)

    def run(self, batch: Batch) -> StepOutput:
        self._happened.append("step")
        return self._tokens(batch)


def test_whoever_waits_for_a_step_has_its_tokens_before_the_next_step_begins(make_engine: EngineFactory) -> None:
    happened: list[str] = []

    async def main() -> None:
        engine = make_engine(executor=TorchExecutor(WritesDown(happened)))  # type: ignore[arg-type]
        loop = asyncio.create_task(engine.run())
        async for output in engine.submit(make_request("a", (1, 2), max_tokens=4)).outputs():
            happened.append(f"{len(output.outputs[0].token_ids)} tokens")  # noqa: PERF401  when it is, matters
        await engine.close()
        await loop

    asyncio.run(main())
    assert happened == ["step", "1 tokens", "step", "2 tokens", "step", "3 tokens", "step", "4 tokens"]
