"""The compiled extension: whether it is there, whether it may be used, and what it offers.

Steelyard runs without it, on PyTorch alone. Kernel wrappers ask :func:`native_kernels` once per call and fall back; all
checks of dtype, layout and device are theirs, because the extension takes bare addresses.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from steelyard.core.environment import native_allowed

MODULE = "steelyard.kernels._native"

_log = logging.getLogger("steelyard")


class NativeThreadPool(Protocol):
    """Threads that kernels run on, the calling one among them."""

    @property
    def num_workers(self) -> int:
        """Threads, the calling one included."""


class NativeKVLayout(Protocol):
    """How keys and values lie in a block of the paged cache (``csrc/attention/kv_layout.hpp``); bytes."""

    @property
    def block_bytes(self) -> int:
        """Of a block in one layer."""

    @property
    def head_bytes(self) -> int:
        """Of one kv head in a block."""

    @property
    def values_bytes(self) -> int:
        """From a head's start to its values."""

    @property
    def scales_bytes(self) -> int:
        """From a head's start to its scales."""


class NativeAttentionPlan(Protocol):
    """Who attends to what in one step (``csrc/attention/attention_plan.hpp``)."""

    @property
    def num_tokens(self) -> int:
        """Packed tokens of the step."""

    @property
    def address(self) -> int:
        """Of the C++ object, for kernels that take a whole step."""

    @property
    def slots(self) -> int:
        """Address of ``[tokens]`` int64, good until the next build."""

    @property
    def positions(self) -> int:
        """Address of ``[tokens]`` int64, good until the next build."""

    def build(
        self,
        layout: NativeKVLayout,
        num_heads: int,
        query_starts: int,
        context_lens: int,
        table_starts: int,
        blocks: int,
        num_sequences: int,
        num_blocks: int,
        num_workers: int,
    ) -> None:
        """Plan a step; the arrays are int32 and may go afterwards.

        Raises:
            ValueError: if they contradict each other or name a block past ``num_blocks``.
        """


NativeRows = tuple[int, int]
"""A program's buffer and the elements of its rows."""
NativeMatrix = tuple[int, str, int, int]
"""Address, format, rows and inputs of a packed matrix."""


class NativeProgram(Protocol):
    """A model step as a list of operations; see ``csrc/program/operations.hpp``. An address of 0 is none."""

    def add_float_rows(self, width: int) -> int:
        """Return the number of a new buffer of float32 rows."""

    def add_quantised_rows(self, num_inputs: int) -> int:
        """Return the number of a new buffer of quantised rows."""

    def embed(self, table: NativeMatrix, x: NativeRows, scale: float) -> None:
        """Append ``x = scale · table[token]``."""

    def gather_rotation(self, table: int, rotation: tuple[NativeRows, NativeRows]) -> None:
        """Append the gathering of cos and sin of the step's positions from one of its tables."""

    def norm_quantise(self, x: NativeRows, q: NativeRows, weight: int, eps: float) -> None:
        """Append ``q = quantised(norm(x) · weight)``."""

    def quantise(self, x: NativeRows, q: NativeRows) -> None:
        """Append ``q = quantised(x)``."""

    def project(
        self, kind: str, weight: NativeMatrix, q: NativeRows, out: NativeRows, bias: int, epilogue: str
    ) -> None:
        """Append a product of quantised rows with a packed matrix."""

    def rope_write_kv(
        self,
        layer: int,
        qkv: NativeRows,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        rotation: tuple[NativeRows, NativeRows] | None,
        q_norm: int,
        k_norm: int,
        eps: float,
    ) -> None:
        """Append the norm and rotation (cos, sin) of queries and keys, and the write into the cache."""

    def attend(self, layer: int, qkv: NativeRows, out: NativeRows, scale: float, window: int, softcap: float) -> None:
        """Append a layer's attention."""

    def norm_add(self, y: NativeRows, x: NativeRows, weight: int, eps: float) -> None:
        """Append ``x += norm(y) · weight``."""

    def final_norm(self, x: NativeRows, weight: int, eps: float) -> None:
        """Append result = ``norm(x) · weight``."""

    def run(
        self,
        pool: NativeThreadPool,
        num_tokens: int,
        token_ids: int,
        plan: NativeAttentionPlan,
        layout: NativeKVLayout,
        caches: Sequence[int],
        tables: Sequence[tuple[int, int]],
        out: int,
    ) -> None:
        """Run the list; tables are addresses of cos and sin by position."""

    def take_profile(self) -> list[tuple[str, float]]:
        """Return seconds per kind of operation since the last call."""


class NativeKernels(Protocol):
    """The extension's functions. Tensors are addresses of dense arrays that the caller keeps alive."""

    def make_thread_pool(self, num_workers: int, pin: bool = False) -> NativeThreadPool:
        """Return a pool that starts ``num_workers − 1`` threads at its first job; ``pin`` keeps each on one core."""

    def count_stragglers(self, pool: NativeThreadPool, rounds: int) -> int:
        """Run one job of ``rounds`` barriers; return how often a worker that passed one saw another still before it."""

    def count_visits(self, pool: NativeThreadPool, dynamic: bool, cut: int, counts: int, size: int) -> None:
        """Add 1 to each of ``size`` int32 at ``counts``, by one of the two schedules; ``cut`` is 1 or more."""

    def sum_f64(self, pool: NativeThreadPool, x: int, size: int) -> float:
        """Return the sum of ``size`` float64 at ``x``; its bits do not depend on the pool."""

    def running_sum_f64(self, pool: NativeThreadPool, x: int, out: int, size: int) -> None:
        """Write the sum of the first i + 1 float64 at ``x`` to ``out[i]``; bits as in :meth:`sum_f64`."""

    def stream_f64(
        self, pool: NativeThreadPool, size: int, rounds: int, huge_pages: bool = False
    ) -> tuple[list[list[float]], float]:
        """Run STREAM on arrays of its own; see :func:`steelyard.kernels.stream.run_stream`."""

    def make_program(self) -> NativeProgram:
        """Return an empty program."""

    def isas(self) -> list[str]:
        """Return the instruction sets of this CPU that kernels exist for, the widest, which is used, last."""

    def argmax_f32(self, pool: NativeThreadPool, x: int, largest: int, position: int, rows: int, columns: int) -> None:
        """Write each row's largest float32 and its int64 position; ``x`` is ``[rows, columns]``, ``columns`` not 0."""

    def argmax_f32_on(
        self, isa: str, pool: NativeThreadPool, x: int, largest: int, position: int, rows: int, columns: int
    ) -> None:
        """As :meth:`argmax_f32` on one of :meth:`isas`; the results are the same.

        Raises:
            ValueError: if this CPU lacks the instruction set.
        """

    def pack_gguf(
        self,
        pool: NativeThreadPool,
        format: str,
        source: int,
        row_bytes: int,
        num_rows: int,
        destinations: int,
        packed: int,
        num_inputs: int,
    ) -> None:
        """Pack ``num_rows`` rows of GGUF blocks, ``row_bytes`` apart, into panels at ``packed``; see ``pack.hpp``."""

    def quantise_rows(
        self,
        pool: NativeThreadPool,
        x: int,
        x_stride: int,
        num_rows: int,
        num_inputs: int,
        blocks: int,
        isa: str | None = None,
    ) -> None:
        """Quantise float32 rows, ``x_stride`` floats apart, to activation blocks of 44 bytes; see ``qgemm.hpp``."""

    def rms_norm_quantise_rows(
        self,
        pool: NativeThreadPool,
        x: int,
        x_stride: int,
        weight: int,
        eps: float,
        num_rows: int,
        num_inputs: int,
        blocks: int,
        isa: str | None = None,
    ) -> None:
        """Norm rows as :meth:`rms_norm_f32` does, bit for bit, and quantise them."""

    def qgemm(
        self,
        pool: NativeThreadPool,
        format: str,
        packed: int,
        num_rows: int,
        num_inputs: int,
        blocks: int,
        num_tokens: int,
        out: int,
        out_stride: int,
        bias: int,
        epilogue: str,
        isa: str | None = None,
    ) -> None:
        """Multiply quantised rows by a packed matrix; a ``bias`` of 0 is none; see ``qgemm.hpp``."""

    def qgemm_fine(
        self,
        pool: NativeThreadPool,
        format: str,
        packed: int,
        num_rows: int,
        num_inputs: int,
        x: int,
        x_stride: int,
        num_tokens: int,
        rest: int,
        blocks: int,
        sums: int,
        out: int,
    ) -> None:
        """Multiply rows taken in two steps; room for ``rest`` as ``x``, ``blocks`` and ``sums`` of twice the rows."""

    def feature_group_norms(
        self, pool: NativeThreadPool, format: str, packed: int, num_rows: int, num_inputs: int, out: int
    ) -> None:
        """Write the largest norm of a packed matrix's rows, of 32 after another, as float32."""

    def qgemm_likeliest(
        self,
        pool: NativeThreadPool,
        format: str,
        packed: int,
        num_rows: int,
        num_inputs: int,
        x: int,
        x_stride: int,
        num_tokens: int,
        rest: int,
        blocks: int,
        norms: int,
        maxima: int,
        largest: int,
        position: int,
        isa: str | None = None,
    ) -> None:
        """Find each row's largest element of what ``qgemm_fine`` gives; see ``likeliest.hpp``."""

    def dequantise_rows(
        self,
        pool: NativeThreadPool,
        format: str,
        packed: int,
        num_rows: int,
        num_inputs: int,
        rows: int,
        count: int,
        out: int,
    ) -> None:
        """Write the rows of a packed matrix that int64 ``rows`` names, as dense float32."""

    def rms_norm_f32(self, x: int, weight: int, out: int, rows: int, hidden: int, eps: float) -> None:
        """Norm ``[rows, hidden]`` at ``x`` into ``out``; ``weight`` is ``[hidden]``. All float32."""

    def rms_norm_f32_on(self, isa: str, x: int, weight: int, out: int, rows: int, hidden: int, eps: float) -> None:
        """As :meth:`rms_norm_f32` on one of :meth:`isas`; the bits are the same.

        Raises:
            ValueError: if this CPU lacks the instruction set.
        """

    def make_kv_layout(
        self, type: str, num_kv_heads: int, head_dim: int, block_size: int, num_layers: int
    ) -> NativeKVLayout:
        """Return the layout of a cache of ``type`` float32, float16, bfloat16 or int8."""

    def AttentionPlan(self) -> NativeAttentionPlan:  # noqa: N802
        """Return a plan to be built."""

    def rope_write_kv(
        self,
        pool: NativeThreadPool,
        plan: NativeAttentionPlan,
        layout: NativeKVLayout,
        cache: int,
        q: int,
        q_stride: int,
        k: int,
        k_stride: int,
        v: int,
        v_stride: int,
        cos: int,
        sin: int,
        rotary_dim: int,
        q_norm: int,
        k_norm: int,
        eps: float,
        isa: str | None = None,
    ) -> None:
        """Norm and rotate ``q`` and ``k``, and put ``k`` and ``v`` into one layer's cache; 0 for what is left out."""

    def paged_attention(
        self,
        pool: NativeThreadPool,
        plan: NativeAttentionPlan,
        layout: NativeKVLayout,
        cache: int,
        q: int,
        q_stride: int,
        out: int,
        out_stride: int,
        scale: float,
        window: int,
        softcap: float,
        isa: str | None = None,
    ) -> None:
        """Attend ``q`` to one layer's cache; strides count floats, 0 is no window and no cap."""

    def write_and_attend(
        self,
        pool: NativeThreadPool,
        plan: NativeAttentionPlan,
        layout: NativeKVLayout,
        cache: int,
        q: int,
        q_stride: int,
        k: int,
        k_stride: int,
        v: int,
        v_stride: int,
        out: int,
        out_stride: int,
        scale: float,
        window: int,
        softcap: float,
        isa: str | None = None,
    ) -> None:
        """Put ``k`` and ``v`` into one layer's cache as they are, then attend, as one job of the pool."""

    def probe_stream(
        self, pool: NativeThreadPool, isa: str, name: str, a: int, b: int, c: int, sums: int, size: int, rounds: int
    ) -> None:
        """Read ``b`` (its sum goes to ``sums``, one float32 per worker), copy ``b`` to ``a``, or ``a = b + 3 c``."""

    def probe_peak(
        self, pool: NativeThreadPool, isa: str, arithmetic: str, rounds: int, flop: int, result: int
    ) -> None:
        """Multiply and add in registers; ``flop`` is a float64 per worker, ``result`` a float32."""

    def probe_chase(self, next: int, start: int, steps: int) -> int:
        """Follow a chain of int64 indices from ``start`` and return where it ends."""

    def probe_empty_jobs(self, pool: NativeThreadPool, count: int) -> None:
        """Run so many jobs that do nothing."""

    def probe_barriers(self, pool: NativeThreadPool, count: int) -> None:
        """Run one job in which all workers meet so many times."""


def native_installed() -> bool:
    """Return whether the extension was built for this interpreter, without loading it."""
    return find_spec(MODULE) is not None


def native_available() -> bool:
    """Return whether the kernels in use are the compiled ones."""
    return native_kernels() is not None


@lru_cache(maxsize=1)
def native_kernels() -> NativeKernels | None:
    """Return the extension, or ``None`` if it is not installed or ``STEELYARD_NATIVE=0`` forbids it.

    Decided once per process; says so in the log, once, if it is missing.

    Raises:
        ImportError: if it is installed but broken.
        ParamsError: if ``STEELYARD_NATIVE`` is neither 0 nor 1.
    """
    if not native_allowed():
        return None
    if not native_installed():
        _log.warning("running on the PyTorch path; install a C++ compiler and reinstall for the native kernels")
        return None
    return cast(NativeKernels, import_module(MODULE))
