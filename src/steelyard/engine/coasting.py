"""Decode steps that are known beforehand, taken without being asked for one by one.

While every running sequence decodes and nobody can be admitted, each step repeats the one before, one token further. A
modelled machine knows how long such steps take, so the engine may *coast*: the machine goes on by itself until a
decision could differ (a sequence ends, blocks run out, something is posted to the engine), and the engine commits the
steps that are over, each with the time it ended at. Decisions, tokens, times and the KV cache are those of single
steps, to the bit; what is saved is the policy, the event loop and waking those who read along.

It needs a policy that repeats itself (:data:`~steelyard.policies.schedule.STEADY_POLICIES`), and sequences that nothing
but their length ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from steelyard.core.batch import Batch, StepOutput
from steelyard.core.sequence import Sequence as LiveSequence
from steelyard.core.units import ceil_div

MIN_STEPS = 2


class Coaster(Protocol):
    """A machine that takes decode steps by itself; at most one run of them at a time."""

    def set_off(self, contexts: Sequence[int], num_steps: int) -> None:
        """Begin a run now.

        Args:
            contexts: per sequence, the length of its context in the first step; one more in each further one.
            num_steps: of the run, unless :meth:`stop` shortens it.
        """
        ...

    async def arrive(self) -> None:
        """Return when the last step of the run is over."""
        ...

    def stop(self) -> None:
        """Let the step under way be the last; without a run, do nothing."""
        ...

    @property
    def is_going(self) -> bool:
        """Whether a step of the run is under way, after :meth:`passed` has told of those before."""
        ...

    def passed(self) -> Iterable[tuple[float, float]]:
        """Return start and end, event-loop seconds, of the steps that are over and were not returned before."""
        ...

    def tokens(self, batch: Batch) -> StepOutput:
        """Return what a step samples."""
        ...


def steady_steps(
    sequences: Iterable[LiveSequence],
    num_left: Callable[[LiveSequence], int | None],
    num_held_blocks: Callable[[int], int],
    *,
    num_free_blocks: int,
    block_size: int,
) -> int:
    """Return how many decode steps in a row leave nothing to decide, the one that ends a sequence included.

    Args:
        sequences: all that run.
        num_left: tokens that a sequence will still be given; ``None`` if that is not known.
        num_held_blocks: KV blocks of a sequence, by its id.
        num_free_blocks: that they may take.
        block_size: tokens per block.
    """
    fewest: int | None = None
    room: list[int] = []  # tokens that fit into the blocks a sequence holds
    for sequence in sequences:
        left = num_left(sequence)
        if left is None or sequence.num_new_tokens != 1:
            return 0
        fewest = left if fewest is None else min(fewest, left)
        room.append(num_held_blocks(sequence.id) * block_size - sequence.num_computed_tokens)
    if not fewest:
        return 0

    def num_missing(num_steps: int) -> int:
        return sum(ceil_div(num_steps - fitting, block_size) for fitting in room if num_steps > fitting)

    low, high = 0, fewest
    while low < high:  # the most steps whose blocks are there
        middle = (low + high + 1) // 2
        if num_missing(middle) <= num_free_blocks:
            low = middle
        else:
            high = middle - 1
    return low
