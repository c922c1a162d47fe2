"""Prompt tokens for requests of which only the sizes are known: made when a request arrives, cheaply.

A token here stands for nothing. What matters is which prompts begin alike: those whose trace says so, block by block,
and no others.
"""

from __future__ import annotations

from steelyard.sim.traces.types import HASH_BLOCK_TOKENS, TraceRequest

VOCABULARY = 1 << 15
_FILLER = (0,) * HASH_BLOCK_TOKENS
_BITS = 15


def prompt_tokens(number: int, request: TraceRequest) -> tuple[int, ...]:
    """Return the prompt of a trace's request, ``request.num_prompt_tokens`` ids below :data:`VOCABULARY`.

    Args:
        number: the request's place in its trace; prompts without ``hash_ids`` differ by it.
        request: for which request.
    """
    size = request.num_prompt_tokens
    if not request.hash_ids:
        return (*_digits(2 * number + 1), *(0,) * size)[:size]
    blocks: list[int] = []
    for hash_id in request.hash_ids:
        blocks += (*_digits(2 * hash_id), *_FILLER)[:HASH_BLOCK_TOKENS]
    return tuple(blocks[:size])


def _digits(number: int) -> tuple[int, int, int]:
    """Return three tokens that tell numbers below 2^45 apart."""
    mask = VOCABULARY - 1
    return (number & mask, (number >> _BITS) & mask, number >> (2 * _BITS))
