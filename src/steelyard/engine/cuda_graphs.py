"""Steps of decodes recorded once per size and replayed: a step is a handful of copies and one launch.

Python issues hundreds of kernels for a step, which takes longer than a GPU needs to run them when few sequences decode.
A step in which every sequence computes one token always issues the same kernels for the same number of sequences, so it
is recorded for batch sizes 1, 2, 4, … and replayed over *static buffers* that hold the step's tokens, positions, slots
and block tables; a batch is padded to the next size by rows that write no KV and attend nothing. The split attention
also launches a number of programs that depends on the longest context; it is recorded for 1, 4, 16, … segments.

Steps are recorded when they first occur, or by :meth:`DecodeGraphs.warm_up`. Whoever cannot record (no CUDA) runs the
same padded step as it is: that is what tests compare. Attention of a row does not depend on the padding; whether its
linear layers do, is a matter of their kernels.

Not here: graphs of prefills, of logits and sampling, of more than one token a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steelyard.core.batch import SequenceWork
from steelyard.core.units import ceil_div
from steelyard.kernels.triton.kv_write import NO_SLOT
from steelyard.kernels.triton.paged_attention import SEGMENT, TILE_FIELDS, num_segments
from steelyard.memory.triton_kv import TileSet, TritonKVStore, TritonPlan, TritonStepKV
from steelyard.models.contract import LanguageModel

Step = Callable[[], Tensor]
Recorder = Callable[[Step], Step]
"""Takes a step over static buffers and returns what does it again."""

_SEGMENT_GROWTH = 4


class DecodeGraphs:
    """Computes steps of decodes; a :class:`~steelyard.engine.model_runner.DecodeSteps`.

    Args:
        model: packed-token language model on ``store.device``.
        store: where keys and values live.
        max_batch: most sequences; larger steps are not taken.
        max_model_len: tokens of the longest sequence.
        recorder: how a step is recorded; ``None`` for CUDA graphs on CUDA and not at all elsewhere.
    """

    def __init__(
        self,
        model: LanguageModel,
        store: TritonKVStore,
        *,
        max_batch: int,
        max_model_len: int,
        recorder: Recorder | None = None,
    ) -> None:
        self._model, self._store = model, store
        self._batches = sizes_up_to(max_batch, 2)
        self._segments = sizes_up_to(num_segments(max_model_len), _SEGMENT_GROWTH)
        self._buffers = _Buffers(max_batch, self._num_blocks(self._segments[-1]), store.device)
        default = CudaRecorder() if store.device.type == "cuda" else _unrecorded
        self._record: Recorder = recorder if recorder is not None else default
        self._steps: dict[tuple[int, int], Step] = {}

    @property
    def num_recorded(self) -> int:
        """Steps recorded so far."""
        return len(self._steps)

    def takes(self, works: Sequence[SequenceWork]) -> bool:
        """Return whether every sequence computes one token and there are not too many."""
        return 0 < len(works) <= self._batches[-1] and all(work.num_tokens == 1 for work in works)

    @torch.inference_mode()
    def hidden(self, works: Sequence[SequenceWork]) -> Tensor:
        """Return ``[sequences, hidden_size]``, valid until the next call."""
        context = num_segments(max(work.end for work in works))
        batch = next(size for size in self._batches if size >= len(works))
        segments = next(size for size in self._segments if size >= context)
        self._buffers.fill(works, batch, self._num_blocks(segments), self._store.shape.block_size)
        return self._step(batch, segments)()[: len(works)]

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Record the steps of all sizes, the largest first, so that the others find its memory."""
        for segments in reversed(self._segments):
            for batch in reversed(self._batches):
                self._buffers.fill((), batch, self._num_blocks(segments), self._store.shape.block_size)
                self._step(batch, segments)

    def _num_blocks(self, segments: int) -> int:
        return ceil_div(segments * SEGMENT, self._store.shape.block_size)

    def _step(self, batch: int, segments: int) -> Step:
        key = (batch, segments)
        if key not in self._steps:
            self._steps[key] = self._record(self._over_buffers(batch, segments))
        return self._steps[key]

    def _over_buffers(self, batch: int, segments: int) -> Step:
        buffers = self._buffers
        tiles = TileSet(buffers.tiles[:batch], segments, buffers.tiles[:0])
        plan = TritonPlan(buffers.slots[:batch], buffers.tables(batch, self._num_blocks(segments)), lambda _: tiles)
        tokens, positions = buffers.tokens[:batch], buffers.positions[:batch]
        return lambda: self._model(tokens, positions, TritonStepKV(self._store, plan))


class CudaRecorder:
    """Records steps as CUDA graphs that share one pool of memory: only one of their results is alive at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> Step:
        """Record ``step``, after one run that lets kernels compile and libraries choose."""
        step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = step()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


def sizes_up_to(largest: int, growth: int) -> tuple[int, ...]:
    """Return 1, ``growth``, ``growth``², … below ``largest``, and ``largest``."""
    sizes, size = [], 1
    while size < largest:
        sizes.append(size)
        size *= growth
    return (*sizes, largest)


def _unrecorded(step: Step) -> Step:
    return step


class _Buffers:
    """A step's inputs at fixed addresses on the device, and their images in host memory that are copied to them.

    Attributes:
        tokens, positions, slots: int64 ``[max_batch]``.
        tiles: int32 ``[max_batch, 4]``.
    """

    def __init__(self, max_batch: int, max_blocks: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._rows = torch.zeros(3, max_batch, dtype=torch.int64, pin_memory=pinned)
        self._numbers = torch.zeros(max_batch * (TILE_FIELDS + max_blocks), dtype=torch.int32, pin_memory=pinned)
        self._device_rows, self._device_numbers = self._rows.to(device, copy=True), self._numbers.to(device, copy=True)
        self.tokens, self.positions, self.slots = self._device_rows.unbind(0)
        self._num_tile_numbers = max_batch * TILE_FIELDS
        self.tiles = self._device_numbers[: self._num_tile_numbers].view(max_batch, TILE_FIELDS)
        self._known: dict[int, _Table] = {}

    def tables(self, batch: int, num_blocks: int) -> Tensor:
        """Return the block tables of a step, int32 ``[batch, num_blocks]``: steps of all sizes begin at one place."""
        return self._tables(self._device_numbers, batch, num_blocks)

    def fill(self, works: Sequence[SequenceWork], batch: int, num_blocks: int, block_size: int) -> None:
        """Set the inputs of ``works``, one row each, and of padding up to ``batch`` rows."""
        count = len(works)
        rows = [_row(work, block_size) for work in works] + [(0, 0, NO_SLOT)] * (batch - count)
        self._rows[:, :batch] = torch.tensor(rows).T
        tiles = self._numbers[: self._num_tile_numbers].view(-1, TILE_FIELDS)
        wanted = [(row, 1, work.start, row) for row, work in enumerate(works)] + [(0, 0, 0, 0)] * (batch - count)
        tiles[:batch] = torch.tensor(wanted, dtype=torch.int32)
        self._fill_tables(works, self._tables(self._numbers, batch, num_blocks).numpy())
        used = self._num_tile_numbers + batch * num_blocks
        self._device_rows.copy_(self._rows, non_blocking=True)
        self._device_numbers[:used].copy_(self._numbers[:used], non_blocking=True)

    def _tables(self, numbers: Tensor, batch: int, num_blocks: int) -> Tensor:
        start = self._num_tile_numbers
        return numbers[start : start + batch * num_blocks].view(batch, num_blocks)

    def _fill_tables(self, works: Sequence[SequenceWork], out: np.ndarray) -> None:
        """Write block tables; as arrays they are made again only when they changed."""
        known = [self._table(work) for work in works]
        self._known = {work.sequence.id: table for work, table in zip(works, known, strict=True)}
        for row, table in enumerate(known):
            needed = table.numbers[: out.shape[1]]
            out[row, : len(needed)] = needed

    def _table(self, work: SequenceWork) -> _Table:
        known = self._known.get(work.sequence.id)
        if known is not None and known.blocks is work.block_table:
            return known
        return _Table(work.block_table, np.array(work.block_table, dtype=np.int32))


@dataclass(frozen=True, slots=True)
class _Table:
    blocks: tuple[int, ...]
    numbers: np.ndarray


def _row(work: SequenceWork, block_size: int) -> tuple[int, int, int]:
    """Return token, position and slot."""
    slot = work.block_table[work.start // block_size] * block_size + work.start % block_size
    return work.sequence.tokens[work.start], work.start, slot
