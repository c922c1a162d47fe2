"""Steelyard runs, serves, trains and plans large models on the hardware people really have.

``from steelyard import LLM, AsyncLLM, SamplingParams``. The heavy names are loaded when they are first used, so that
``import steelyard`` costs nothing.
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

from steelyard.core.garbage import paused_collection
from steelyard.core.params import SamplingParams

if TYPE_CHECKING:
    from steelyard.engine.async_llm import AsyncLLM
    from steelyard.engine.llm import LLM

__version__ = "0.1.0"
__all__ = ["LLM", "AsyncLLM", "SamplingParams", "__version__"]

_LAZY = {"LLM": "steelyard.engine.llm", "AsyncLLM": "steelyard.engine.async_llm"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with paused_collection():
        loaded = getattr(import_module(_LAZY[name]), name)
        gc.freeze()  # modules stay; going through them again and again is a fifth of the time to a first token
    return loaded
