"""Keys and values on their way from one engine to another, so that the other need not compute them (S19 Splitwise).

They travel as whole blocks under the names that the prefix cache knows them by. So there is no second way into an
engine: a request that follows its parcel finds it as a cached prefix, and what did not come (the tokens behind the last
whole block, what was evicted before it was packed, what found no room) is computed. A parcel that is lost costs time.

Left out: layers do not cross while later ones are computed, as Splitwise has it; long prompts may be packed piece by
piece, as far as they are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from steelyard.core.errors import InputError
from steelyard.engine.engine import Engine
from steelyard.memory.kv_store import KVStore
from steelyard.memory.prefix_cache import prompt_digests


@dataclass(frozen=True, slots=True, kw_only=True)
class KVParcel:
    """Keys and values of the whole blocks that begin a sequence.

    Attributes:
        model: whose they are: weights and all else that they depend on.
        block_format: how a block's bytes lie.
        token_ids: that the blocks hold, no more and no fewer.
        cache_salt: of the requests that may share them.
        content: ``[blocks, bytes]`` uint8.
    """

    model: str
    block_format: str
    token_ids: tuple[int, ...]
    cache_salt: str
    content: Tensor


@final
class KVPort:
    """Where parcels leave an engine and reach it, between its steps.

    Args:
        engine: with prefix caching; without, parcels are empty and none is kept.
        store: of the engine's executor.
        model: a name that engines share only if they compute the same keys and values.
    """

    def __init__(self, engine: Engine, store: KVStore, model: str) -> None:
        self._engine, self._store, self._model = engine, store, model

    async def pack(self, token_ids: Sequence[int], cache_salt: str = "") -> KVParcel:
        """Return what is cached of a sequence that begins with ``token_ids``; of no block at all, if nothing is."""
        digests = self._digests(token_ids, cache_salt)
        async with self._engine.between_steps() as books:
            content = self._store.copy_out(books.cached_blocks(digests))
        return KVParcel(
            model=self._model,
            block_format=self._store.block_format,
            token_ids=tuple(token_ids[: len(content) * self._block_size]),
            cache_salt=cache_salt,
            content=content,
        )

    async def unpack(self, parcel: KVParcel) -> int:
        """Put a parcel's blocks among the cached ones; return how many of its tokens need no computing now.

        Raises:
            InputError: if the parcel is not of this model and format, or has not a block's bytes for a block's tokens.
        """
        self._check(parcel)

        def fill(blocks: list[int], first: int) -> None:
            self._store.copy_in(blocks, parcel.content[first : first + len(blocks)])

        digests = self._digests(parcel.token_ids, parcel.cache_salt)
        async with self._engine.between_steps() as books:
            return books.adopt(digests, fill) * self._block_size

    @property
    def _block_size(self) -> int:
        return self._store.shape.block_size

    def _digests(self, token_ids: Sequence[int], cache_salt: str) -> tuple[bytes, ...]:
        return prompt_digests(token_ids, cache_salt, self._block_size, len(token_ids))

    def _check(self, parcel: KVParcel) -> None:
        for name, own in (("model", self._model), ("block_format", self._store.block_format)):
            if getattr(parcel, name) != own:
                problem = f"the parcel's is {getattr(parcel, name)!r}, this engine's {own!r}"
                raise InputError(problem, field=name, remedy="Hand over between engines of the same model and settings")
        expected = (len(parcel.token_ids) // self._block_size, self._store.copy_out(()).shape[1])
        if tuple(parcel.content.shape) != expected or len(parcel.token_ids) % self._block_size:
            problem = f"{list(parcel.content.shape)} bytes for {len(parcel.token_ids)} tokens"
            raise InputError(problem, field="content", remedy="Unpack what an engine packed, whole")
