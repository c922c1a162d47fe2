"""RMS norm against float64, in both forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steelyard.kernels import rms_norm as module
from steelyard.kernels.rms_norm import rms_norm, rms_norm_reference, rms_norm_torch

EPS = 1e-5
FORMS = [pytest.param(rms_norm, marks=pytest.mark.native, id="native"), pytest.param(rms_norm_torch, id="torch")]
SIZES = [1, 2, 7, 31, 32, 33, 63, 64, 65, 127, 576, 577, 2048, 4099]
# A half-precision result is rounded twice: at the cast, and after the weight. float16 has subnormals that are met.
RELATIVE = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
ABSOLUTE = {torch.float32: 1e-30, torch.float16: 2**-24, torch.bfloat16: 1e-30}


def judged(x, weight, eps=EPS):
    return rms_norm_reference(x.double(), weight.double(), eps)


def assert_near(got, x, weight, eps=EPS):
    expected = judged(x, weight, eps)
    assert got.shape == x.shape
    assert got.dtype is x.dtype
    assert got.is_contiguous()
    torch.testing.assert_close(got.double(), expected, rtol=RELATIVE[x.dtype], atol=ABSOLUTE[x.dtype])


def test_reference_by_hand():
    x = torch.tensor([[3.0, -4.0]], dtype=torch.float64)
    weight = torch.tensor([2.0, 10.0], dtype=torch.float64)
    root = 12.5**0.5
    expected = torch.tensor([[6.0 / root, -40.0 / root]], dtype=torch.float64)
    torch.testing.assert_close(rms_norm_reference(x, weight, 0.0), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hidden", SIZES)
@pytest.mark.parametrize("rows", [1, 5])
def test_near_float64(form, rows, hidden):
    x, weight = torch.randn(rows, hidden), torch.randn(hidden)
    assert_near(form(x, weight, EPS), x, weight)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-3, 1e6, 1e15])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_big_and_small(form, scale, eps):
    x, weight = torch.randn(3, 576) * scale, torch.randn(576)
    if scale == 1e-30:  # its squares vanish in float32, and so must a norm without eps
        eps = 1e-6
    assert_near(form(x, weight, eps), x, weight, eps)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_row_spoils_only_itself(form, bad):
    x, weight = torch.randn(3, 70), torch.ones(70)
    x[1, 69] = bad
    out = form(x, weight, EPS)
    assert out[1, 69].isnan()
    assert_near(out[::2].contiguous(), x[::2], weight)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(0, 64), (0, 3, 64), (2, 0, 64)])
def test_no_rows(form, shape):
    out = form(torch.empty(shape), torch.ones(64), EPS)
    assert out.shape == shape
    assert out.dtype is torch.float32


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(64,), (1, 1, 64), (2, 3, 5, 64)])
def test_any_number_of_dimensions(form, shape):
    x, weight = torch.randn(shape), torch.randn(64)
    assert_near(form(x, weight, EPS), x, weight)


@pytest.mark.parametrize("form", FORMS)
def test_strided_input(form):
    wide, weight = torch.randn(6, 200), torch.randn(200)
    for x in (wide[:, ::2], wide[::2, :100], torch.randn(100, 6).t(), torch.randn(1, 100).expand(4, 100)):
        assert_near(form(x, weight[::2], EPS).contiguous(), x, weight[::2])


@pytest.mark.parametrize("form", FORMS)
def test_unaligned_view(form):
    x, weight = torch.randn(4 * 33 + 1)[1:].view(4, 33), torch.randn(34)[1:]
    assert_near(form(x, weight, EPS), x, weight)


@pytest.mark.parametrize("form", FORMS)
def test_inputs_stay_as_they_were(form):
    x, weight = torch.randn(4, 65), torch.randn(65)
    before = x.clone(), weight.clone()
    out = form(x, weight, EPS)
    assert out.data_ptr() != x.data_ptr()
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hidden", [33, 576])
def test_half_precision(dtype, hidden):
    x, weight = torch.randn(9, hidden).to(dtype), torch.randn(hidden).to(dtype)
    assert_near(rms_norm(x, weight, EPS), x, weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_cast_before_the_weight(dtype):
    x, weight = torch.randn(9, 576).to(dtype), torch.randn(576).to(dtype)
    normed = rms_norm_torch(x.float(), torch.ones(576), EPS).to(dtype)
    assert torch.equal(rms_norm(x, weight, EPS), normed * weight)


def test_float32_weight_does_not_widen_half_precision():
    x, weight = torch.randn(2, 64).bfloat16(), torch.randn(64)
    assert_near(rms_norm(x, weight, EPS), x, weight.bfloat16())


@pytest.mark.parametrize("form", FORMS)
def test_wrong_weight_is_refused(form):
    with pytest.raises(RuntimeError):
        form(torch.randn(2, 64), torch.randn(63), EPS)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(rows=st.integers(1, 40), hidden=st.integers(1, 700), seed=st.integers(0, 2**31), data=st.data())
def test_row_bits_do_not_depend_on_company(form, rows, hidden, seed, data):
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(rows, hidden, generator=generator), torch.randn(hidden, generator=generator)
    start = data.draw(st.integers(0, rows - 1))
    end = data.draw(st.integers(start + 1, rows))
    whole = form(x, weight, EPS)
    assert torch.equal(form(x[start:end], weight, EPS), whole[start:end])
    assert torch.equal(form(x[start:end].clone(), weight, EPS), whole[start:end])


@pytest.mark.native
def test_native_form_serves_parameters_without_gradient(monkeypatch):
    monkeypatch.setattr(module, "rms_norm_torch", None)
    weight = nn.Parameter(torch.randn(64))
    x = torch.randn(2, 64)
    with torch.inference_mode():
        assert_near(rms_norm(x, weight, EPS), x, weight)
    with torch.no_grad():
        assert_near(rms_norm(x, weight, EPS), x, weight)


def test_gradients_flow():
    x = torch.randn(3, 17, dtype=torch.float64)
    weight = torch.randn(17, dtype=torch.float64)
    wide = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    rms_norm_reference(*wide, EPS).square().sum().backward()
    narrow = [x.float().requires_grad_(), weight.float().requires_grad_()]
    rms_norm(*narrow, EPS).square().sum().backward()
    for got, expected in zip(narrow, wide, strict=True):
        torch.testing.assert_close(got.grad.double(), expected.grad, rtol=1e-4, atol=1e-4)
