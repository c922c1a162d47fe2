"""Whether the Triton kernels may be used, asked without importing Triton."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

import torch


@lru_cache(maxsize=1)
def triton_installed() -> bool:
    """Return whether the package ``triton`` is there."""
    spec = find_spec("triton")
    return spec is not None and spec.origin is not None  # a folder of that name on the path is no package


@lru_cache(maxsize=1)
def triton_interpreted() -> bool:
    """Return whether Triton is installed and runs kernels in its interpreter (``TRITON_INTERPRET=1``)."""
    return triton_installed() and bool(import_module("triton.knobs").runtime.interpret)


def triton_serves(device: torch.device) -> bool:
    """Return whether models on ``device`` are served by Triton kernels: on CUDA; the interpreter is for tests."""
    return device.type == "cuda" and triton_usable(device)


def triton_usable(device: torch.device) -> bool:
    """Return whether Triton kernels run on tensors of ``device``: on CUDA compiled, on the CPU only interpreted."""
    if device.type == "cuda":
        return triton_installed() and not triton_interpreted()
    return device.type == "cpu" and triton_interpreted()
