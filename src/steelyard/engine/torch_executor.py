"""The executor for real devices: a model runner on one thread of its own, so that the event loop stays responsive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from steelyard.core.batch import Batch, StepOutput
from steelyard.engine.model_runner import ModelRunner

T = TypeVar("T")


class TorchExecutor:
    """Runs a :class:`~steelyard.engine.model_runner.ModelRunner` off the event loop, one call at a time.

    Args:
        runner: computes the steps.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="steelyard-torch")

    async def execute(self, batch: Batch) -> StepOutput:
        """Compute one step on the executor's thread."""
        return await self.call(lambda: self._runner.run(batch))

    async def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the same thread, between steps (scoring, embedding)."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def close(self) -> None:
        """Wait for the step in flight and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
