"""One real server with the default model for all tests that need answers."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest
from live_server import KEYS, LiveServer, live_server

from steelyard.engine.build import LLMOptions
from steelyard.serve.config import AccessConfig, LimitsConfig, ListenConfig, ModelSpec, ServeConfig
from steelyard.serve.sources import DiskModels


@pytest.fixture(scope="session")
def live() -> Iterator[LiveServer]:
    """A server with two keys, four seats and a short queue."""
    config = ServeConfig(
        models=(ModelSpec(source=None, names=("smol", "alias")),),
        listen=ListenConfig(port=0, docs=True, drain_timeout_s=5.0, allowed_origins=("https://good.example",)),
        access=AccessConfig(api_keys=tuple(f"{name}:{secret}" for name, secret in KEYS.items())),
        limits=LimitsConfig(max_body_bytes=200_000, max_prompts=8, max_completions=24),
        engine=LLMOptions(max_model_len=512, max_num_seqs=4, max_waiting=8),
    )
    with live_server(config, DiskModels(config.engine)) as server:
        yield server


@pytest.fixture
def http(live: LiveServer) -> Iterator[httpx.Client]:
    """A plain client with Ann's key."""
    with httpx.Client(base_url=live.url, headers={"Authorization": f"Bearer {KEYS['ann']}"}, timeout=60) as client:
        yield client


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    """The official client with Ann's key."""
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=KEYS["ann"], max_retries=0, timeout=60) as made:
        yield made
