"""Every family and variant gives transformers' logits, from the directory that transformers wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import EXPERTS, Case, hf_logits, random_tokens
from torch import Tensor

from steelyard.models.decoder import Decoder
from steelyard.models.dense_kv import DenseKV
from steelyard.models.load import load_model
from steelyard.models.resolve import ModelKind, ResolvedModel

LENGTHS = (19, 1, 33)
NUM_NEW = 20


def rope(kind: str, **parameters: object) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **parameters}}


LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
GPT2_SIZES = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64}
NEOX = {"hidden_size": 64, "num_key_value_heads": None, "hidden_act": "gelu"}
GEMMA = {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 24}
CASES = [
    Case("llama-gqa", "llama"),
    Case("llama-mha", "llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    Case("llama-mqa", "llama", {"num_key_value_heads": 1}),
    Case("llama-biases", "llama", {"attention_bias": True, "mlp_bias": True}),
    Case("llama-head-dim", "llama", {"head_dim": 32}),
    Case("llama-gelu", "llama", {"hidden_act": "gelu"}),
    Case("llama-linear", "llama", rope("linear", factor=4.0)),
    Case("llama-llama3", "llama", LLAMA3),
    Case("llama-yarn", "llama", rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    Case(
        "llama-yarn-mscale",
        "llama",
        rope("yarn", factor=4.0, original_max_position_embeddings=32, mscale=0.7, mscale_all_dim=1.3, truncate=False),
    ),
    Case(
        "llama-yarn-betas",
        "llama",
        rope("yarn", factor=8.0, original_max_position_embeddings=16, beta_fast=16, beta_slow=2, attention_factor=1.2),
    ),
    Case("llama-dynamic-short", "llama", rope("dynamic", factor=4.0)),
    Case("mistral-window", "mistral", {"sliding_window": 8}),
    Case("mistral-no-window", "mistral", {"sliding_window": None, "head_dim": 16}),
    Case("smollm3", "smollm3", {"num_hidden_layers": 4, "no_rope_layer_interval": 2}),
    Case("smollm3-listed", "smollm3", {"no_rope_layers": [0, 1, 1], "tie_word_embeddings": False}),
    Case("smollm3-window", "smollm3", {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 8}),
    Case("qwen2", "qwen2", {"tie_word_embeddings": True}),
    Case("qwen2-window", "qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    Case("qwen3", "qwen3", {"head_dim": 16}),
    Case("qwen3-biases", "qwen3", {"head_dim": 16, "attention_bias": True}),
    Case(
        "qwen3-window",
        "qwen3",
        {"head_dim": 16, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    ),
    Case("gemma2", "gemma2", GEMMA),
    Case("gemma2-no-caps", "gemma2", GEMMA | {"final_logit_softcapping": None, "attn_logit_softcapping": None}),
    Case("gemma3", "gemma3_text", GEMMA | {"num_hidden_layers": 7}),
    Case(
        "gemma3-ropes",
        "gemma3_text",
        GEMMA
        | {
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1_000.0},
            },
            "final_logit_softcapping": 5.0,
            "attn_logit_softcapping": 3.0,
        },
    ),
    Case("phi3", "phi3"),
    Case("phi3-window", "phi3", {"sliding_window": 8, "num_key_value_heads": 4}),
    Case(
        "phi3-partial",
        "phi3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    Case(
        "phi3-longrope",
        "phi3",
        {"original_max_position_embeddings": 64}
        | rope("longrope", short_factor=[1.0, 1.1, 1.2, 1.5, 2.0, 2.5], long_factor=[4.0] * 6),
    ),
    Case("gpt2", "gpt2", GPT2_SIZES),
    Case("gpt2-untied", "gpt2", GPT2_SIZES | {"n_inner": 40, "tie_word_embeddings": False}),
    Case("gpt2-scales", "gpt2", GPT2_SIZES | {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False}),
    Case("neox", "gpt_neox", NEOX),
    Case("neox-half", "gpt_neox", NEOX | {"rope_parameters": {"rope_theta": 5e3, "partial_rotary_factor": 0.5}}),
    Case("neox-sequential", "gpt_neox", NEOX | {"use_parallel_residual": False, "attention_bias": False}),
    Case("mixtral", "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    Case("mixtral-window", "mixtral", {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 8}),
    Case("qwen2moe", "qwen2_moe", EXPERTS | {"num_experts": 6, "shared_expert_intermediate_size": 24}),
    Case(
        "qwen2moe-mixed",
        "qwen2_moe",
        EXPERTS
        | {"num_experts": 6, "shared_expert_intermediate_size": 24, "norm_topk_prob": True, "num_hidden_layers": 4}
        | {"decoder_sparse_step": 2, "mlp_only_layers": [3], "use_sliding_window": True, "sliding_window": 8},
    ),
    Case("qwen2moe-no-bias", "qwen2_moe", EXPERTS | {"num_experts": 4, "qkv_bias": False, "mlp_only_layers": [0]}),
    Case("qwen3moe", "qwen3_moe", EXPERTS | {"num_experts": 6, "head_dim": 16}),
    Case(
        "qwen3moe-renormalised",
        "qwen3_moe",
        EXPERTS | {"num_experts": 6, "head_dim": 16, "norm_topk_prob": True, "decoder_sparse_step": 2},
    ),
    Case("olmoe", "olmoe", {"num_experts": 6, "num_experts_per_tok": 2}),
    Case(
        "olmoe-clipped",
        "olmoe",
        {"num_experts": 6, "num_experts_per_tok": 3, "clip_qkv": 0.5, "norm_topk_prob": True, "attention_bias": True},
    ),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def load(path: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    resolved = ResolvedModel(name="test", kind=ModelKind.HF_DIR, path=path)
    return load_model(resolved, device=torch.device("cpu"), dtype=dtype).module


@torch.inference_mode()
def logits_of(module: Decoder, sequences: list[list[int]]) -> tuple[Tensor, ...]:
    """Return each sequence's logits, computed packed."""
    lengths = tuple(len(tokens) for tokens in sequences)
    positions = torch.cat([torch.arange(length) for length in lengths])
    packed = torch.tensor([token for tokens in sequences for token in tokens])
    return module.logits(module(packed, positions, DenseKV(lengths))).split(lengths)


def assert_same_logits(found: Tensor, expected: Tensor) -> None:
    scale = expected.std()
    assert scale > 0.05, "flat logits prove nothing"
    assert (found - expected).abs().max() < 1e-4 * scale.clamp(min=1.0)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_logits_and_greedy_continuation_equal_transformers(case: Case, tmp_path: Path) -> None:
    model = case.save(tmp_path)
    module = load(tmp_path)
    sequences = [random_tokens(length, seed) for seed, length in enumerate(LENGTHS)]
    for tokens, found in zip(sequences, logits_of(module, sequences), strict=True):
        assert_same_logits(found, hf_logits(model, tokens))
    assert greedy(module, sequences[0]) == hf_greedy(model, sequences[0])


def greedy(module: Decoder, prompt: list[int]) -> list[int]:
    tokens = list(prompt)
    for _ in range(NUM_NEW):
        tokens.append(int(logits_of(module, [tokens])[0][-1].argmax()))
    return tokens[len(prompt) :]


def hf_greedy(model: object, prompt: list[int]) -> list[int]:
    out = model.generate(
        torch.tensor([prompt]), max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return out[0, len(prompt) :].tolist()


def test_dynamic_scaling_equals_step_by_step_decoding_beyond_the_original_context(tmp_path: Path) -> None:
    case = Case("dynamic", "llama", rope("dynamic", factor=4.0) | {"max_position_embeddings": 16})
    model = case.save(tmp_path)
    tokens = random_tokens(40, 3)
    cache, expected = None, []
    with torch.inference_mode():
        for position, token in enumerate(tokens):
            out = model(
                torch.tensor([[token]]), position_ids=torch.tensor([[position]]), past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
            expected.append(out.logits[0, -1])
    assert_same_logits(logits_of(load(tmp_path), [tokens])[0], torch.stack(expected))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "qwen2_moe"])
def test_bfloat16_stays_near_transformers_in_bfloat16(kind: str, tmp_path: Path) -> None:
    changes = {"num_experts": 4} | EXPERTS if kind == "qwen2_moe" else GEMMA if "gemma" in kind else {}
    model = Case(kind, kind, changes).save(tmp_path)
    tokens = random_tokens(24, 5)
    exact, rounded = hf_logits(model, tokens), hf_logits(model.to(torch.bfloat16), tokens)
    found = logits_of(load(tmp_path, torch.bfloat16), [tokens])[0]
    assert (found - exact).abs().mean() < 1.5 * (rounded - exact).abs().mean() + 1e-3


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "qwen2_moe", "olmoe"])
def test_a_tokens_logits_do_not_depend_on_its_neighbours(kind: str, tmp_path: Path) -> None:
    changes = {"num_experts": 4} | EXPERTS if kind in ("qwen2_moe", "olmoe") else {}
    Case(kind, kind, (NEOX if kind == "gpt_neox" else {}) | changes).save(tmp_path)
    module = load(tmp_path)
    tokens = random_tokens(17, 1)
    alone = logits_of(module, [tokens])[0]
    among = logits_of(module, [random_tokens(5, 2), tokens, random_tokens(11, 3)])[1]
    assert (alone - among).abs().max() < 1e-5 * alone.std().clamp(min=1.0)


def test_old_style_rope_keys_mean_the_same(tmp_path: Path) -> None:
    config_file = tmp_path / "config.json"
    model = Case("old", "llama", LLAMA3).save(tmp_path)
    text = config_file.read_text()
    assert '"rope_parameters"' in text
    config_file.write_text(
        text.replace('"rope_parameters"', '"rope_theta": 10000.0, "rope_scaling"').replace('"rope_type"', '"type"')
    )
    tokens = random_tokens(30, 9)
    assert_same_logits(logits_of(load(tmp_path), [tokens])[0], hf_logits(model, tokens))
