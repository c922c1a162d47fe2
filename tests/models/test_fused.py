"""A decoder written down as one native program computes what its modules compute."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from checkpoints import Case, random_tokens
from torch import Tensor

from steelyard.core.batch import SequenceWork
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.kernels.native import native_available
from steelyard.memory.kv_store import make_kv_store
from steelyard.memory.native_kv import NativeKVStore
from steelyard.memory.paged_kv import KVShape
from steelyard.models.decoder import Decoder
from steelyard.models.dense_kv import DenseKV
from steelyard.models.fused import FusedDecoder, why_not_fused
from steelyard.models.load import load_model
from steelyard.models.quantised import Quantization
from steelyard.models.resolve import ModelKind, ResolvedModel

pytestmark = [pytest.mark.native, pytest.mark.skipif(not native_available(), reason="the extension is not built")]

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
GEMMA = SIZES | {"sliding_window": 8, "query_pre_attn_scalar": 24}
FUSED = [
    Case("llama", "llama", SIZES),
    Case("llama-biases", "llama", SIZES | {"attention_bias": True, "mlp_bias": True}),
    Case("llama-tied-mqa", "llama", SIZES | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    Case("mistral-window", "mistral", SIZES | {"sliding_window": 8}),
    Case("smollm3", "smollm3", SIZES | {"num_hidden_layers": 4, "no_rope_layer_interval": 2}),
    Case("qwen2", "qwen2", {"hidden_size": 64, "intermediate_size": 96}),
    Case("qwen3", "qwen3", SIZES),
    Case("gemma2", "gemma2", GEMMA),
    Case("gemma3", "gemma3_text", GEMMA | {"num_hidden_layers": 7}),
    Case(
        "phi3-partial",
        "phi3",
        {"hidden_size": 64, "intermediate_size": 96}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
]
NOT_FUSED = [
    (Case("gpt2", "gpt2", {"n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 64}), "another kind"),
    (Case("mixtral", "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}), "another kind"),
    (Case("odd width", "llama", {"intermediate_size": 72}), "panels do not divide"),
]


def load(case: Case, path: Path) -> Decoder:
    case.save(path)
    resolved = ResolvedModel(name="test", kind=ModelKind.HF_DIR, path=path)
    return load_model(resolved, device=torch.device("cpu"), dtype=torch.float32, quantization=Quantization.W8A8).module


def native_store(decoder: Decoder, num_blocks: int) -> NativeKVStore:
    attention = decoder.config.layers[0].attention
    shape = KVShape(
        num_layers=decoder.config.num_layers,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        block_size=16,
        dtype=torch.float32,
    )
    store = make_kv_store(shape, num_blocks, torch.device("cpu"))
    assert isinstance(store, NativeKVStore)
    return store


def step(model: FusedDecoder, store: NativeKVStore, parts: list[tuple[list[int], int, int, tuple[int, ...]]]) -> Tensor:
    """Run one step of (tokens, start, count, blocks) per sequence and return the hidden states."""
    works = []
    for index, (tokens, start, count, blocks) in enumerate(parts):
        sequence = Sequence(
            id=index, request_id="", index=0, prompt=tuple(tokens), params=SamplingParams(), seed=0, arrival_s=0.0
        )
        works.append(SequenceWork(sequence, start, count, blocks))
    ids = [token for tokens, start, count, _ in parts for token in tokens[start : start + count]]
    positions = [p for _, start, count, _ in parts for p in range(start, start + count)]
    return model(torch.tensor(ids, dtype=torch.int64), torch.tensor(positions, dtype=torch.int64), store.step(works))


@torch.inference_mode()
def by_modules(decoder: Decoder, sequences: list[list[int]]) -> Tensor:
    lengths = tuple(len(tokens) for tokens in sequences)
    positions = torch.cat([torch.arange(length) for length in lengths])
    ids = torch.tensor([token for tokens in sequences for token in tokens])
    hidden: Tensor = decoder(ids, positions, DenseKV(lengths))
    return hidden


@pytest.mark.parametrize("case", FUSED, ids=lambda case: case.id)
@torch.inference_mode()
def test_a_fused_decoder_is_its_modules(case: Case, tmp_path: Path) -> None:
    decoder = load(case, tmp_path)
    assert why_not_fused(decoder) is None
    sequences = [random_tokens(length, seed) for seed, length in enumerate((19, 1, 33))]
    expected = by_modules(decoder, sequences)
    store = native_store(decoder, 8)
    blocks = [(0, 1), (2,), (5, 3, 4)]
    found = step(FusedDecoder(decoder), store, [(t, 0, len(t), b) for t, b in zip(sequences, blocks, strict=True)])
    # Attention sums in another order, and a value on the edge between two of the 255 steps of an activation may fall
    # to the other side, so single elements may differ by a step's worth.
    difference = (found - expected).abs()
    assert difference.max() < 0.1 * expected.abs().max()
    assert difference.mean() < 0.004 * expected.abs().mean()
    agreed = (decoder.logits(found).argmax(-1) == decoder.logits(expected).argmax(-1)).float().mean()
    assert agreed > 0.95


@pytest.mark.parametrize("case", [FUSED[0], FUSED[6], FUSED[8]], ids=lambda case: case.id)
@torch.inference_mode()
def test_rows_keep_their_bits_in_any_company_and_any_chunks(case: Case, tmp_path: Path) -> None:
    decoder = load(case, tmp_path)
    fused, store = FusedDecoder(decoder), native_store(decoder, 64)
    tokens = random_tokens(45, 1)
    whole = step(fused, store, [(tokens, 0, 45, (0, 1, 2))])
    rng, start, rows = Random(0), 0, []
    while start < 45:
        count = min(rng.choice((1, 1, 2, 7, 16)), 45 - start)
        parts = [(tokens, start, count, (3, 4, 5))]
        for other in range(rng.randrange(9)):
            length = rng.randint(1, 20)
            parts.append((random_tokens(length, 100 + other), 0, length, (10 + 2 * other, 11 + 2 * other)))
        rows.append(step(fused, store, parts)[:count])
        start += count
    assert torch.equal(torch.cat(rows), whole)


@pytest.mark.parametrize(("case", "reason"), NOT_FUSED, ids=lambda value: getattr(value, "id", None))
def test_says_what_it_cannot_fuse(case: Case, reason: str, tmp_path: Path) -> None:
    assert reason in str(why_not_fused(load(case, tmp_path)))


@torch.inference_mode()
def test_another_cache_goes_module_by_module(tmp_path: Path) -> None:
    decoder = load(FUSED[0], tmp_path)
    tokens = random_tokens(9, 0)
    found = FusedDecoder(decoder)(torch.tensor(tokens), torch.arange(9), DenseKV((9,)))
    assert torch.equal(found, by_modules(decoder, [tokens]))


@torch.inference_mode()
def test_profile_names_the_operations_and_starts_anew(tmp_path: Path) -> None:
    decoder = load(FUSED[0], tmp_path)
    fused, store = FusedDecoder(decoder), native_store(decoder, 4)
    step(fused, store, [(random_tokens(9, 0), 0, 9, (0,))])
    profile = fused.take_profile()
    assert {"embedding", "norm", "QKV", "attention", "MLP gate, up", "MLP down"} <= profile.keys()
    assert all(seconds > 0 for seconds in profile.values())
    assert not any(fused.take_profile().values())


@torch.inference_mode()
def test_an_empty_step_gives_nothing(tmp_path: Path) -> None:
    decoder = load(FUSED[0], tmp_path)
    assert step(FusedDecoder(decoder), native_store(decoder, 4), []).shape == (0, 64)


@pytest.mark.parametrize("case", FUSED, ids=lambda case: case.id)
@torch.inference_mode()
def test_the_likeliest_token_is_that_of_the_logits(case: Case, tmp_path: Path) -> None:
    fused = FusedDecoder(load(case, tmp_path))
    assert fused.names_likeliest is not case.id.startswith("gemma2")  # which caps its logits
    if fused.names_likeliest:
        hidden = torch.randn(11, fused._decoder.config.hidden_size)
        peaks, tokens = fused.likeliest(hidden)
        expected = fused.logits(hidden).max(-1)
        assert torch.equal(peaks, expected.values)
        assert torch.equal(tokens, expected.indices)
