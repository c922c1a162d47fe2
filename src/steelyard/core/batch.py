"""What the engine hands an executor for one step, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from steelyard.core.errors import SteelyardError
from steelyard.core.request import SampledToken
from steelyard.core.sequence import Sequence


@dataclass(frozen=True, slots=True)
class SequenceWork:
    """One sequence's share of a step: compute tokens ``start … start + num_tokens − 1`` of it.

    Attributes:
        sequence: read-only for executors.
        start: position of the first token to compute; everything before it is in the KV cache.
        num_tokens: tokens to compute, at least one.
        block_table: KV blocks that hold positions ``0 … start + num_tokens − 1``, in order.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    block_table: tuple[int, ...]

    @property
    def end(self) -> int:
        """Position after the last token computed: the context length after the step."""
        return self.start + self.num_tokens

    @property
    def reaches_end(self) -> bool:
        """Whether the last known token is computed; true until the next one is appended."""
        return self.end == self.sequence.num_tokens

    @property
    def samples(self) -> bool:
        """Whether the next token can and shall be sampled; true until it is appended."""
        return self.reaches_end and self.sequence.pooling is None


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work. Items other than sequences (fine-tuning windows) will become a second field, not a subclass."""

    step: int
    works: tuple[SequenceWork, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens computed in this step."""
        return sum(work.num_tokens for work in self.works)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What an executor returns for a :class:`Batch`.

    Attributes:
        sampled: sequence id → the tokens that follow its last one, for every work item that ``samples``. One today;
            several once tokens are speculated.
        prompt_logprobs: sequence id → entries for the prompt positions ``start + 1 … end`` that this step predicted,
            for requests that asked for them.
        failed: sequence id → what keeps it from going on, while the others of the step do.
        pooled: sequence id → what the work adds to its vector, for every work item of a sequence that is pooled: the
            sum of its tokens' hidden states, rounded such that sums of these sums are exact, or the last token's alone
            and nothing before that (see :mod:`steelyard.engine.pooling`).
    """

    sampled: Mapping[int, tuple[SampledToken, ...]]
    prompt_logprobs: Mapping[int, tuple[SampledToken, ...]] = field(default_factory=dict)
    failed: Mapping[int, SteelyardError] = field(default_factory=dict)
    pooled: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
