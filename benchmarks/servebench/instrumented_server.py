"""Steelyard's server with another executor: one that takes no time, or one that writes down when each step ended.

    python benchmarks/servebench/instrumented_server.py --port PORT --threads N --instant
    python benchmarks/servebench/instrumented_server.py --port PORT --threads N --step-ends FILE

FILE gets a native double per step: seconds of the machine's monotonic clock, which other processes read too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import struct
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from steelyard.core.batch import Batch, StepOutput
from steelyard.core.clock import wall_s
from steelyard.engine.async_llm import AsyncLLM
from steelyard.engine.build import LLMOptions
from steelyard.engine.executor import ModelledExecutor, SyntheticTokens
from steelyard.engine.torch_executor import TorchExecutor
from steelyard.serve.config import ModelSpec
from steelyard.serve.server import Server
from steelyard.serve.service import Service
from steelyard.serve.settings import load_config
from steelyard.serve.sources import DiskModels

END = struct.Struct("d")
FIRST_PLAIN, END_PLAIN = 300, 400  # tokens of the default model that spell some letters each


class TimedRunner:
    """A model runner that writes down when it has run.

    Args:
        runner: does the work.
        path: of the file.
    """

    def __init__(self, runner: Any, path: str) -> None:
        self._runner = runner
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def run(self, batch: Batch) -> StepOutput:
        """Compute a step."""
        output: StepOutput = self._runner.run(batch)
        os.write(self._file, END.pack(wall_s()))
        return output


class Models(DiskModels):
    """Models from disk, behind another executor.

    Args:
        options: of all models.
        executor: makes it from a model's runner.
    """

    def __init__(self, options: LLMOptions, executor: Callable[[Any], Any]) -> None:
        super().__init__(options)
        self._executor = executor

    async def load(self, spec: ModelSpec) -> AsyncLLM:
        """Load a model."""
        return await asyncio.to_thread(AsyncLLM, spec.source, executor=self._executor, **asdict(self._options))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", required=True)
    parser.add_argument("--threads", required=True)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--instant", action="store_true")
    kind.add_argument("--step-ends")
    given = parser.parse_args()
    config = load_config({"port": given.port, "threads": given.threads, "models": ["m=smollm2-135m-instruct"]})

    def executor(runner: Any) -> Any:
        if given.instant:
            return ModelledExecutor(lambda batch: 0.0, SyntheticTokens(END_PLAIN, frozenset(range(FIRST_PLAIN))))
        return TorchExecutor(TimedRunner(runner, given.step_ends))

    Server(Service(config, Models(config.engine, executor)), config).run()


if __name__ == "__main__":
    main()
