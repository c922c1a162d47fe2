"""What an admission policy sees and what it decides.

Admission stands before the engine's queue: it says *now* or *come back in so many seconds*, which a server answers as
429 with Retry-After. A policy is told the time and never waits itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from steelyard.core.units import ceil_div


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request as admission sees it.

    Attributes:
        key: whose limits it falls under: an API key's name.
        num_prompt_tokens: of the prompt.
        max_output_tokens: tokens it may generate, all completions together.
    """

    key: str
    num_prompt_tokens: int
    max_output_tokens: int

    @property
    def num_tokens(self) -> int:
        """Tokens it may take at most."""
        return self.num_prompt_tokens + self.max_output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How busy the engine is.

    Attributes:
        num_running: sequences running.
        num_waiting: sequences waiting.
        num_free_blocks: KV blocks that can be handed out, idle cached ones included.
        num_promised_blocks: KV blocks that running and waiting sequences will still take if all answers become as long
            as they may.
        block_size: tokens per KV block.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_free_blocks: int
    num_promised_blocks: int = 0
    block_size: int

    def num_needed_blocks(self, ask: Ask) -> int:
        """Return the KV blocks of a request at its longest."""
        return ceil_div(ask.num_tokens, self.block_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Not now.

    Attributes:
        limit: the parameter that stands in the way, as the user wrote it.
        wait_s: seconds, above 0, after which asking again is worth while.
    """

    limit: str
    wait_s: float


class AdmitPolicy(Protocol):
    """Decides whether a request may enter. Whoever asks books what was admitted, and tells its end, once each."""

    def check(self, ask: Ask, load: EngineLoad, now_s: float) -> Refusal | None:
        """Return why the request must wait, or ``None`` if it may enter; changes nothing."""

    def book(self, ask: Ask, now_s: float) -> None:
        """Take note that the request entered at ``now_s``, seconds on a clock that only goes forward."""

    def end(self, ask: Ask, num_output_tokens: int, now_s: float) -> None:
        """Take note that a request that entered ended after so many tokens, however it ended."""
