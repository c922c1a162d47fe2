"""The whole server on the virtual clock: real routes and policies, a modelled engine behind them, no socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import httpx

from steelyard.core.batch import Batch
from steelyard.core.params import SamplingParams
from steelyard.engine.build import LLMOptions
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.executor import ModelledExecutor, SyntheticTokens
from steelyard.policies.schedule import make_schedule_policy
from steelyard.policies.schedule.vtc import VtcPolicy
from steelyard.serve.app import create_app
from steelyard.serve.config import AccessConfig, ModelSpec, ServeConfig
from steelyard.serve.llm import ServedLLM
from steelyard.serve.service import Service

VOCABULARY = 100


def step_seconds(batch: Batch) -> float:
    """A plain modelled machine: 10 ms a step and 1 ms a token."""
    return 0.010 + 0.001 * batch.num_tokens


class ModelledLLM:
    """What the server needs of an :class:`ServedLLM`, computing nothing."""

    default_params = SamplingParams(temperature=0.0, ignore_eos=True)

    def __init__(self, options: LLMOptions) -> None:
        self._policy, self._engine = options.schedule_policy, cast(Engine, None)
        config = EngineConfig(
            max_model_len=options.max_model_len or 256,
            num_kv_blocks=4 * options.max_num_seqs * (options.max_model_len or 256) // 16,
            max_num_seqs=options.max_num_seqs,
            max_waiting=options.max_waiting,
        )
        self.parts = SimpleNamespace(engine_config=config, tokenizer=None, held_bytes=1)

    def start(self) -> Engine:
        if self._engine is None:
            executor = ModelledExecutor(step_seconds, SyntheticTokens(VOCABULARY))
            policy = make_schedule_policy(self._policy)
            self._engine = Engine(self.parts.engine_config, executor, policy, vocab_size=VOCABULARY)
            self._task = asyncio.get_running_loop().create_task(self._engine.run())
        return self._engine

    @property
    def is_up(self) -> bool:
        return not self.start().closed

    def set_shares(self, shares: Mapping[str, float]) -> None:
        policy = self.start().policy
        if isinstance(policy, VtcPolicy):
            policy.reconfigure(replace(policy.config, shares=shares))

    async def stopped(self) -> BaseException | None:
        self.start()
        await asyncio.wait({self._task})
        return self._task.exception()

    async def prepare(self, params: SamplingParams) -> None:
        assert params.constraint is None, "the modelled machine follows none"

    async def close(self) -> None:
        await self.start().close()
        await asyncio.gather(self._task, return_exceptions=True)


class ModelledModels:
    """A source of them; ``load_s`` is what loading takes, ``broken`` makes it fail."""

    def __init__(self, options: LLMOptions, load_s: float = 0.0) -> None:
        self._options, self.load_s = options, load_s
        self.broken: Exception | None = None
        self.loaded: list[ModelledLLM] = []

    async def need_bytes(self, spec: ModelSpec) -> int:
        return 1

    async def load(self, spec: ModelSpec) -> ServedLLM:
        await asyncio.sleep(self.load_s)
        if self.broken is not None:
            raise self.broken
        self.loaded.append(ModelledLLM(self._options))
        return cast(ServedLLM, self.loaded[-1])

    async def put_away(self, llm: ServedLLM) -> None:
        await llm.close()


@dataclass(frozen=True)
class ModelledServer:
    """A server in virtual time."""

    service: Service
    source: ModelledModels
    app: Any

    def client(self, key: str = "") -> httpx.AsyncClient:
        """Return a client that sends ``key``'s secret."""
        headers = {"X-API-Key": secret(key)} if key else {}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://server", headers=headers, timeout=None
        )

    @property
    def engine(self) -> Engine:
        llm = self.service.pool.models[0].llm
        assert llm is not None
        return llm.start()


def secret(key: str) -> str:
    return f"secret-of-{key}"


@asynccontextmanager
async def modelled_server(
    *keys: str,
    names: tuple[str, ...] = ("m",),
    load_s: float = 0.0,
    engine: dict[str, Any] | None = None,
    **config: Any,
) -> AsyncIterator[ModelledServer]:
    """Serve in the running virtual loop, with a key for each name; ``config`` are :class:`ServeConfig`'s fields."""
    options = LLMOptions(**({"max_model_len": 256, "max_num_seqs": 4} | (engine or {})))
    access = AccessConfig(api_keys=tuple(f"{key}:{secret(key)}" for key in keys))
    settled = ServeConfig(
        models=tuple(ModelSpec(source=None, names=(name,)) for name in names), access=access, engine=options, **config
    )
    source = ModelledModels(options, load_s)
    service = Service(settled, source)
    app = create_app(service, settled)
    starting = asyncio.get_running_loop().create_task(service.start())
    if not load_s:
        await starting
    try:
        yield ModelledServer(service, source, app)
    finally:
        await service.close()
        await starting


def completion(num_prompt_tokens: int = 8, max_tokens: int = 8, first: int = 1, **more: Any) -> dict[str, Any]:
    """Return the body of a request; ``first`` tells prompts apart."""
    return {"prompt": [first] * num_prompt_tokens, "max_tokens": max_tokens, "ignore_eos": True} | more


async def post(client: httpx.AsyncClient, body: dict[str, Any], **headers: str) -> httpx.Response:
    return await client.post("/v1/completions", json=body, headers=headers)


async def until(holds: Callable[[], bool]) -> None:
    """Wait, in virtual time, until ``holds``."""
    for _ in range(100_000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("waited in vain")
