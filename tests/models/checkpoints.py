"""Small random checkpoints of every family, written by transformers, and the same model's answers as the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 96
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}


@dataclass(frozen=True)
class Case:
    """A checkpoint: transformers' model type and what differs from :data:`SIZES`."""

    id: str
    model_type: str
    changes: dict[str, Any] = field(default_factory=dict)

    def make(self, seed: int = 0) -> Any:
        """Return a seeded random model whose logits are not flat."""
        sizes = {key: value for key, value in SIZES.items() if self.model_type != "gpt2" or key in GPT2_KEYS}
        config = AutoConfig.for_model(self.model_type, **(sizes | self.changes))
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        for name, value in model.named_parameters():
            scale = 0.3 if value.ndim == 1 else 2.0 / value.shape[-1] ** 0.5 if value.ndim > 1 else 0.0
            offset = 1.0 if value.ndim == 1 and name.endswith("norm.weight") and "gemma" not in self.model_type else 0.0
            value.data.normal_(0.0, scale).add_(offset)
        return model.eval()

    def save(self, path: Path, seed: int = 0) -> Any:
        """Write the checkpoint and return the model."""
        model = self.make(seed)
        model.generation_config.eos_token_id = None
        model.save_pretrained(path)
        return model


GPT2_KEYS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


def hf_logits(model: Any, tokens: list[int]) -> Tensor:
    """Return ``[tokens, vocab]`` logits of one sequence."""
    with torch.inference_mode():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].float()


def random_tokens(length: int, seed: int) -> list[int]:
    """Return a seeded random prompt."""
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
