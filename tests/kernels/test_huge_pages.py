"""Zeroed memory on huge pages."""

import mmap

import pytest

from steelyard.kernels.huge_pages import zeroed_huge_pages


@pytest.mark.parametrize("num_bytes", [0, 1, 4097, 5 << 20])
def test_is_zero_writable_and_as_long_as_asked(num_bytes: int) -> None:
    memory = zeroed_huge_pages(num_bytes)
    assert memory.shape == (num_bytes,)
    assert not memory.any()
    memory.fill_(7)
    assert memory.sum().item() == 7 * num_bytes


def test_begins_at_a_page_and_is_its_own() -> None:
    first, second = zeroed_huge_pages(100), zeroed_huge_pages(100)
    first.fill_(1)
    assert first.data_ptr() % mmap.PAGESIZE == 0
    assert not second.any()
