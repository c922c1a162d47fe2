"""Two Triton loops that measure a GPU: a chain of dependent loads, and integer additions with maxima.

Without Triton the module imports and says so (:func:`triton_installed`). The loops also run in Triton's interpreter,
which is how they are tested where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from steelyard.kernels.probe import random_cycle

_SEED = 1
_PROGRAMS, _LANES, _ROUNDS = 4096, 1024, 1024
_CHAINS = 2  # per lane and round: one addition and one maximum each
MAX_ADD_OPS = _PROGRAMS * _LANES * _ROUNDS * _CHAINS * 2
_LINE_ELEMENTS = 16  # 128 bytes of int64, a GPU's cache line


def triton_installed() -> bool:
    """Return whether Triton is there, without loading it."""
    return find_spec("triton") is not None


if triton_installed():
    import triton  # type: ignore[import-not-found, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, unused-ignore]

    @triton.jit  # type: ignore[untyped-decorator, unused-ignore]
    def _chase(chain, out, steps):  # type: ignore[no-untyped-def]
        here = tl.load(out)
        for _ in range(steps):
            here = tl.load(chain + here, cache_modifier=".cg")  # past the first-level cache
        tl.store(out, here)

    @triton.jit  # type: ignore[untyped-decorator, unused-ignore]
    def _max_add(out, rounds, lanes: tl.constexpr):  # type: ignore[no-untyped-def]
        lane = tl.program_id(0) * lanes + tl.arange(0, lanes)
        a = lane
        b = lane + 1
        for step in range(rounds):
            a = tl.maximum(a + step, b)
            b = tl.maximum(b - step, a)
        tl.store(out + lane, a + b)


def chase_gpu(num_bytes: int, steps: int, device: torch.device) -> Callable[[], Tensor]:
    """Return a function that follows a random cycle through ``num_bytes`` for ``steps`` loads, going on each time.

    It returns an int64 ``[1]`` tensor on ``device``: where it is.
    """
    chain = torch.zeros(num_bytes // 8, dtype=torch.int64)
    random_cycle(chain, _LINE_ELEMENTS, _SEED)
    chain, here = chain.to(device), torch.zeros(1, dtype=torch.int64, device=device)

    def walk() -> Tensor:
        _chase[(1,)](chain, here, steps)
        return here

    return walk


def max_add_gpu(
    device: torch.device, programs: int = _PROGRAMS, lanes: int = _LANES, rounds: int = _ROUNDS
) -> Callable[[], Tensor]:
    """Return a function that does :data:`MAX_ADD_OPS` integer operations (with the sizes left as they are).

    It returns int32 ``[programs · lanes]``.
    """
    out = torch.zeros(programs * lanes, dtype=torch.int32, device=device)

    def work() -> Tensor:
        _max_add[(programs,)](out, rounds, lanes=lanes)
        return out

    return work
