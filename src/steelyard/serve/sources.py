"""Models from disk: :class:`DiskModels` loads them on a thread and gives their memory back."""

from __future__ import annotations

import asyncio
import gc
from contextlib import closing
from dataclasses import asdict

from steelyard.engine.async_llm import AsyncLLM
from steelyard.engine.build import LLMOptions, choose_quantization, resolve_device, resolve_dtype
from steelyard.hardware.this_machine import release_freed_memory
from steelyard.models.catalogue import default_model
from steelyard.models.quantised import held_bytes
from steelyard.models.resolve import open_weights, resolve_model
from steelyard.serve.config import ModelSpec
from steelyard.serve.llm import ServedLLM


class DiskModels:
    """Loads models as ``options`` say.

    Args:
        options: the same for every model.
    """

    def __init__(self, options: LLMOptions) -> None:
        self._options = options

    async def need_bytes(self, spec: ModelSpec) -> int:
        """Return the weights and, where its size was given, the KV cache."""
        return await asyncio.to_thread(need_bytes, spec, self._options)

    async def load(self, spec: ModelSpec) -> AsyncLLM:
        """Load the model on a thread."""
        return await asyncio.to_thread(AsyncLLM, spec.source, **asdict(self._options))

    async def put_away(self, llm: ServedLLM) -> None:
        """Close the engine; its memory is free once the caller has dropped it too."""
        await llm.close()
        asyncio.get_running_loop().call_soon(_release)


def need_bytes(spec: ModelSpec, options: LLMOptions) -> int:
    """Return what a model takes at least: its weights and, where its size was given, the KV cache."""
    device = resolve_device(options.device)
    resolved = resolve_model(spec.source if spec.source is not None else default_model())
    with closing(open_weights(resolved)) as source:
        quantization = choose_quantization(source, options, device)
        weights = held_bytes(source, quantization, resolve_dtype(options.dtype, device))
    return weights + (options.kv_cache_memory_bytes or 0)


def _release() -> None:
    gc.collect()
    release_freed_memory()
