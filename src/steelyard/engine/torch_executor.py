"""The executors for real devices: a model runner on a thread of its own, or on the event loop's.

A thread keeps the loop responsive while a step runs, which a server needs; waking it and the loop again costs a step
some tenths of a millisecond. A loop that does nothing but step an engine loses nothing by computing itself.
"""

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
        """Compute one step on the executor's thread.

        Whoever was woken by the step before goes first: once all cores compute, its tokens would wait for one.
        """
        await asyncio.sleep(0)
        return await self.call(lambda: self._runner.run(batch))

    async def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the same thread, between steps (scoring)."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def close(self) -> None:
        """Wait for the step in flight and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class InlineExecutor:
    """Runs a :class:`~steelyard.engine.model_runner.ModelRunner` on the event loop, which waits meanwhile.

    Args:
        runner: computes the steps.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner

    async def execute(self, batch: Batch) -> StepOutput:
        """Let the loop do what else is due, then compute one step."""
        await asyncio.sleep(0)
        return self._runner.run(batch)

    async def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` between steps."""
        await asyncio.sleep(0)
        return function()

    async def close(self) -> None:
        """Do nothing: there is nothing to end."""
