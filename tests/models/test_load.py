"""Loading checks configuration against tensors before it reads any, and says which key or tensor is wrong."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import EXPERTS, Case
from safetensors.torch import load_file, save_file

from steelyard.core.errors import ModelError, WeightsError
from steelyard.models.decoder import Decoder
from steelyard.models.load import LoadedModel, load_model, read_json
from steelyard.models.resolve import ModelKind, ResolvedModel

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    Case("llama", "llama").save(path)
    return path


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def load(path: Path, dtype: torch.dtype = torch.float32, **options: object) -> LoadedModel:
    resolved = ResolvedModel(name="small", kind=ModelKind.HF_DIR, path=path)
    return load_model(resolved, device=torch.device("cpu"), dtype=dtype, **options)


def change_config(path: Path, file: str = "config.json", **changes: object) -> None:
    values = json.loads((path / file).read_text()) | changes
    (path / file).write_text(json.dumps({key: value for key, value in values.items() if value != "absent"}))


def change_tensors(path: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(path / WEIGHTS) | changes
    save_file({name: value for name, value in tensors.items() if value is not None}, path / WEIGHTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_loaded(checkpoint: Path, dtype: torch.dtype) -> None:
    seen: list[tuple[int, int]] = []
    loaded = load(checkpoint, dtype, on_progress=lambda done, total: seen.append((done, total)))
    assert loaded.name == "small"
    assert loaded.kind is ModelKind.HF_DIR
    assert isinstance(loaded.module, Decoder)
    assert not loaded.module.training
    parameters = list(loaded.module.parameters())
    assert {parameter.dtype for parameter in parameters} == {dtype}
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in parameters)
    assert loaded.weight_bytes == sum(parameter.numel() for parameter in parameters) * dtype.itemsize
    assert seen == [(i, len(parameters)) for i in range(1, len(parameters) + 1)]


def test_tied_embeddings_are_one_parameter(tmp_path: Path) -> None:
    Case("tied", "llama", {"tie_word_embeddings": True}).save(tmp_path)
    module = load(tmp_path).module
    assert module.lm_head.weight is module.embed.weight


def test_generation_config_gives_defaults(checkpoint: Path) -> None:
    recommended = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "eos_token_id": [5, 3]}
    (checkpoint / "generation_config.json").write_text(json.dumps(recommended))
    loaded = load(checkpoint)
    assert loaded.eos_token_ids == {2, 3, 5}
    params = loaded.default_params
    assert (params.temperature, params.top_k, params.top_p) == (0.7, 20, 0.8)


def test_without_generation_config_there_are_plain_defaults(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").unlink()
    loaded = load(checkpoint)
    assert loaded.generation.temperature is None
    assert loaded.default_params.temperature == 1.0
    assert loaded.eos_token_ids == {2}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 64, "head_dim": 12}, "model.embed_tokens.weight"),
        ({"vocab_size": 97}, "model.embed_tokens.weight"),
        ({"intermediate_size": 81}, "model.layers.0.mlp.gate_proj.weight"),
        ({"num_attention_heads": 8}, "model.layers.0.self_attn.q_proj.weight"),
        ({"num_key_value_heads": 4}, "model.layers.0.self_attn.k_proj.weight"),
        ({"head_dim": 24}, "model.layers.0.self_attn.q_proj.weight"),
        ({"num_hidden_layers": 2}, "num_hidden_layers"),
        ({"num_hidden_layers": 4}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**6}, "config.json: num_hidden_layers"),
        ({"vocab_size": 10**12}, "config.json: vocab_size"),
        ({"hidden_size": 0}, "config.json: hidden_size"),
        ({"hidden_size": "48"}, "config.json: hidden_size"),
        ({"hidden_size": True}, "config.json: hidden_size"),
        ({"num_attention_heads": 5, "head_dim": None}, "config.json: num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"hidden_act": "mish"}, "config.json: hidden_act"),
        ({"rms_norm_eps": float("nan")}, "config.json: rms_norm_eps"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"eos_token_id": 96}, "eos_token_id"),
        ({"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e4}}, "rope_parameters: rope_type"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "rope_parameters: factor"),
        ({"rope_parameters": [1]}, "config.json: rope_parameters"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -1}}, "rope_theta"),
        ({"architectures": ["WhisperForConditionalGeneration"]}, "config.json: architectures"),
        ({"architectures": "absent", "model_type": "absent"}, "config.json: architectures"),
        ({"architectures": 3}, "config.json: architectures"),
    ],
)
def test_a_configuration_that_lies_is_refused_by_name(checkpoint: Path, changes: dict, named: str) -> None:
    change_config(checkpoint, **changes)
    with pytest.raises(ModelError) as caught:
        load(checkpoint)
    assert named in caught.value.field
    assert caught.value.remedy


def test_a_wrong_shape_is_told_with_both_shapes(checkpoint: Path) -> None:
    change_config(checkpoint, intermediate_size=81)
    with pytest.raises(ModelError, match=r"\[80, 48\].*\[81, 48\].*intermediate_size"):
        load(checkpoint)


def test_nothing_is_read_before_everything_is_checked(checkpoint: Path) -> None:
    change_tensors(checkpoint, **{"lm_head.weight": torch.zeros(3, 3)})
    seen: list[int] = []
    with pytest.raises(ModelError):
        load(checkpoint, on_progress=lambda done, total: seen.append(done))
    assert not seen


def test_a_missing_tensor_is_named(checkpoint: Path) -> None:
    change_tensors(checkpoint, **{"model.layers.1.self_attn.k_proj.weight": None})
    with pytest.raises(WeightsError) as caught:
        load(checkpoint)
    assert caught.value.field == "model.layers.1.self_attn.k_proj.weight"


def test_unused_tensors_are_reported_and_known_ones_are_not(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    change_tensors(checkpoint, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)})
    with caplog.at_level(logging.WARNING):
        load(checkpoint)
    assert not caplog.records
    change_tensors(checkpoint, **{"adapter.weight": torch.zeros(4)})
    with caplog.at_level(logging.WARNING):
        load(checkpoint)
    assert "adapter.weight" in caplog.text


@pytest.mark.parametrize("count", [5, 7])
def test_a_wrong_number_of_experts_is_refused(tmp_path: Path, count: int) -> None:
    Case("moe", "qwen3_moe", EXPERTS | {"num_experts": 6}).save(tmp_path)
    change_config(tmp_path, num_experts=count, num_local_experts=count)
    with pytest.raises(ModelError) as caught:
        load(tmp_path)
    assert caught.value.field == "num_experts"


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "\xff"])
def test_broken_json_is_a_model_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json"):
        read_json(tmp_path / "config.json")


def test_a_missing_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        read_json(tmp_path / "config.json")


def test_model_type_is_enough_where_architectures_are_missing(checkpoint: Path) -> None:
    change_config(checkpoint, architectures="absent")
    assert load(checkpoint).config.family == "llama"
