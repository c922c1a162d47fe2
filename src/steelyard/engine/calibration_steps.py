"""What calibrations are made from: a small Llama's description, a step's works, and a step served by the engine."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from steelyard.core.batch import SequenceWork
from steelyard.core.params import SamplingParams
from steelyard.core.request import Request
from steelyard.core.sequence import Sequence
from steelyard.core.units import ceil_div
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.model_runner import ModelRunner
from steelyard.engine.torch_executor import InlineExecutor
from steelyard.engine.view import StepRecord
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
from steelyard.policies.schedule import make_schedule_policy

HEAD_DIM = 64
MAX_CONTEXT = 2048
_PROMPT = (1, 2, 3)
_DECODE_TOKENS = 24  # fewer than two blocks hold with the prompt


def small_llama(
    depth: int, *, hidden_size: int, feed_forward_size: int, num_heads: int, num_kv_heads: int, vocab_size: int
) -> ModelConfig:
    """Return a Llama of ``depth`` layers alike, with heads of :data:`HEAD_DIM`."""
    attention = AttentionConfig(
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=HEAD_DIM, scale=HEAD_DIM**-0.5,
        rope=RopeConfig(theta=10_000.0, dim=HEAD_DIM),
    )  # fmt: skip
    layer = LayerConfig(attention=attention, feed_forward=MlpConfig(size=feed_forward_size, activation=Activation.SILU))
    return ModelConfig(
        family="llama", vocab_size=vocab_size, hidden_size=hidden_size, max_position_embeddings=MAX_CONTEXT,
        norm=NormKind.RMS, norm_eps=1e-5, residual=Residual.PRE, layers=(layer,) * depth,
    )  # fmt: skip


def sequence_work(new: int, context: int, block_size: int, number: int = 0) -> SequenceWork:
    """Return the work of the last ``new`` of ``context`` tokens; sequences of different numbers share no block."""
    sequence = Sequence(
        id=number,
        request_id="calibration",
        index=0,
        prompt=(0,) * context,
        params=SamplingParams(temperature=0.0),
        seed=0,
        arrival_s=0.0,
    )
    count = ceil_div(context, block_size)
    return SequenceWork(sequence, context - new, new, tuple(range(number * count, (number + 1) * count)))


def decode_step_s(runner: ModelRunner, vocab_size: int, num_sequences: int = 1) -> float:
    """Return the shortest time of an engine's step that gives each of some sequences one more token.

    The runner's store needs two blocks per sequence or more.
    """
    return asyncio.run(_served_step_s(runner, vocab_size, num_sequences))


async def _served_step_s(runner: ModelRunner, vocab_size: int, num_sequences: int) -> float:
    block_size = runner.block_size
    sizes = EngineConfig(
        max_model_len=2 * block_size, num_kv_blocks=2 * num_sequences, block_size=block_size,
        max_num_seqs=num_sequences, enable_prefix_caching=False,
    )  # fmt: skip
    ends: list[float] = []

    def note(record: StepRecord) -> None:
        if len(record.works) == num_sequences:
            ends.append(record.end_s)

    engine = Engine(
        sizes, InlineExecutor(runner), make_schedule_policy("fcfs"), vocab_size=vocab_size, observers=(note,)
    )
    params = SamplingParams(temperature=0.0, max_tokens=_DECODE_TOKENS, ignore_eos=True)
    requests = [Request(id=str(n), prompt_token_ids=_PROMPT, params=params) for n in range(num_sequences)]
    loop = asyncio.create_task(engine.run())
    responses = [engine.submit(request) for request in requests]
    for response in responses:
        await response.result()
    await engine.close()
    await loop
    return min(late - early for early, late in pairwise(ends))
