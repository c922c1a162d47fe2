"""Zeroed memory on huge pages."""

import mmap
from pathlib import Path

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


def test_lies_on_huge_pages_where_the_system_gives_them() -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        pytest.skip("no transparent huge pages")
    memory = zeroed_huge_pages(64 << 20)
    memory.fill_(1)
    assert huge_bytes_at(memory.data_ptr()) >= 32 << 20


def huge_bytes_at(address: int) -> int:
    """Return the bytes on huge pages of the mapping that holds ``address``."""
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            start, end = (int(part, 16) for part in first.split("-"))
            found = start <= address < end
        elif found and first == "AnonHugePages:":
            return int(line.split()[1]) << 10
    return 0
