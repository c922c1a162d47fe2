"""Quantisers: their promised errors, and edge cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.quant.from_float import QUANTISERS, quantise_q4, quantise_q8


def random_weight(rows, inputs, seed=0, scale=1.0):
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed)) * scale


def by_blocks(weight):
    missing = -weight.shape[1] % 32
    return torch.nn.functional.pad(weight, (0, missing)).view(len(weight), -1, 32)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 9), inputs=st.integers(1, 100), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 1, 1e5])
)
def test_q8_is_off_by_at_most_half_a_scale(rows, inputs, seed, scale):
    weight = random_weight(rows, inputs, seed, scale)
    blocks = quantise_q8(weight)
    assert blocks.quants.min() >= 1
    assert (blocks.offset, blocks.bits, blocks.num_inputs, blocks.exact_halves) == (128, 8, inputs, True)
    assert np.array_equal(blocks.scales, blocks.scales.astype(np.float16))
    error = by_blocks(torch.from_numpy(blocks.dequantise()) - weight).abs()
    allowed = torch.from_numpy(blocks.scales)[..., None] * 0.5001 + by_blocks(weight).abs() * 2.0**-11
    assert (error <= allowed).all()


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 9), inputs=st.integers(1, 100), seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 1, 1e3])
)
def test_q4_is_no_worse_than_the_plain_choice(rows, inputs, seed, scale):
    weight = random_weight(rows, inputs, seed, scale)
    blocks = quantise_q4(weight)
    assert (blocks.offset, blocks.bits, blocks.num_inputs, blocks.exact_halves) == (0, 4, inputs, True)
    assert blocks.quants.max() <= 15
    error = by_blocks(torch.from_numpy(blocks.dequantise()) - weight).square().sum(dim=-1)
    filled = torch.cat((weight, weight[:, -1:].expand(-1, -inputs % 32)), dim=1).view(rows, -1, 32)
    span = (filled.amax(dim=-1) - filled.amin(dim=-1))[..., None]
    assert (error <= 32 * (span[..., 0] / 15 * 0.5 + filled.abs().amax(dim=-1) * 2.0**-9).square()).all()


def test_q4_search_pays():
    """The search takes an eighth off the plain choice's squared error on Gaussian weights."""
    weight = random_weight(64, 1024)
    blocks = weight.view(64, -1, 32)
    low = blocks.amin(dim=-1, keepdim=True)
    step = (blocks.amax(dim=-1, keepdim=True) - low) / 15
    plain = ((blocks - low) / step).round() * step + low
    searched = torch.from_numpy(quantise_q4(weight).dequantise()).view_as(blocks)
    assert (searched - blocks).square().sum() < 0.875 * (plain - blocks).square().sum()


@pytest.mark.parametrize(("quantiser", "constants"), [("q8", [0.0, 254.0, -127.0]), ("q4", [0.0, 1.0, -2.5, 127.0])])
def test_zeros_and_constants_are_exact(quantiser, constants):
    weight = torch.tensor(constants)[:, None].expand(len(constants), 40)
    assert torch.equal(torch.from_numpy(QUANTISERS[quantiser](weight).dequantise()), weight)


@pytest.mark.parametrize("quantiser", sorted(QUANTISERS))
def test_huge_and_tiny_weights_stay_finite(quantiser):
    weight = torch.cat((random_weight(2, 64, scale=1e-9), random_weight(2, 64, scale=1e9)))
    found = torch.from_numpy(QUANTISERS[quantiser](weight).dequantise())
    assert found.isfinite().all()
    assert (found[:2].abs() <= 1e-7).all()


@pytest.mark.parametrize("quantiser", sorted(QUANTISERS))
def test_padding_is_nothing_and_the_weight_stays(quantiser):
    weight = random_weight(3, 40)
    before = weight.clone()
    blocks = QUANTISERS[quantiser](weight)
    assert (blocks.quants[:, 1, 8:] == blocks.offset).all()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("quantiser", sorted(QUANTISERS))
def test_half_precision_weights(quantiser):
    weight = random_weight(3, 64).bfloat16()
    found, expected = (QUANTISERS[quantiser](w).dequantise() for w in (weight, weight.float()))
    assert np.array_equal(found, expected)
