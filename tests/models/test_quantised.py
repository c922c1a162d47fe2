"""Weights that stay quantised are the file's weights, in the decoder's order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import Case, hf_logits, random_tokens
from torch import nn

from steelyard.core.errors import ParamsError
from steelyard.kernels.native import native_available
from steelyard.kernels.triton_available import triton_serves
from steelyard.models.catalogue import default_model
from steelyard.models.dense_kv import DenseKV
from steelyard.models.load import LoadedModel, load_model, weight_bytes
from steelyard.models.quantised import (
    WEIGHT_ONLY,
    QuantisedEmbedding,
    QuantisedLinear,
    Quantization,
    held_bytes,
    holds_blocks,
    settle_quantization,
)
from steelyard.models.resolve import ModelKind, ResolvedModel, open_weights, resolve_model

CPU = torch.device("cpu")


def load(resolved: ResolvedModel, quantization: Quantization) -> LoadedModel:
    return load_model(resolved, device=CPU, dtype=torch.float32, quantization=quantization)


def directory(path: Path) -> ResolvedModel:
    return ResolvedModel(name="test", kind=ModelKind.HF_DIR, path=path)


@pytest.fixture(scope="module")
def stored() -> LoadedModel:
    return load(resolve_model(default_model()), Quantization.STORED)


def test_every_weight_of_the_default_model_is_the_files_own(stored: LoadedModel) -> None:
    plain = load(resolve_model(default_model()), Quantization.NONE).module
    checked = 0
    for name, module in stored.module.named_modules():
        if isinstance(module, QuantisedLinear | QuantisedEmbedding):
            weight = module.packed.dequantise()
            places = getattr(module, "places", None)
            expected = plain.get_submodule(name).weight
            assert torch.equal(weight if places is None else weight[places], expected), name
            checked += 1
    assert checked == 4 * 30 + 2
    assert not any(isinstance(module, nn.Linear) for module in stored.module.modules())


def test_takes_little_more_memory_than_the_file(stored: LoadedModel) -> None:
    resolved = resolve_model(default_model())
    with open_weights(resolved) as source:  # type: ignore[attr-defined]
        in_file = sum(source.num_bytes(name) for name in source.names())
        estimate = held_bytes(source, Quantization.STORED, torch.float32)
    assert in_file <= stored.weight_bytes <= 1.02 * in_file
    assert stored.weight_bytes <= estimate <= 1.6 * in_file
    assert weight_bytes(stored.module) == stored.weight_bytes


@torch.inference_mode()
def test_logits_differ_by_the_rounding_of_activations_only(stored: LoadedModel) -> None:
    plain = load(resolve_model(default_model()), Quantization.NONE).module
    tokens = torch.arange(1000, 1100)
    positions, kv = torch.arange(100), DenseKV((100,))
    exact = plain.logits(plain(tokens, positions, kv))
    rounded = stored.module.logits(stored.module(tokens, positions, DenseKV((100,))))
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).norm() < 0.03 * exact.norm()


NEOX = {"hidden_size": 64, "num_key_value_heads": None, "hidden_act": "gelu"}
GPT2 = {"n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 64}
FAMILIES = [
    Case("llama", "llama"),
    Case("qwen3", "qwen3", {"head_dim": 16}),
    Case("mixtral", "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 4}),  # no choice that could flip
    Case("gpt2", "gpt2", GPT2),
    Case("neox", "gpt_neox", NEOX),
]


@pytest.mark.parametrize(("quantization", "most"), [(Quantization.W8A8, 0.01), (Quantization.W4A8, 0.12)])
@pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.id)
@torch.inference_mode()
def test_float_checkpoints_are_quantised_while_loading(
    case: Case, quantization: Quantization, most: float, tmp_path: Path
) -> None:
    peer = case.save(tmp_path)
    model, plain = (load(directory(tmp_path), kind).module for kind in (quantization, Quantization.NONE))
    for name, module in model.named_modules():
        if isinstance(module, QuantisedLinear):
            weight, expected = module.packed.dequantise(), plain.get_submodule(name).weight
            weight = weight if module.places is None else weight[module.places]
            assert (weight - expected).norm() < most * expected.norm(), name
    assert not any(isinstance(m, nn.Linear) for name, m in model.named_modules() if not name.endswith("router"))
    tokens = random_tokens(24, 5)
    found = model.logits(model(torch.tensor(tokens), torch.arange(24), DenseKV((24,))))
    expected = hf_logits(peer, tokens)
    assert (found - expected).norm() < 10 * most * expected.norm()  # these models have weights that magnify errors


@torch.inference_mode()
def test_the_output_projection_rounds_activations_far_less(stored: LoadedModel) -> None:
    head = stored.module.lm_head
    assert isinstance(head, QuantisedLinear)
    assert head.fine
    x = torch.randn(5, head.in_features, generator=torch.Generator().manual_seed(0))
    exact = x.double() @ head.packed.dequantise().double().T
    coarse = QuantisedLinear(head.packed)(x)
    assert (head(x) - exact).norm() < (coarse - exact).norm() / 50
    if native_available():  # PyTorch promises no such thing
        assert torch.equal(head(x)[2:3], head(x[2:3])), "a row's bits are its own"


def test_auto_keeps_blocks_only_where_kernels_and_blocks_are() -> None:
    def settled(device: str = "cpu", dtype: str = "auto", blocks: bool = True) -> Quantization:
        return settle_quantization("auto", device=torch.device(device), dtype=dtype, stored_blocks=blocks)

    here = Quantization.STORED if native_available() else Quantization.NONE
    assert settled() is here
    assert settled(blocks=False) is settled(device="cuda") is settled(dtype="float32") is Quantization.NONE


@pytest.mark.parametrize(
    ("name", "device", "dtype", "blocks", "field"),
    [
        ("int3", "cpu", "auto", True, "quantization"),
        ("w8a8", "cuda", "auto", True, "quantization"),
        ("int8", "cpu", "auto", True, "quantization"),
        ("int4", "cpu", "bfloat16", False, "quantization"),
        ("w8a8", "cpu", "bfloat16", True, "dtype"),
        ("stored", "cpu", "auto", False, "quantization"),
    ],
)
def test_refuses_what_cannot_be(name: str, device: str, dtype: str, blocks: bool, field: str) -> None:
    if not native_available() and field == "dtype":
        pytest.skip("without the kernels another reason comes first")
    with pytest.raises(ParamsError) as error:
        settle_quantization(name, device=torch.device(device), dtype=dtype, stored_blocks=blocks)
    assert error.value.field == field


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_weight_only_forms_need_triton_on_cuda(name: str, dtype: str) -> None:
    def settle(device: str) -> Quantization:
        return settle_quantization(name, device=torch.device(device), dtype=dtype, stored_blocks=True)

    with pytest.raises(ParamsError, match="w8a8 or w4a8"):
        settle("cpu")
    if triton_serves(torch.device("cuda")):
        assert settle("cuda") is Quantization(name)
    else:
        with pytest.raises(ParamsError, match=r"steelyard\[cuda\]"):
            settle("cuda")


@pytest.mark.parametrize("quantization", WEIGHT_ONLY)
def test_weight_only_forms_are_loaded_whole(quantization: Quantization) -> None:
    resolved = resolve_model(default_model())
    with open_weights(resolved) as source:  # type: ignore[attr-defined]
        in_bfloat16 = held_bytes(source, Quantization.NONE, torch.bfloat16)
        assert held_bytes(source, quantization, torch.bfloat16) == in_bfloat16
    module = load(resolved, quantization).module
    assert not any(isinstance(m, QuantisedLinear | QuantisedEmbedding) for m in module.modules())


def test_knows_files_with_blocks(tmp_path: Path) -> None:
    Case("llama", "llama").save(tmp_path)
    for resolved, expected in ((resolve_model(default_model()), True), (directory(tmp_path), False)):
        source = open_weights(resolved)
        assert holds_blocks(source) is expected
        source.close()
