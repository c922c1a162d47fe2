"""S01's three ways of attending agree, and its table says what was measured."""

import pytest
import torch

from steelyard.core.errors import InputError
from steelyard.kernels.native import native_available
from steelyard.reproduce import s01
from steelyard.reproduce.options import ReproduceOptions
from steelyard.reproduce.s01 import DIM, HEADS, KV_HEADS, Outcome, error_of, fused, naive, native, rows


@pytest.mark.native
@pytest.mark.skipif(not native_available(), reason="the extension is not built")
@pytest.mark.parametrize("length", [64, 100, 700])
def test_the_three_ways_agree(length: int) -> None:
    q = torch.randn(length, HEADS, DIM)
    k, v = torch.randn(2, length, KV_HEADS, DIM)
    out = native(q, k, v)()
    torch.testing.assert_close(naive(q, k, v)().transpose(0, 1), out, rtol=0, atol=2e-5)
    torch.testing.assert_close(fused(q, k, v)()[0].transpose(0, 1), out, rtol=0, atol=2e-5)
    assert error_of(out, q, k, v) < 1e-5
    assert error_of(out + 1, q, k, v) > 0.9


def test_the_table_compares_native_with_both_others() -> None:
    outcomes = [Outcome(256, 1.0, 4.0, 2.0, 1e-6), Outcome(1024, 1.0, 8.0, 3.0, 2e-6)]
    table = rows(outcomes)
    assert [row.ratio for row in table] == [4.0, 2.0, 8.0, 3.0, None, None]
    assert "4.00 MiB" in table[-2].ours
    assert table[-1].ours == "2.0e-06"


def test_needs_the_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s01, "native_layout_exists", lambda *_: False)
    with pytest.raises(InputError):
        s01.reproduce(ReproduceOptions(model="any"))
