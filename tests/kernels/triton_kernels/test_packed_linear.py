"""Weights in 4 and 8 bits: packing, both forms of the product against float64, and the swap from outside."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steelyard.core.errors import ParamsError

pytest.importorskip("triton.language", reason="Triton is not installed (steelyard[test-gpu])")

from steelyard.kernels.triton.linear import (
    BITS,
    GROUPS,
    INPUT_TILE,
    WeightOnlyLinear,
    pack,
    packed_linear,
    packed_linear_reference,
    quantise_linears,
    unpack,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@settings(max_examples=30)
@given(
    rows=st.sampled_from([0, 1, 3, 16, 17, 70]),
    inputs=st.sampled_from([1, 31, 128, 129, 700]),
    outputs=st.sampled_from([1, 5, 64, 130]),
    bits=st.sampled_from(BITS),
    group=st.sampled_from(GROUPS),
    bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_product_equals_the_float64_reference(
    rows: int, inputs: int, outputs: int, bits: int, group: int, bias: bool, dtype: torch.dtype
) -> None:
    x = torch.randn(rows, inputs, device=DEVICE).to(dtype)
    weight = pack(torch.randn(outputs, inputs, device=DEVICE).to(dtype), bits, group)
    offset = torch.randn(outputs, device=DEVICE).to(dtype) if bias else None
    out = packed_linear(x, weight, offset)
    assert out.dtype == dtype
    expected = packed_linear_reference(x.double(), weight, offset)
    atol = ROUNDING[dtype] * 4 * max(1.0, inputs**0.5)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", GROUPS)
def test_packed_weights_are_within_half_a_step(bits: int, group: int, dtype: torch.dtype) -> None:
    weight = torch.randn(7, 300).to(dtype)
    packed = pack(weight, bits, group)
    assert packed.codes.shape == (7, 3 * INPUT_TILE * bits // 8)
    step = packed.scales.float().repeat_interleave(group, dim=1)[:, :300]
    # The rounding of scale and minimum may push a group's extremes over the end of the codes.
    slack = torch.finfo(dtype).eps * ((1 << bits) * step + weight.float().abs().amax())
    assert ((unpack(packed) - weight.float()).abs() <= step / 2 + slack).all()


def test_values_on_the_steps_are_exact_and_constant_groups_too() -> None:
    weight = torch.arange(16.0).repeat(2, 8)
    weight[1] = 3.25
    assert torch.equal(unpack(pack(weight, 4, 32)), weight)
    assert torch.equal(unpack(pack(17 * weight, 8, 32)), 17 * weight)


def test_layout_is_as_documented() -> None:
    """Byte j of a group: its input j in the low half, its input j + group/2 in the high half."""
    weight = torch.zeros(1, 128)
    weight[0, 0], weight[0, 1], weight[0, 17] = 15.0, 5.0, 2.0
    codes = pack(weight, 4, 32).codes[0]
    assert codes[0].item() == 15
    assert codes[1].item() == 5 | 2 << 4
    assert pack(weight, 4, 32).num_bytes == 64 + 2 * 4 * 4


@pytest.mark.parametrize(("bits", "group", "field"), [(3, 32, "bits"), (4, 48, "group")])
def test_unknown_formats_are_refused(bits: int, group: int, field: str) -> None:
    with pytest.raises(ParamsError) as caught:
        pack(torch.zeros(2, 128), bits, group)
    assert caught.value.field == field


def test_strided_rows_are_read_in_place() -> None:
    weight = pack(torch.randn(8, 40, device=DEVICE), 8, 32)
    wide = torch.randn(3, 90, device=DEVICE)
    assert torch.equal(packed_linear(wide[:, 10:50], weight), packed_linear(wide[:, 10:50].contiguous(), weight))


def test_few_rows_keep_their_bits_in_company() -> None:
    weight = pack(torch.randn(70, 600, device=DEVICE), 4, 32)
    x = torch.randn(16, 600, device=DEVICE)
    many = packed_linear(x, weight)
    padded = torch.zeros_like(x)
    padded[:5] = x[:5]
    assert torch.equal(packed_linear(padded, weight)[:5], many[:5])
    assert torch.equal(packed_linear(x[:5], weight), many[:5])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", GROUPS)
def test_rows_keep_their_bits_in_any_company(bits: int, group: int, dtype: torch.dtype) -> None:
    """Compiled only: the interpreter multiplies by the CPU's BLAS, whose rows depend on their company."""
    weight = pack(torch.randn(1000, 4096, device=DEVICE).to(dtype), bits, group)
    x = torch.randn(300, 4096, device=DEVICE).to(dtype)
    whole = packed_linear(x, weight)
    for rows in (1, 2, 8, 16, 17, 63, 64, 65, 299):
        assert torch.equal(packed_linear(x[:rows], weight), whole[:rows]), rows
        assert torch.equal(packed_linear(x[-rows:], weight), whole[-rows:]), rows


def test_quantise_linears_swaps_all_but_the_kept() -> None:
    model = nn.ModuleDict(
        {"a": nn.Linear(40, 6), "b": nn.Sequential(nn.ReLU(), nn.Linear(6, 4, bias=False)), "lm_head": nn.Linear(4, 9)}
    ).to(DEVICE)
    x = torch.randn(3, 40, device=DEVICE)
    expected = model["b"](model["a"](x))
    assert quantise_linears(model, 8, 32) == 2
    assert isinstance(model["a"], WeightOnlyLinear)
    assert isinstance(model["b"][1], WeightOnlyLinear)
    assert type(model["lm_head"]) is nn.Linear
    torch.testing.assert_close(model["b"](model["a"](x)), expected, rtol=0, atol=2e-2)
    assert "a.codes" in model.state_dict()
