"""The cyclic garbage collector at times when it only costs: :func:`paused_collection`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collection() -> Iterator[None]:
    """Make many objects that stay; the collector, which would go through them again and again, waits until the end.

    Also a decorator. Leaves the collector as it found it; of two that overlap in threads, the first to end lets it run.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
