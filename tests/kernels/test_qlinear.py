"""Products of packed matrices against float64, in both forms, and the bits of a row in any company."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_samples import magnitudes, random_matrix, random_rows

from steelyard.kernels.argmax import argmax_rows_torch
from steelyard.kernels.native import native_available, native_kernels
from steelyard.kernels.packed_matrix import PACKED_FORMATS, PackedMatrix, alternating_rows
from steelyard.kernels.qlinear import (
    feature_group_norms,
    largest_of_fine,
    qlinear,
    qlinear_fine,
    qlinear_reference,
    qlinear_torch,
    quantise_rows,
    quantise_rows_torch,
)
from steelyard.kernels.rms_norm import rms_norm
from steelyard.kernels.threads import thread_pool

NATIVE = [pytest.mark.native, pytest.mark.skipif(not native_available(), reason="the extension is not built")]
FORMS = [pytest.param(qlinear, marks=NATIVE, id="native"), pytest.param(qlinear_torch, id="torch")]
FORMATS = sorted(PACKED_FORMATS)
GATED = ["silu", "gelu_tanh"]
EPILOGUES = ["store", "add", *GATED]
ISAS = native_kernels().isas() if native_available() else []
EPS = 2.0**-24


def bound(x, weight):
    """What float32 sums of the reference's terms may be off by: the native form rounds four times a block of 32, the
    other once a term, and weights are rounded themselves."""
    values, scales = quantise_rows_torch(x)
    rounded = (values.double() * scales.double()[..., None]).flatten(1)[:, : weight.num_inputs]
    return (rounded.abs() @ magnitudes(weight).T) * EPS * (weight.num_inputs + 12) + 1e-30


def assert_near(got, x, weight):
    error = (got.double() - qlinear_reference(x, weight)).abs()
    assert (error <= bound(x, weight)).all()


def wanted_out(epilogue, rows, weight):
    """Return something for the product to go to; the sums are added to it, or it is overwritten."""
    width = weight.num_rows // 2 if epilogue in GATED else weight.num_rows
    return random_rows(rows, width, seed=9)


# --- the reference ---------------------------------------------------------------------------------------------------


def test_reference_by_hand():
    weight = PackedMatrix.from_float(torch.tensor([[127.0, -127.0], [0.0, 127.0]]), "q8")
    x = torch.tensor([[254.0, 127.0]])  # scale 2, values 127 and 64 (63.5 rounded to even)
    expected = torch.tensor([[127 * 254.0 - 127 * 128.0, 127 * 128.0]], dtype=torch.float64)
    torch.testing.assert_close(qlinear_reference(x, weight), expected)


def test_reference_epilogues_by_hand():
    weight = PackedMatrix.from_float(torch.eye(32) * 127, "q8")
    x = torch.zeros(1, 32)
    x[0, 3], x[0, 19] = 1.0, 127.0  # gate 127 · 1, up 127 · 127 of feature 3
    for epilogue, act in (("silu", F.silu), ("gelu_tanh", lambda y: F.gelu(y, approximate="tanh"))):
        out = qlinear_reference(x, weight, torch.full((32,), -126.0), epilogue=epilogue)
        assert out.shape == (1, 16)
        expected = act(torch.tensor(1.0, dtype=torch.float64)) * (127.0 * 127 - 126)
        torch.testing.assert_close(out[0, 3], expected)


# --- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 40),
    num_rows=st.integers(1, 100),
    num_inputs=st.integers(1, 200),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
)
def test_near_float64(form, format, rows, num_rows, num_inputs, seed, scale):
    weight = random_matrix(format, num_rows, num_inputs, seed)
    x = random_rows(rows, num_inputs, seed) * scale
    got = form(x, weight)
    assert (got.shape, got.dtype) == ((rows, num_rows), torch.float32)
    assert_near(got, x, weight)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("rows", "num_rows", "num_inputs"), [(3, 48, 1536), (9, 40, 1600), (400, 32, 64), (205, 16, 3200)]
)
def test_long_and_tall(form, format, rows, num_rows, num_inputs):
    weight, x = random_matrix(format, num_rows, num_inputs), random_rows(rows, num_inputs)
    assert_near(form(x, weight), x, weight)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("format", FORMATS)
def test_largest_integers_do_not_overflow(form, format):
    weight = random_matrix(format, 32, 96)
    weight.data.numpy().view(PACKED_FORMATS[format].record)["quants"] = 255
    x = torch.ones(8, 96)
    x[1::2] = -1
    x[2, ::2] = -1
    assert_near(form(x, weight), x, weight)


@pytest.mark.parametrize("form", FORMS)
def test_zeros_and_outliers(form):
    weight = random_matrix("q4_1", 20, 100)
    x = random_rows(6, 100)
    x[0] = 0
    x[1, 32:64] = 0
    x[2, 50] = 1e20
    x[3] = 1e-35  # below what is kept
    x[4] = 1e-37
    x[4, 99] = 3e30
    got = form(x, weight)
    assert (got[0] == 0).all()
    assert (got[3] == 0).all()
    assert_near(got, x, weight)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rows", [3, 12])
def test_a_bad_row_spoils_only_itself(form, bad, rows):
    weight, x = random_matrix("q8_0", 40, 70), random_rows(rows, 70)
    x[1, 69] = bad
    got = form(x, weight)
    assert not got[1].isfinite().any()
    keep = [row for row in range(rows) if row != 1]
    assert_near(got[keep], x[keep], weight)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("format", ["q4_1", "q8_0"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("rows", [1, 5, 6, 7, 30])
def test_epilogues(form, format, biased, epilogue, rows):
    weight, x = random_matrix(format, 96 if epilogue in GATED else 87, 130), random_rows(rows, 130)
    bias = random_rows(1, weight.num_rows, seed=5)[0] if biased else None
    out = wanted_out(epilogue, rows, weight)
    expected = qlinear_reference(x, weight, bias, epilogue=epilogue, out=out)
    got = form(x, weight, bias, epilogue=epilogue, out=out)
    assert got is out
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("epilogue", GATED)
def test_gates_follow_their_function_everywhere(form, epilogue):
    gates = torch.cat((torch.linspace(-110, 110, 331), torch.linspace(-1, 1, 101), torch.zeros(1)))
    weight = PackedMatrix.from_float(torch.zeros(32, 1), "q8")
    act = F.silu if epilogue == "silu" else lambda y: F.gelu(y, approximate="tanh")
    for gate in gates:
        bias = torch.cat((gate.expand(16), torch.ones(16)))
        got = form(torch.zeros(1, 1), weight, bias, epilogue=epilogue)[0, 0].double()
        expected = act(gate.double())
        assert abs(got - expected) <= 4e-6 * abs(expected) + 1e-30 + (4e-6 if epilogue == "gelu_tanh" else 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_features", [16, 40, 100])
def test_alternating_rows_make_a_gated_layer(form, num_features):
    gate, up, x = random_rows(num_features, 64, 1), random_rows(num_features, 64, 2), random_rows(9, 64)
    rows = alternating_rows(num_features)
    padded = -(-num_features // 16) * 32
    both = PackedMatrix.from_float(
        torch.cat((gate, up)), "q8", torch.tensor([*rows[0], *rows[1]]).numpy(), num_rows=padded
    )
    apart = [form(x, PackedMatrix.from_float(part, "q8")) for part in (gate, up)]
    got = form(x, both, epilogue="silu")
    torch.testing.assert_close(got[:, :num_features], F.silu(apart[0]) * apart[1], rtol=1e-5, atol=1e-5)
    assert (got[:, num_features:] == 0).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [2, 20])
def test_rows_may_be_apart(form, rows):
    weight = random_matrix("q4_1", 50, 70)
    wide_x, wide_out = random_rows(rows, 200), random_rows(rows, 300, seed=3)
    before = wide_out.clone()
    x, out = wide_x[:, 11:81], wide_out[:, 7:57]
    assert torch.equal(form(x, weight, out=out), form(x.contiguous(), weight))
    wide_out[:, 7:57] = before[:, 7:57]
    assert torch.equal(wide_out, before)


# --- the bits --------------------------------------------------------------------------------------------------------


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 70),
    num_rows=st.integers(1, 100),
    num_inputs=st.sampled_from([1, 32, 33, 300, 700, 1000]),
    threads=st.sampled_from([1, 2, 3]),
    data=st.data(),
)
def test_row_bits_do_not_depend_on_company(isa, format, rows, num_rows, num_inputs, threads, data):
    weight, x = random_matrix(format, num_rows, num_inputs), random_rows(rows, num_inputs)
    start = data.draw(st.integers(0, rows - 1))
    end = data.draw(st.integers(start + 1, rows))
    whole = qlinear(x, weight, isa="baseline", pool=thread_pool(1))
    assert torch.equal(qlinear(x[start:end], weight, isa=isa, pool=thread_pool(threads)), whole[start:end])


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", FORMATS)
def test_bits_hold_across_row_blocks_and_runs(isa, format):
    weight, x = random_matrix(format, 40, 1600), random_rows(500, 1600)
    whole = qlinear(x, weight, isa=isa)
    for rows in (slice(0, 1), slice(191, 194), slice(250, 290), slice(499, 500)):
        assert torch.equal(qlinear(x[rows], weight, isa=ISAS[-1]), whole[rows])


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("threads", [1, 3])
def test_epilogue_bits_do_not_depend_on_company(isa, epilogue, threads):
    weight, x = random_matrix("q4_k", 160, 96), random_rows(20, 96)
    bias, out = random_rows(1, 160, seed=5)[0], wanted_out(epilogue, 20, weight)
    whole = qlinear(x, weight, bias, epilogue=epilogue, out=out.clone(), isa="baseline", pool=thread_pool(1))
    for rows in (slice(0, 1), slice(3, 9), slice(2, 20)):
        part = qlinear(
            x[rows], weight, bias, epilogue=epilogue, out=out[rows].clone(), isa=isa, pool=thread_pool(threads)
        )
        assert torch.equal(part, whole[rows])


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [2, 11])
def test_writes_nothing_past_its_columns(isa, rows):
    weight, x = random_matrix("q4_1", 37, 64), random_rows(rows, 64)
    for epilogue in ("store", "add"):
        wide = torch.full((rows + 2, 37), 7.0)
        qlinear(x, weight, epilogue=epilogue, out=wide[1:-1], isa=isa)
        assert (wide[0] == 7).all()
        assert (wide[-1] == 7).all()
        assert not (wide[1:-1] == 7).any()


# --- the activations -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 9),
    num_inputs=st.integers(1, 100),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-32, 1e-29, 1.0, 1e30]),
)
def test_quantised_rows(rows, num_inputs, seed, scale):
    x = random_rows(rows, num_inputs, seed) * scale
    values, scales = quantise_rows_torch(x)
    assert values.shape == (rows, -(-num_inputs // 32), 32)
    assert (values >= -127).all()
    back = (values.double() * scales.double()[..., None]).flatten(1)
    assert (back[:, num_inputs:] == 0).all()
    allowed = scales.double().repeat_interleave(32, dim=1)[:, :num_inputs] * 0.50001 + 2.0**-100
    assert ((back[:, :num_inputs] - x.double()).abs() <= allowed).all()


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("num_inputs", [1, 31, 32, 33, 576, 1000])
@pytest.mark.parametrize("scale", [1e-32, 1e-30, 1.0, 3e37])
def test_native_quantisation_has_the_same_bits(isa, num_inputs, scale):
    x = random_rows(7, num_inputs) * scale
    x[3] = 0
    x[4] = torch.randint(-127, 128, (num_inputs,)) + 0.5  # ties
    expected = quantise_rows_torch(x)
    for got, wanted in zip(quantise_rows(x, isa=isa), expected, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("num_inputs", [1, 31, 33, 64, 576, 1000])
@pytest.mark.parametrize("threads", [1, 2])
def test_fused_norm_has_the_bits_of_the_separate_one(isa, num_inputs, threads):
    x, weight = random_rows(9, num_inputs + 5)[:, :num_inputs], random_rows(1, num_inputs, seed=4)[0]
    expected = quantise_rows_torch(rms_norm(x.contiguous(), weight, 1e-5))
    got = quantise_rows(x, (weight, 1e-5), isa=isa, pool=thread_pool(threads))
    assert all(torch.equal(*both) for both in zip(got, expected, strict=True))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_does_not_fit_is_refused(form):
    weight, x = random_matrix("q4_1", 40, 64), random_rows(3, 64)
    for bad in (x[:, :63], x.double(), random_rows(64, 3).t(), x[0]):
        with pytest.raises(ValueError, match="x "):
            form(bad, weight)
    with pytest.raises(ValueError, match="bias"):
        form(x, weight, torch.zeros(39))
    with pytest.raises(ValueError, match="out"):
        form(x, weight, out=torch.zeros(3, 41))
    with pytest.raises(ValueError, match="multiple of 32"):
        form(x, weight, epilogue="silu")
    with pytest.raises(ValueError, match="add to"):
        form(x, weight, epilogue="add")
    with pytest.raises(ValueError, match="relu"):
        form(x, weight, epilogue="relu")


@pytest.mark.native
def test_unavailable_instruction_set_is_refused():
    with pytest.raises(ValueError, match="sse9"):
        qlinear(random_rows(1, 32), random_matrix("q4_1", 16, 32), isa="sse9")


# --- activations in two steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("format", FORMATS)
def test_two_steps_leave_almost_nothing_of_the_activations_out(format, rows):
    weight, x = random_matrix(format, 50, 200), torch.randn(rows, 200)
    exact = F.linear(x.double(), weight.dequantise().double())
    room = (x.abs().amax() / 127**2 * weight.dequantise().abs().sum(1)).double()
    assert ((qlinear_fine(x, weight).double() - exact).abs() <= room).all()


def assert_finds_largest(x, weight, **how):
    found = largest_of_fine(x, weight, feature_group_norms(weight), **how)
    for got, expected in zip(found, argmax_rows_torch(qlinear_fine(x, weight)), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.native
@pytest.mark.skipif(not native_available(), reason="the extension is not built")
@settings(max_examples=60)
@given(
    format=st.sampled_from(FORMATS),
    features=st.sampled_from([1, 15, 16, 17, 32, 33, 100, 1000]),
    inputs=st.sampled_from([1, 32, 70, 576]),
    rows=st.sampled_from([0, 1, 2, 7, 9, 64]),
    spread=st.sampled_from([1e-3, 1.0, 30.0]),
    threads=st.sampled_from([1, 2, 3]),
    isa=st.sampled_from(ISAS),
    seed=st.integers(0, 2**31),
)
def test_largest_is_that_of_the_whole_product(format, features, inputs, rows, spread, threads, isa, seed):
    torch.manual_seed(seed)
    weight = random_matrix(format, features, inputs, seed)
    x = torch.randn(rows, inputs) * torch.randn(rows, 1).exp() * spread
    assert_finds_largest(x, weight, pool=thread_pool(threads), isa=isa)


@pytest.mark.native
@pytest.mark.skipif(not native_available(), reason="the extension is not built")
def test_largest_is_the_first_among_equals():
    weight = PackedMatrix.from_float(torch.randn(1, 64).expand(100, 64), "q8")
    assert_finds_largest(torch.randn(9, 64), weight)
    assert_finds_largest(torch.zeros(2, 64), weight)


@pytest.mark.native
@pytest.mark.skipif(not native_available(), reason="the extension is not built")
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_has_nan_as_its_largest(broken):
    weight, x = PackedMatrix.from_float(torch.randn(100, 64), "q8"), torch.randn(3, 64)
    x[1, 40] = broken
    largest, position = largest_of_fine(x, weight, feature_group_norms(weight))
    assert largest.isnan().tolist() == [False, True, False]
    assert (position >= 0).all()
    assert (position < 100).all()
