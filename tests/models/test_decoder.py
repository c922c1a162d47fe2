"""With prepared linear layers, a token's hidden state has the same bits whoever stands beside it in the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import EXPERTS, Case
from torch import Tensor

from steelyard.kernels.linear import prepare_linears
from steelyard.models.contract import AttentionSpec
from steelyard.models.decoder import Decoder
from steelyard.models.load import load_model
from steelyard.models.resolve import ModelKind, ResolvedModel

# Widths are multiples of 32, as in every real model: elementwise kernels treat the odd end of an array differently.
WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96}
CASES = [
    Case("llama", "llama", WIDE),
    Case("llama-gelu", "llama", WIDE | {"hidden_act": "gelu"}),
    Case("qwen3", "qwen3", WIDE | {"head_dim": 32}),
    Case("gemma3", "gemma3_text", WIDE | {"head_dim": 32}),
    Case("neox", "gpt_neox", WIDE | {"num_key_value_heads": None, "hidden_act": "gelu"}),
    Case("qwen2moe", "qwen2_moe", WIDE | EXPERTS | {"num_experts": 6, "shared_expert_intermediate_size": 32}),
    Case("olmoe", "olmoe", WIDE | {"num_experts": 6, "num_experts_per_tok": 3}),
]


class SelfOnly:
    """Attention in which every token sees only itself."""

    def attend(self, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return v.repeat_interleave(spec.num_heads // spec.num_kv_heads, dim=1)


@torch.inference_mode()
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_bits_do_not_depend_on_neighbours(case: Case, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    case.save(tmp_path)
    resolved = ResolvedModel(name="test", kind=ModelKind.HF_DIR, path=tmp_path)
    module = load_model(resolved, device=torch.device("cpu"), dtype=torch.float32).module
    tile = prepare_linears(module)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 96, (48,), generator=generator)
    positions = torch.randint(0, 100, (48,), generator=generator)
    whole = hidden(module, tokens, positions)
    for count in range(tile, 48, tile):
        assert torch.equal(hidden(module, tokens[:count], positions[:count]), whole[:count])
        assert torch.equal(module.logits(whole[:count]), module.logits(whole)[:count])


def hidden(module: Decoder, tokens: Tensor, positions: Tensor) -> Tensor:
    return module(tokens, positions, SelfOnly())
