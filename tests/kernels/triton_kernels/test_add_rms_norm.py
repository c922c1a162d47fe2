"""The fused sum and norm against float64 and against the separate operations."""

import pytest
import torch

from steelyard.kernels.rms_norm import rms_norm_torch

pytest.importorskip("triton.language", reason="Triton is not installed (steelyard[test-gpu])")

from steelyard.kernels.triton.add_rms_norm import add_rms_norm, add_rms_norm_reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-2, torch.float16: 4e-3}


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (3, 70), (5, 576), (2, 4096)])
def test_sum_and_norm_equal_float64(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x, residual = (torch.randn(shape, device=DEVICE).to(dtype) for _ in range(2))
    weight = torch.randn(shape[1], device=DEVICE).to(dtype)
    total, normed = add_rms_norm(x, residual, weight, 1e-5)
    assert total.dtype == normed.dtype == dtype
    wide_total, wide_normed = add_rms_norm_reference(x.double(), residual.double(), weight.double(), 1e-5)
    torch.testing.assert_close(total.double(), wide_total, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    torch.testing.assert_close(normed.double(), wide_normed, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_it_rounds_as_the_separate_operations_do() -> None:
    x, residual, weight = torch.randn(4, 96).half(), torch.randn(4, 96).half(), torch.randn(96).half()
    total, normed = (part.cpu() for part in add_rms_norm(x.to(DEVICE), residual.to(DEVICE), weight.to(DEVICE), 1e-5))
    assert torch.equal(total, x + residual)
    separate = rms_norm_torch(x + residual, weight, 1e-5)
    assert (normed == separate).float().mean() > 0.95, "but for a last bit of the float32 root"


def test_a_row_keeps_its_bits_in_company() -> None:
    x, residual, weight = (torch.randn(shape, device=DEVICE) for shape in ((9, 100), (9, 100), (100,)))
    together = add_rms_norm(x, residual, weight, 1e-5)[1]
    assert torch.equal(add_rms_norm(x[4:5], residual[4:5], weight, 1e-5)[1], together[4:5])
