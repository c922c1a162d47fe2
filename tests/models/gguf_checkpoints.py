"""Turns a small checkpoint that transformers wrote into a GGUF file, as llama.cpp's converter lays it out.

Tensor names come from the ``gguf`` package's own mapping; the row orders, transpositions and metadata are facts of the
converter, written down here a second time so that a mistake in the loader cannot hide in its mirror image.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file
from torch import Tensor

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight")
PAIRED = ("llama", "smollm3")


def write_gguf(directory: Path, path: Path, config: Any, arch: str) -> None:
    """Write ``directory``'s checkpoint as GGUF architecture ``arch``, float32."""
    writer = gguf.GGUFWriter(path, arch)
    _add_metadata(writer, config, arch)
    arch_id = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(arch_id, config.num_hidden_layers)
    for name, tensor in _merged(load_file(directory / "model.safetensors")).items():
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        writer.add_tensor(found, _converted(name, tensor, config, arch).float().contiguous().numpy())
    if config.to_dict().get("rope_parameters", {}).get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(config).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: gguf.GGUFWriter, config: Any, arch: str) -> None:
    values = config.to_dict()
    heads, hidden = config.num_attention_heads, config.hidden_size
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(hidden)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(values.get("n_inner") or values.get("intermediate_size") or 4 * hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(values.get("num_key_value_heads") or heads)
    writer.add_eos_token_id(config.eos_token_id)
    if values.get("head_dim"):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if arch in ("gpt2", "gptneox"):
        writer.add_layer_norm_eps(values.get("layer_norm_epsilon") or values.get("layer_norm_eps"))
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if arch == "gptneox":
        writer.add_parallel_residual(config.use_parallel_residual)
    _add_rope(writer, values, arch, values.get("head_dim") or hidden // heads)
    _add_experts(writer, values, arch)
    if arch in ("gemma2", "gemma3", "phi3") and values.get("sliding_window"):
        writer.add_sliding_window(config.sliding_window)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _add_rope(writer: gguf.GGUFWriter, values: dict[str, Any], arch: str, head_dim: int) -> None:
    params = values.get("rope_parameters")
    if not params:
        return
    params = params.get("full_attention", params)
    writer.add_rope_freq_base(params["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * params.get("partial_rotary_factor", 1.0)))
    if params["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(params["rope_type"]))
        writer.add_rope_scaling_factor(params["factor"])
    if params["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(params["original_max_position_embeddings"])


def _add_experts(writer: gguf.GGUFWriter, values: dict[str, Any], arch: str) -> None:
    num_experts = values.get("num_local_experts") or values.get("num_experts")
    if num_experts:
        writer.add_expert_count(num_experts)
        writer.add_expert_used_count(values["num_experts_per_tok"])
    if arch in ("qwen2moe", "qwen3moe"):
        writer.add_expert_feed_forward_length(values["moe_intermediate_size"])


def _merged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with each layer's experts stacked into one."""
    merged: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if match := _EXPERT.fullmatch(name):
            merged.setdefault(f"{match[1]}.{match[3]}.weight", {})[int(match[2])] = tensor
        else:
            merged[name] = tensor
    return {
        name: torch.stack([item[i] for i in range(len(item))]) if isinstance(item, dict) else item
        for name, item in merged.items()
    }


def _converted(name: str, tensor: Tensor, config: Any, arch: str) -> Tensor:
    if arch in PAIRED and "q_proj" in name:
        return _paired(tensor, config.num_attention_heads)
    if arch in PAIRED and "k_proj" in name:
        return _paired(tensor, config.num_key_value_heads)
    if arch.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    if arch == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return tensor.T
    if arch == "gptneox" and "query_key_value" in name:
        per_head = tensor.reshape(config.num_attention_heads, 3, -1, *tensor.shape[1:])
        return torch.cat([per_head[:, i].flatten(0, 1) for i in range(3)])
    if name.endswith("shared_expert_gate.weight"):
        return tensor.squeeze()
    return tensor


def _paired(tensor: Tensor, num_heads: int) -> Tensor:
    halves = tensor.reshape(num_heads, 2, tensor.shape[0] // num_heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _llama3_factors(config: Any) -> Tensor:
    params, dim = config.rope_parameters, config.head_dim
    old, low, high = (
        params[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    factors = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * params["rope_theta"] ** (i / dim)
        smooth = min(1.0, max(0.0, (old / wavelength - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / params["factor"] + smooth))
    return torch.tensor(factors)
