"""How a step attends on a device: which :class:`~steelyard.models.contract.KVAccess` is made for its works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast

import torch
from torch import Tensor

from steelyard.core.batch import SequenceWork
from steelyard.kernels.triton_available import triton_usable
from steelyard.memory.paged_kv import PagedKVStore, PagedStepKV
from steelyard.memory.step_plan import plan_step
from steelyard.models.contract import KVAccess

StepKVFactory = Callable[[Sequence[SequenceWork], PagedKVStore], KVAccess]
"""Makes the attention of one step from its works, packed in the order given."""


class DecodeSteps(Protocol):
    """Computes steps in which every sequence computes one token, faster than step by step from Python."""

    def takes(self, works: Sequence[SequenceWork]) -> bool:
        """Return whether it can compute this step."""
        ...

    def hidden(self, works: Sequence[SequenceWork]) -> Tensor:
        """Return ``[sequences, hidden_size]``, valid until the next call."""
        ...


def paged_step_kv(works: Sequence[SequenceWork], store: PagedKVStore) -> KVAccess:
    """Return attention by PyTorch."""
    return PagedStepKV(store, plan_step(works, store.shape.block_size, store.padding_block, store.device))


def choose_step_kv(device: torch.device) -> StepKVFactory:
    """Return attention by Triton kernels on CUDA devices where Triton is installed, else by PyTorch."""
    if device.type != "cuda" or not triton_usable(device):
        return paged_step_kv
    return cast(StepKVFactory, import_module("steelyard.memory.triton_kv").triton_step_kv)
