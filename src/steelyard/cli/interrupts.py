"""What Ctrl-C does in each phase of a command's life.

While modules are imported, and once a command has ended, nothing is there to clean up, and an exception raised inside a
half-done import can surface as anything: the process leaves at once. Only while a command runs is Ctrl-C an exception.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130


def leave_on_interrupt() -> None:
    """From now on, end the process on Ctrl-C, silently and at once, with exit code 130."""
    if _is_ours():
        signal.signal(signal.SIGINT, _leave)


def raise_on_interrupt() -> None:
    """From now on, raise ``KeyboardInterrupt`` in the main thread on Ctrl-C."""
    if _is_ours():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_ours() -> bool:
    """Whether Ctrl-C is meant for this process: a shell lets its background jobs ignore it."""
    return signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    del signum, frame
    os._exit(INTERRUPTED)
