"""Which KV blocks are referenced, and in which order the others are handed out.

A block is *referenced* (by one or more block tables), or *free*. Free blocks are of two kinds: *empty* ones hold
nothing worth keeping and are handed out first; *idle* ones still hold a cached prefix and are handed out least recently
used first. The pool counts; what a block holds is the prefix cache's business, and tensors live elsewhere.

The idle list is an ``OrderedDict``: measured at 100,000 blocks it is as fast as a doubly linked list over two Python
lists (0.1–0.3 µs per operation), and shorter. A plain ``dict`` would not do: popping its first key repeatedly is
quadratic.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping


class BlockPool:
    """Reference counts and the free list of ``num_blocks`` blocks, numbered from 0; all of them start empty.

    Misuse (an unknown block, taking more than is free) is a bug of the caller and meets an ``assert``.
    """

    __slots__ = ("_empty", "_idle", "_num_references")

    def __init__(self, num_blocks: int) -> None:
        assert num_blocks > 0, f"a pool of {num_blocks} blocks"
        self._num_references = [0] * num_blocks
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def num_blocks(self) -> int:
        """Blocks in all."""
        return len(self._num_references)

    @property
    def num_free(self) -> int:
        """Blocks that nobody references: empty and idle ones."""
        return len(self._empty) + len(self._idle)

    @property
    def num_idle(self) -> int:
        """Free blocks that hold a cached prefix."""
        return len(self._idle)

    @property
    def num_empty(self) -> int:
        """Free blocks that hold nothing worth keeping."""
        return len(self._empty)

    def num_references(self, block: int) -> int:
        """Return how many block tables hold ``block``."""
        return self._num_references[block]

    def idle_blocks(self) -> tuple[int, ...]:
        """Return the idle blocks, the next to be handed out first."""
        return tuple(self._idle)

    def take(self) -> tuple[int, bool]:
        """Hand out one free block with one reference; also say whether it was idle, its content now lost."""
        assert self.num_free, "took a block from a pool without free ones"
        was_idle = not self._empty
        block = self._idle.popitem(last=False)[0] if was_idle else self._empty.pop()
        self._num_references[block] = 1
        return block, was_idle

    def reference(self, block: int) -> None:
        """Add a reference to a referenced or idle block."""
        if self._num_references[block] == 0:
            assert block in self._idle, f"block {block} is empty: there is nothing to share"
            del self._idle[block]
        self._num_references[block] += 1

    def unreference(self, block: int, *, keep: bool) -> None:
        """Drop a reference; the last one frees the block: most recently used idle if ``keep``, else empty."""
        count = self._num_references[block] - 1
        assert count >= 0, f"block {block} was unreferenced once too often"
        self._num_references[block] = count
        if count > 0:
            return
        if keep:
            self._idle[block] = None
        else:
            self._empty.append(block)

    def drop_idle(self) -> None:
        """Turn all idle blocks into empty ones."""
        self._empty.extend(self._idle)
        self._idle.clear()

    def check_invariants(self, occurrences: Mapping[int, int]) -> None:
        """Check the pool against block → how many block tables hold it.

        Raises:
            AssertionError: if a count is wrong, or a block is not in exactly one of referenced, idle and empty.
        """
        for block, count in enumerate(self._num_references):
            expected = occurrences.get(block, 0)
            assert count == expected, f"block {block} counts {count} references, but {expected} tables hold it"
        assert len(set(self._empty)) == len(self._empty), "a block is twice in the empty list"
        both = self._idle.keys() & set(self._empty)
        assert not both, f"blocks {sorted(both)} are idle and empty at once"
        free = self._idle.keys() | set(self._empty)
        referenced = {block for block, count in enumerate(self._num_references) if count}
        assert not free & referenced, f"blocks {sorted(free & referenced)} are referenced and free at once"
        lost = set(range(self.num_blocks)) - free - referenced
        assert not lost, f"blocks {sorted(lost)} leaked: neither referenced nor free"
        assert len(free | referenced) == self.num_blocks, "the free list holds a block that does not exist"
