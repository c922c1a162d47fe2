"""A modelled engine on the virtual clock, for tests of the loop, and a small real model for tests of its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from steelyard.core.batch import Batch
from steelyard.core.params import SamplingParams
from steelyard.core.request import Request
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine, Observer
from steelyard.engine.executor import Executor, ModelledExecutor, SyntheticTokens
from steelyard.engine.model_runner import ModelRunner
from steelyard.engine.sampling import Sampler
from steelyard.kernels.linear import prepare_linears
from steelyard.memory.kv_store import make_kv_store
from steelyard.memory.paged_kv import KVShape
from steelyard.models.config import (
    Activation,
    AttentionConfig,
    LayerConfig,
    MlpConfig,
    ModelConfig,
    NormKind,
    Residual,
    RopeConfig,
)
from steelyard.models.decoder import Decoder
from steelyard.policies.schedule import make_schedule_policy

VOCABULARY = 100
EngineFactory = Callable[..., Engine]


def step_seconds(batch: Batch) -> float:
    """A plain modelled machine: 10 ms a step and 1 ms a token."""
    return 0.010 + 0.001 * batch.num_tokens


def make_request(name: str, prompt: tuple[int, ...], max_tokens: int | None = 8, **changes: object) -> Request:
    """Return a greedy request that ignores the end of sequence."""
    fields = {
        key: changes.pop(key) for key in ("priority", "cache_salt", "deadline_s", "tenant", "output") if key in changes
    }
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, **changes)  # type: ignore[arg-type]
    return Request(id=name, prompt_token_ids=prompt, params=params, **fields)  # type: ignore[arg-type]


@pytest.fixture
def make_engine() -> EngineFactory:
    """Return a factory of engines; must be called inside a running event loop."""

    def make(
        *, policy: str = "fcfs", executor: Executor | None = None, observers: tuple[Observer, ...] = (), **config: int
    ) -> Engine:
        sizes = {"max_model_len": 64, "num_kv_blocks": 64, "block_size": 4, "max_num_seqs": 8} | config
        return Engine(
            EngineConfig(**sizes),  # type: ignore[arg-type]
            executor or ModelledExecutor(step_seconds, SyntheticTokens(VOCABULARY)),
            make_schedule_policy(policy),
            vocab_size=VOCABULARY,
            observers=observers,
        )

    return make


TINY = KVShape(num_layers=2, num_kv_heads=2, head_dim=16, block_size=4, dtype=torch.float32)


def random_decoder() -> Decoder:
    """Return a small Llama-shaped decoder with random weights."""
    attention = AttentionConfig(
        num_heads=6, num_kv_heads=2, head_dim=16, scale=0.25, rope=RopeConfig(theta=10_000.0, dim=16)
    )
    layer = LayerConfig(attention=attention, feed_forward=MlpConfig(size=96, activation=Activation.SILU))
    config = ModelConfig(
        family="llama", vocab_size=VOCABULARY, hidden_size=96, max_position_embeddings=256, norm=NormKind.RMS,
        norm_eps=1e-5, residual=Residual.PRE, layers=(layer, layer),
    )  # fmt: skip
    torch.manual_seed(0)
    decoder = Decoder(config).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return decoder


def tiny_decoder() -> tuple[Decoder, int]:
    """Return :func:`random_decoder` prepared for serving, and its row tile."""
    decoder = random_decoder()
    return decoder, prepare_linears(decoder)


def tiny_runner(num_kv_blocks: int, block_size: int = TINY.block_size) -> ModelRunner:
    """Return a runner of :func:`tiny_decoder` over a KV store of its own: PyTorch's for blocks of 4, native for 16."""
    decoder, row_tile = tiny_decoder()
    store = make_kv_store(replace(TINY, block_size=block_size), num_kv_blocks, torch.device("cpu"))
    return ModelRunner(decoder, store, Sampler(eos_token_ids=frozenset()), row_tile)
