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
        """Start ``num_workers − 1`` threads; with ``pin`` each stays on a core of its own."""

    def isas(self) -> list[str]:
        """Return the instruction sets of this CPU that kernels exist for, the widest, which is used, last."""

    def rms_norm_f32(self, x: int, weight: int, out: int, rows: int, hidden: int, eps: float) -> None:
        """Norm ``[rows, hidden]`` at ``x`` into ``out``; ``weight`` is ``[hidden]``. All float32."""

    def rms_norm_f32_on(self, isa: str, x: int, weight: int, out: int, rows: int, hidden: int, eps: float) -> None:
        """As :meth:`rms_norm_f32` on one of :meth:`isas`; the bits are the same.

        Raises:
            ValueError: if this CPU lacks the instruction set.
        """

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
