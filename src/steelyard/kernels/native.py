"""The compiled extension: whether it is there, whether it may be used, and what it offers.

Steelyard runs without it, on PyTorch alone. Kernel wrappers ask :func:`native_kernels` once per call and fall back; all
checks of dtype, layout and device are theirs, because the extension takes bare addresses.
"""

from __future__ import annotations

import logging
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


class NativeKernels(Protocol):
    """The extension's functions. Tensors are addresses of dense arrays that the caller keeps alive."""

    def make_thread_pool(self, num_workers: int, pin: bool = False) -> NativeThreadPool:
        """Return a pool that starts ``num_workers − 1`` threads at its first job; ``pin`` keeps each on one core."""

    def run_barriers(self, pool: NativeThreadPool, count: int) -> None:
        """Run one job in which all workers meet ``count`` times and do nothing else."""

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

    def read_bytes(self, pool: NativeThreadPool, data: int, num_bytes: int, times: int) -> None:
        """Read memory so many times, each thread its part, as a roofline for benchmarks."""

    def dot_products(self, pool: NativeThreadPool, rounds: int) -> int:
        """Do 8-bit dot products on registers; return how many multiplications and additions they were."""

    def rms_norm_f32(self, x: int, weight: int, out: int, rows: int, hidden: int, eps: float) -> None:
        """Norm ``[rows, hidden]`` at ``x`` into ``out``; ``weight`` is ``[hidden]``. All float32."""

    def rms_norm_f32_on(self, isa: str, x: int, weight: int, out: int, rows: int, hidden: int, eps: float) -> None:
        """As :meth:`rms_norm_f32` on one of :meth:`isas`; the bits are the same.

        Raises:
            ValueError: if this CPU lacks the instruction set.
        """


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
