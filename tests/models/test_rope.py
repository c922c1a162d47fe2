"""Rotation preserves lengths and relative positions; tables do not depend on how they grew."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.models.config import (
    DynamicScaling,
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    RopeConfig,
    RopeScaling,
    YarnScaling,
)
from steelyard.models.rope import TABLE_BLOCK, RotaryTable, inverse_frequencies, rotate

SCALINGS: dict[str, RopeScaling | None] = {
    "none": None,
    "linear": LinearScaling(factor=2.0),
    "dynamic": DynamicScaling(factor=2.0, original_context=64),
    "llama3": Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64),
    "yarn": YarnScaling(factor=4.0, original_context=64, attention_factor=1.1),
    "factors": FactorScaling(factors=(1.0, 2.0, 3.0, 4.0)),
}


def config(scaling: str = "none") -> RopeConfig:
    return RopeConfig(theta=10_000.0, dim=8, scaling=SCALINGS[scaling])


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 100))
def test_scores_depend_on_the_distance_only(first: int, second: int, shift: int) -> None:
    table = RotaryTable(config())
    generator = torch.Generator().manual_seed(first)
    q, k = torch.randn(2, 1, 2, 8, generator=generator)

    def score(a: int, b: int) -> torch.Tensor:
        turned = [rotate(x, table.lookup(torch.tensor([p]), torch.float32)) for x, p in ((q, a), (k, b))]
        return (turned[0] * turned[1]).sum(-1)

    torch.testing.assert_close(score(first, second), score(first + shift, second + shift), atol=1e-3, rtol=1e-3)


def test_rotation_is_the_complex_product_and_leaves_the_rest() -> None:
    x = torch.randn(5, 3, 12, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([0, 1, 7, 100, 300])
    found = rotate(x, RotaryTable(config()).lookup(positions, torch.float32))
    angles = positions[:, None].double() * 10_000.0 ** -(torch.arange(0, 8, 2).double() / 8)
    expected = torch.complex(x[..., :4], x[..., 4:8]).to(torch.complex128) * torch.polar(
        torch.ones_like(angles), angles
    ).unsqueeze(1)
    torch.testing.assert_close(found[..., :4].double(), expected.real, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[..., 4:8].double(), expected.imag, atol=1e-4, rtol=0)
    assert torch.equal(found[..., 8:], x[..., 8:])


@pytest.mark.parametrize("kind", SCALINGS)
def test_a_grown_table_has_the_bits_of_one_made_at_once(kind: str) -> None:
    positions = torch.arange(5 * TABLE_BLOCK)
    grown, whole = RotaryTable(config(kind)), RotaryTable(config(kind))
    for stop in (1, 2, TABLE_BLOCK, TABLE_BLOCK + 1, 3 * TABLE_BLOCK):
        grown.lookup(positions[:stop], torch.float32)
    pairs = zip(grown.lookup(positions, torch.float32), whole.lookup(positions, torch.float32), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_table_made_in_inference_mode_can_be_trained_with() -> None:
    table = RotaryTable(config())
    with torch.inference_mode():
        table.lookup(torch.arange(4), torch.float32)
    x = torch.ones(4, 1, 8, requires_grad=True)
    rotate(x, table.lookup(torch.arange(4), torch.float32)).sum().backward()
    assert x.grad is not None


def test_dynamic_scaling_leaves_the_original_context_alone() -> None:
    positions = torch.arange(64)
    plain = RotaryTable(config()).lookup(positions, torch.float32)
    dynamic = RotaryTable(config("dynamic")).lookup(positions, torch.float32)
    torch.testing.assert_close(dynamic, plain)
    beyond = torch.tensor([65])
    far_plain, far = (RotaryTable(config(k)).lookup(beyond, torch.float32)[0] for k in ("none", "dynamic"))
    assert not torch.allclose(far_plain, far)


def test_llama3_keeps_the_fastest_and_divides_the_slowest() -> None:
    plain, scaled = inverse_frequencies(config()), inverse_frequencies(config("llama3"))
    assert scaled[0] == plain[0] or 2 * torch.pi / plain[0] > 16
    torch.testing.assert_close(scaled[-1], plain[-1] / 8)


def test_an_empty_step_needs_no_table() -> None:
    cos, sin = RotaryTable(config()).lookup(torch.empty(0, dtype=torch.int64), torch.float32)
    assert cos.shape == sin.shape == (0, 1, 8)
