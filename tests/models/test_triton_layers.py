"""Fused layers give what the plain ones give, for the decoders they fit, and leave the others alone."""

import pytest
import torch

from steelyard.core.batch import SequenceWork
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.memory.paged_kv import KVShape, PagedKVStore, PagedStepKV
from steelyard.memory.step_plan import plan_step
from steelyard.models.config import (
    Activation,
    AttentionConfig,
    LayerConfig,
    MlpConfig,
    ModelConfig,
    NormKind,
    QKNorm,
    Residual,
    RopeConfig,
)
from steelyard.models.decoder import Decoder

pytest.importorskip("triton.language", reason="Triton is not installed (steelyard[test-gpu])")

from steelyard.memory.triton_kv import TritonKVStore
from steelyard.models.triton_layers import FusedAttention, FusedGatedMlp, FusedLayer, fuse_layers

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = KVShape(num_layers=2, num_kv_heads=2, head_dim=16, block_size=4, dtype=torch.float32)
PLAIN = {"residual": Residual.PRE, "norm": NormKind.RMS, "activation": Activation.SILU, "qk_norm": None, "rope_dim": 16}


def make_decoder(
    residual: Residual, norm: NormKind, activation: Activation, qk_norm: QKNorm | None, rope_dim: int | None
) -> Decoder:
    rope = None if rope_dim is None else RopeConfig(theta=10_000.0, dim=rope_dim)
    attention = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25, rope=rope, qk_norm=qk_norm)
    layer = LayerConfig(attention=attention, feed_forward=MlpConfig(size=40, activation=activation))
    config = ModelConfig(
        family="test", vocab_size=50, hidden_size=64, max_position_embeddings=64, norm=norm, norm_eps=1e-5,
        residual=residual, layers=(layer, layer),
    )  # fmt: skip
    decoder = Decoder(config).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.1)
    return decoder.to(DEVICE)


def make_work(start: int, num_tokens: int, blocks: tuple[int, ...]) -> SequenceWork:
    sequence = Sequence(id=0, request_id="", index=0, prompt=(0,), params=SamplingParams(), seed=0, arrival_s=0.0)
    return SequenceWork(sequence, start, num_tokens, blocks)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": QKNorm.PER_HEAD, "rope_dim": 8},
        {"qk_norm": QKNorm.FULL, "rope_dim": None},
        {"residual": Residual.SANDWICH, "activation": Activation.GELU_TANH},
        {"residual": Residual.PARALLEL, "norm": NormKind.LAYER},
    ],
)
@torch.inference_mode()
def test_fused_layers_equal_the_plain_ones(changes: dict[str, object]) -> None:
    decoder = make_decoder(**(PLAIN | changes))  # type: ignore[arg-type]
    steps = [[make_work(0, 6, (1, 3)), make_work(0, 1, (2,))], [make_work(1, 1, (2,)), make_work(6, 1, (1, 3))]]
    tokens = [torch.randint(50, (7,), device=DEVICE), torch.randint(50, (2,), device=DEVICE)]
    positions = [torch.tensor([*range(6), 0], device=DEVICE), torch.tensor([1, 6], device=DEVICE)]
    store = PagedKVStore(SHAPE, 4, DEVICE)
    plans = [plan_step(works, 4, store.padding_block, DEVICE) for works in steps]
    expected = [decoder(*args, PagedStepKV(store, plan)) for *args, plan in zip(tokens, positions, plans, strict=True)]
    fuse_layers(decoder)
    fused = TritonKVStore(SHAPE, 4, DEVICE)
    got = [decoder(*args, fused.step(works)) for *args, works in zip(tokens, positions, steps, strict=True)]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    store = PagedKVStore(SHAPE, 4, DEVICE)
    other = decoder(tokens[0], positions[0], PagedStepKV(store, plans[0]))
    torch.testing.assert_close(other, expected[0], rtol=1e-4, atol=1e-4)


def test_only_what_has_a_fused_form_is_replaced() -> None:
    plain = make_decoder(**PLAIN)  # type: ignore[arg-type]
    fuse_layers(plain)
    assert all(isinstance(layer, FusedLayer) for layer in plain.layers)
    assert all(isinstance(layer.mlp, FusedGatedMlp) for layer in plain.layers)
    other = make_decoder(**(PLAIN | {"residual": Residual.SANDWICH, "activation": Activation.RELU}))  # type: ignore[arg-type]
    fuse_layers(other)
    assert not any(isinstance(module, FusedLayer | FusedGatedMlp) for module in other.modules())
    assert all(isinstance(layer.attention, FusedAttention) for layer in other.layers)
