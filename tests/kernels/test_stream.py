"""STREAM on the parallel layer: it computes what STREAM computes, on any number of threads."""

import pytest

from steelyard.core.errors import ResourceError
from steelyard.kernels import stream
from steelyard.kernels.native import native_available
from steelyard.kernels.stream import ARRAYS_MOVED, bytes_moved, run_stream

needs_native = pytest.mark.skipif(not native_available(), reason="the extension is not built")


@pytest.mark.native
@needs_native
@pytest.mark.parametrize("huge_pages", [False, True])
@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 2, 4095, 70_001])
def test_computes_stream(size: int, num_threads: int, huge_pages: bool) -> None:
    times = run_stream(num_threads, size, rounds=4, huge_pages=huge_pages)
    assert times.worst_error == 0.0
    assert list(times.seconds) == list(ARRAYS_MOVED)
    assert all(len(seconds) == 4 and min(seconds) > 0 for seconds in times.seconds.values())


@pytest.mark.native
@needs_native
def test_arrays_that_do_not_fit_are_a_memory_error() -> None:
    for size in (1 << 50, 1 << 61):
        with pytest.raises(MemoryError):
            run_stream(1, size, rounds=1)


def test_counts_bytes_as_stream_does() -> None:
    assert [bytes_moved(kernel, 10) for kernel in ("copy", "scale", "add", "triad")] == [160, 160, 240, 240]


def test_says_what_to_do_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "native_kernels", lambda: None)
    with pytest.raises(ResourceError, match="extension"):
        run_stream(1, 10, rounds=1)
