"""What a user's word for the KV cache's numbers means."""

import pytest
import torch

from steelyard.core.errors import ParamsError
from steelyard.engine.build import resolve_kv_cache_dtype
from steelyard.kernels.paged_attention import multiplies_bfloat16


def test_auto_is_the_models_dtype_on_the_pytorch_path() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert resolve_kv_cache_dtype("auto", dtype, native=False) is dtype


def test_auto_halves_float32_in_the_native_layout() -> None:
    expected = torch.bfloat16 if multiplies_bfloat16() else torch.float16
    assert resolve_kv_cache_dtype("auto", torch.float32, native=True) is expected
    assert resolve_kv_cache_dtype("auto", torch.float16, native=True) is torch.float16


@pytest.mark.parametrize(("name", "native"), [("int4", True), ("int8", False), ("float16", False)])
def test_what_cannot_be_is_refused(name: str, native: bool) -> None:
    with pytest.raises(ParamsError) as error:
        resolve_kv_cache_dtype(name, torch.float32, native=native)
    assert error.value.field == "kv_cache_dtype"
