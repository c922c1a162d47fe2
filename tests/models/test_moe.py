"""Experts computed on gathered tokens give what the formula says, and a token's result is its own."""

from __future__ import annotations

import pytest
import torch

from steelyard.models.config import Activation, MoeConfig
from steelyard.models.moe import MixtureOfExperts, row_sigmoid, weighted_sum


def make(renormalise: bool, shared_size: int | None) -> MixtureOfExperts:
    torch.manual_seed(0)
    config = MoeConfig(
        num_experts=7,
        top_k=3,
        size=20,
        activation=Activation.SILU,
        renormalise=renormalise,
        shared_size=shared_size,
    )
    return MixtureOfExperts(config, 16).eval()


@torch.no_grad()
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("shared_size", [None, 12])
def test_it_equals_the_formula(renormalise: bool, shared_size: int | None) -> None:
    moe, x = make(renormalise, shared_size), torch.randn(11, 16)
    expected = []
    for row in x:
        weights, chosen = torch.softmax(moe.router(row), -1).topk(3)
        weights = weights / weights.sum() if renormalise else weights
        out = sum(w * moe.experts[int(e)](row) for w, e in zip(weights, chosen, strict=True))
        if moe.shared is not None:
            out = out + torch.sigmoid(moe.shared_gate(row)) * moe.shared(row)
        expected.append(out)
    torch.testing.assert_close(moe(x), torch.stack(expected))


@torch.no_grad()
def test_one_token_and_none() -> None:
    moe, x = make(True, None), torch.randn(4, 16)
    torch.testing.assert_close(moe(x[:1]), moe(x)[:1])
    assert moe(x[:0]).shape == (0, 16)


@torch.no_grad()
def test_the_weighted_sum_has_the_same_bits_whoever_stands_beside() -> None:
    for top_k, hidden in ((2, 64), (3, 2048), (8, 2048), (10, 100)):
        outputs, weights = torch.randn(33, top_k, hidden), torch.rand(33, top_k)
        whole = weighted_sum(outputs, weights)
        for count in range(1, 33):
            assert torch.equal(weighted_sum(outputs[:count], weights[:count]), whole[:count])


def test_the_gate_is_a_sigmoid_and_has_the_same_bits_whoever_stands_beside() -> None:
    x = 4 * torch.randn(65, 1)
    torch.testing.assert_close(row_sigmoid(x), torch.sigmoid(x))
    assert all(torch.equal(row_sigmoid(x[:count]), row_sigmoid(x)[:count]) for count in range(1, 65))


def test_gradients_flow_to_every_chosen_expert() -> None:
    moe = make(True, 12)
    moe(torch.randn(64, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in moe.parameters())
