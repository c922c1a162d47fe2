"""Writing keys and values to their slots, with and without rotation, padding included."""

import pytest
import torch
from torch import Tensor

from steelyard.models.rope import rotate

pytest.importorskip("triton.language", reason="Triton is not installed (steelyard[test-gpu])")

from steelyard.kernels.triton.kv_write import NO_SLOT, rotate_and_write_kv, write_kv

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-2, torch.float16: 4e-3}
SLOTS = [3, 9, NO_SLOT, 0]


def random_heads(*heads: int, dim: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return views of one fused projection's rows for five tokens."""
    fused = torch.randn(5, sum(heads) * dim, device=DEVICE).to(dtype)
    return tuple(part.unflatten(-1, (-1, dim)) for part in fused.split([count * dim for count in heads], dim=-1))


def empty_store(width: int, dtype: torch.dtype) -> Tensor:
    return torch.full((12, width), float("nan"), dtype=dtype, device=DEVICE)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(1, 1, 2), (6, 2, 24), (4, 4, 80)])
def test_rows_go_to_their_slots_and_nowhere_else(heads: int, kv_heads: int, dim: int, dtype: torch.dtype) -> None:
    _, k, v = random_heads(heads, kv_heads, kv_heads, dim=dim, dtype=dtype)
    keys, values = (empty_store(kv_heads * dim, dtype) for _ in range(2))
    write_kv(k, v, torch.tensor(SLOTS, device=DEVICE), keys, values)
    for store, part in ((keys, k), (values, v)):
        assert torch.equal(store[[3, 9, 0]], part[[0, 1, 3]].flatten(1))
        assert store.isnan().all(dim=1).sum() == 9


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("dim", "rotated"), [(2, 2), (24, 24), (24, 8), (80, 32)])
def test_rotation_equals_the_models(dim: int, rotated: int, dtype: torch.dtype) -> None:
    q, k, v = random_heads(6, 2, 2, dim=dim, dtype=dtype)
    angles = torch.randn(5, rotated // 2, device=DEVICE)
    cos, sin = torch.cat((angles.cos(),) * 2, -1).to(dtype), torch.cat((-angles.sin(), angles.sin()), -1).to(dtype)
    wide = (cos.double()[:, None], sin.double()[:, None])
    expected_q, expected_k, before = rotate(q.double(), wide), rotate(k.double(), wide), q.clone()
    keys, values = (empty_store(2 * dim, dtype) for _ in range(2))
    rotate_and_write_kv(q, k, v, cos, sin, torch.tensor(SLOTS, device=DEVICE), keys, values)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(q[[0, 1, 3]].double(), expected_q[[0, 1, 3]], rtol=tolerance, atol=tolerance)
    assert torch.equal(q[[2, 4]], before[[2, 4]]), "padding stays as it is"
    stored = keys[[3, 9, 0]].double().unflatten(-1, (2, dim))
    torch.testing.assert_close(stored, expected_k[[0, 1, 3]], rtol=tolerance, atol=tolerance)
    assert torch.equal(values[[3, 9, 0]], v[[0, 1, 3]].flatten(1))
    assert keys.isnan().all(dim=1).sum() == values.isnan().all(dim=1).sum() == 9


def test_nothing_to_write_is_no_work() -> None:
    k, v = random_heads(2, 2, dim=4, dtype=torch.float32)
    keys = empty_store(8, torch.float32)
    write_kv(k[:0], v[:0], torch.zeros(0, dtype=torch.int64, device=DEVICE), keys, keys)
    assert keys.isnan().all()
