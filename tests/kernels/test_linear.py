"""Prepared linears: right numbers, and rows that do not depend on their neighbours."""

import pytest
import torch
from torch import nn

from steelyard.kernels.linear import ROW_TILES, can_pack, find_row_tile, prepare_linears, smallest_stable_tile


@pytest.mark.parametrize("shape", [(3, 5), (64, 96), (576, 1536), (37, 53)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 64])
def test_prepared_linear_equals_float64(shape: tuple[int, int], bias: bool, rows: int) -> None:
    model = nn.Sequential(nn.Linear(*shape, bias=bias))
    x = torch.randn(rows, shape[0])
    expected = nn.functional.linear(x.double(), model[0].weight.double(), model[0].bias.double() if bias else None)
    prepare_linears(model)
    assert not isinstance(model[0], nn.Linear)
    torch.testing.assert_close(model(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 192), (576, 960), (1536, 576), (2048, 192)])
def test_rows_keep_their_bits_in_any_company(shape: tuple[int, int], dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(*shape, bias=False, dtype=dtype))
    prepare_linears(model)
    x = torch.randn(130, shape[0]).to(dtype)
    whole = model(x)
    for rows in (1, 2, 3, 8, 44, 63, 64, 129):
        assert torch.equal(model(x[:rows]), whole[:rows]), rows
    assert torch.equal(model(x[57:58]), whole[57:58]), "the place in the batch must not matter"


def test_every_linear_below_is_replaced() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Sequential(nn.ReLU(), nn.ModuleList([nn.Linear(4, 2)]))})
    prepare_linears(model)
    assert not any(type(module) is nn.Linear for name, module in model.named_modules() if "linear" not in name)


def test_smallest_stable_tile_finds_the_period_of_an_unstable_kernel() -> None:
    def unstable(x: torch.Tensor) -> torch.Tensor:
        return x * (2.0 if len(x) % 8 == 0 else 1.0)

    assert smallest_stable_tile(unstable, torch.ones(160, 1)) == 8
    assert smallest_stable_tile(lambda x: x * len(x), torch.ones(160, 1)) == ROW_TILES[-1]
    assert smallest_stable_tile(lambda x: x + 1, torch.ones(160, 1)) == 1


def test_found_row_tile_is_one_of_the_known() -> None:
    assert find_row_tile(((64, 64),), torch.float32, torch.get_num_threads()) in ROW_TILES


def test_packing_is_for_cpu_floats_only() -> None:
    assert not can_pack(torch.device("cpu"), torch.float64)
    assert not can_pack(torch.device("meta"), torch.float32)
