"""The executor protocol and its modelled implementation; the torch one is in :mod:`steelyard.engine.torch_executor`.

An executor turns a :class:`~steelyard.core.batch.Batch` into a :class:`~steelyard.core.batch.StepOutput`. It decides
nothing. The engine above it is the same whether the tokens come from a device or from a model of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from steelyard.core.batch import Batch, SequenceWork, StepOutput
from steelyard.core.clock import sleep_s
from steelyard.core.pooling import PoolingKind
from steelyard.core.request import SampledToken

_MIX = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Executor(Protocol):
    """Carries out steps, one at a time."""

    async def execute(self, batch: Batch) -> StepOutput:
        """Compute ``batch`` and return what was sampled. Raises whatever the device raised; the engine survives it."""
        ...

    async def close(self) -> None:
        """Release devices and threads; called once, after the last step."""
        ...


StepCost = Callable[[Batch], float]
"""Seconds that a step takes on the modelled machine."""

TokenSource = Callable[[Batch], StepOutput]
"""Where a modelled executor's tokens come from."""


class ModelledExecutor:
    """Returns tokens after a modelled time on whatever clock the running event loop keeps.

    Args:
        step_cost: seconds of each step.
        tokens: the tokens it returns; :class:`SyntheticTokens`, or a real model's ``run`` to pair modelled time with
            real tokens.
    """

    def __init__(self, step_cost: StepCost, tokens: TokenSource) -> None:
        self._step_cost, self._tokens = step_cost, tokens

    async def execute(self, batch: Batch) -> StepOutput:
        """Sleep the modelled time, then return the tokens."""
        await sleep_s(self._step_cost(batch))
        return self._tokens(batch)

    async def close(self) -> None:
        """Nothing to release."""


class SyntheticTokens:
    """A :data:`TokenSource` whose tokens are a hash of (sequence seed, position): deterministic, no text meant.

    A vector is made of the prompt's token ids, as if the hidden state of a token were (its id, 1).

    Args:
        vocab_size: tokens are drawn from ``0 … vocab_size − 1``.
        avoid: tokens never drawn, such as the end of sequence.
    """

    def __init__(self, vocab_size: int, avoid: frozenset[int] = frozenset()) -> None:
        self._allowed = tuple(token for token in range(vocab_size) if token not in avoid)

    def __call__(self, batch: Batch) -> StepOutput:
        """Return one token per work item that samples, and a part of a vector per work item that is pooled."""
        sampled = {
            work.sequence.id: (SampledToken(self.token(work.sequence.seed, work.end)),)
            for work in batch.works
            if work.samples
        }
        pooled = {
            work.sequence.id: _pooled(work, work.sequence.pooling.kind)
            for work in batch.works
            if work.sequence.pooling is not None
        }
        return StepOutput(sampled, pooled=pooled)

    def token(self, seed: int, position: int) -> int:
        """Return the token that a sequence of this seed samples when ``position`` tokens are known."""
        mixed = ((seed ^ position) * _MIX) & _MASK
        return self._allowed[(mixed >> 32) % len(self._allowed)]


def _pooled(work: SequenceWork, kind: PoolingKind) -> tuple[float, ...]:
    tokens = work.sequence.tokens[work.start : work.end]
    if kind is PoolingKind.MEAN:
        return float(sum(tokens)), float(len(tokens))
    return (float(tokens[-1]), 1.0) if work.reaches_end else ()
