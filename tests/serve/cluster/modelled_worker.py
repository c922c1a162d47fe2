"""A worker whose engine is modelled and sleeps: run as a program, in place of ``steelyard.serve.cluster.worker``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from steelyard.core.params import SamplingParams
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.executor import ModelledExecutor, SyntheticTokens
from steelyard.policies.schedule import make_schedule_policy
from steelyard.serve.cluster import wire
from steelyard.serve.cluster.worker import main

VOCABULARY = 100
STEP_S = 0.004


def letter(token_id: int) -> str:
    """Return what a token is spelled as."""
    return chr(97 + token_id % 26)


class Letters:
    """Spells tokens as letters."""

    def __init__(self, params: SamplingParams) -> None:
        pass

    def push(self, token_id: int) -> str:
        return letter(token_id)

    def flush(self) -> str:
        return ""


class HostedEngine:
    """See :class:`~steelyard.serve.cluster.worker.HostedLLM`."""

    def __init__(self, config: EngineConfig, policy: str) -> None:
        self._config, self._policy = config, policy
        self._engine: Engine | None = None

    def start(self) -> Engine:
        if self._engine is None:
            executor = ModelledExecutor(lambda batch: STEP_S, SyntheticTokens(VOCABULARY))
            policy = make_schedule_policy(self._policy)
            self._engine = Engine(self._config, executor, policy, vocab_size=VOCABULARY, text=Letters)
            self._task = asyncio.get_running_loop().create_task(self._engine.run())
        return self._engine

    def set_shares(self, shares: Mapping[str, float]) -> None:
        pass

    async def prepare(self, params: SamplingParams) -> None:
        pass

    async def stopped(self) -> BaseException | None:
        await asyncio.wait({self._task})
        return self._task.exception()

    async def close(self) -> None:
        await self.start().close()
        await self._task


def load(told: wire.Load) -> tuple[HostedEngine, wire.ModelProfile]:
    options = told.options
    length = options.max_model_len or 256
    found = options.max_num_seqs * length // 16 + os.getpid() % 100  # of memory, as it happens to be
    config = EngineConfig(
        max_model_len=length,
        num_kv_blocks=options.kv_cache_memory_bytes or found,
        max_num_seqs=options.max_num_seqs,
        max_waiting=options.max_waiting,
    )
    profile = wire.ModelProfile(
        name="modelled",
        engine_config=config,
        vocab_size=VOCABULARY,
        hidden_size=2,
        held_bytes=1,
        kv_cache_bytes=config.num_kv_blocks,
        default_params=SamplingParams(temperature=0.0, ignore_eos=True),
    )
    return HostedEngine(config, options.schedule_policy), profile


if __name__ == "__main__":
    main(load)
