"""The fused gate against float64."""

import pytest
import torch

pytest.importorskip("triton.language", reason="Triton is not installed (steelyard[test-gpu])")

from steelyard.kernels.triton.swiglu import swiglu, swiglu_reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (3, 70), (2, 1536), (1, 2049)])
def test_it_equals_float64(shape: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    gate_up = (3 * torch.randn(shape[0], 2 * shape[1], device=DEVICE)).to(dtype)
    out = swiglu(gate_up)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), swiglu_reference(gate_up.double()), rtol=tolerance, atol=tolerance)


def test_far_ends_stay_finite() -> None:
    gate_up = torch.tensor([[-200.0, 200.0, 2.0, 3.0]], device=DEVICE)
    assert swiglu(gate_up).tolist() == [[pytest.approx(0.0), 600.0]]
