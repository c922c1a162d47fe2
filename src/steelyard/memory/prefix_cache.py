"""Which block holds which tokens: content digests of KV blocks, for sharing equal prefixes.

A block's KV depends on its own tokens and on everything before them, so its name is a chain: the BLAKE2b-128 digest of
the parent block's digest and the block's token ids in fixed width. The first parent is the digest of the request's
cache salt; sequences of different salts (tenants) therefore never share a block, nor learn by timing what others hold.

Comparing digests stands for comparing tokens. All inputs of one digest have the same length and layout, so two
different contents never feed the hash equal bytes. By accident two of 2**40 blocks collide with a probability of about
2**-49. On purpose, who can choose the content of both blocks needs about 2**64 hash evaluations to confuse two prompts
of his own salt; to hit a given prompt of somebody else takes 2**128.

Left out: images and adapters (they will enter through the root, like the salt), and partly filled blocks.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from hashlib import blake2b
from itertools import islice
from struct import Struct

from steelyard.core.sequence import Sequence

DIGEST_BYTES = 16


class DigestChains:
    """The block digests of each sequence, computed once however often they are asked for.

    A sequence only ever grows, so its full blocks keep their digests through waiting, running and preemption, until
    :meth:`forget`.

    Args:
        block_size: tokens per block.
    """

    __slots__ = ("_block_size", "_chains", "_tokens")

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._tokens = Struct(f"<{block_size}I")
        self._chains: dict[int, list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._chains)

    def of(self, sequence: Sequence, num_blocks: int) -> Seq[bytes]:
        """Return the digests of at least the first ``num_blocks`` blocks of ``sequence``, in order; read-only.

        The sequence must know all tokens of these blocks.
        """
        chain = self._chains.setdefault(sequence.id, [])
        if len(chain) < num_blocks:
            self._extend(chain, sequence, num_blocks)
        return chain

    def forget(self, sequence_id: int) -> None:
        """Drop a finished sequence's digests, if there are any."""
        self._chains.pop(sequence_id, None)

    def _extend(self, chain: list[bytes], sequence: Sequence, num_blocks: int) -> None:
        size = self._block_size
        assert num_blocks * size <= sequence.num_tokens, f"sequence {sequence.id} does not know {num_blocks} blocks yet"
        digest = chain[-1] if chain else _root_digest(sequence.cache_salt)
        for index in range(len(chain), num_blocks):
            digest = _chained(digest, self._tokens.pack(*sequence.tokens[index * size : (index + 1) * size]))
            chain.append(digest)


def prompt_digests(tokens: Seq[int], salt: str, block_size: int, max_blocks: int) -> tuple[bytes, ...]:
    """Return the digests that a prompt's leading full blocks have under ``salt``, at most ``max_blocks`` of them."""
    digest, layout, digests = _root_digest(salt), Struct(f"<{block_size}I"), []
    for index in range(min(max_blocks, len(tokens) // block_size)):
        digest = _chained(digest, layout.pack(*tokens[index * block_size : (index + 1) * block_size]))
        digests.append(digest)
    return tuple(digests)


def _chained(parent: bytes, content: bytes) -> bytes:
    return blake2b(parent + content, digest_size=DIGEST_BYTES).digest()


class PrefixCache:
    """A bijection between digests and the blocks that hold their content.

    A digest names at most one block. When two sequences compute equal content side by side, the first block keeps the
    name and the second stays nameless until it is freed: moving sequences over would rewrite block tables in flight.
    """

    __slots__ = ("_block_of", "_digest_of")

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._block_of)

    def __contains__(self, block: int) -> bool:
        return block in self._digest_of

    def match(self, digests: Seq[bytes], limit: int) -> list[int]:
        """Return the blocks of the longest cached run of ``digests`` from the first on, at most ``limit`` of them."""
        blocks: list[int] = []
        for digest in islice(digests, limit):
            block = self._block_of.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def publish(self, digest: bytes, block: int) -> bool:
        """Let ``block`` be found under ``digest``; return False, changing nothing, if another block is already."""
        if self._block_of.setdefault(digest, block) != block:
            return False
        self._digest_of[block] = digest
        return True

    def evict(self, block: int) -> None:
        """Make a cached block unfindable: it is about to be overwritten."""
        del self._block_of[self._digest_of.pop(block)]

    def clear(self) -> None:
        """Make every block unfindable."""
        self._block_of.clear()
        self._digest_of.clear()

    def check_invariants(self) -> None:
        """Check that the two maps are each other's inverse.

        Raises:
            AssertionError: if they are not.
        """
        inverse = {block: digest for digest, block in self._block_of.items()}
        assert len(inverse) == len(self._block_of), "a block has two digests"
        assert inverse == self._digest_of, "the digest map and its inverse disagree"


def _root_digest(salt: str) -> bytes:
    return blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES, person=b"steelyard salt").digest()
