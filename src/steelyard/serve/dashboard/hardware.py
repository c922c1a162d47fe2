"""This machine as the page shows it: described by ``steelyard probe``, or as far as the operating system tells."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from steelyard.core.errors import SteelyardError, StorageError
from steelyard.cost.profile import Profile, profile_of, profile_path
from steelyard.hardware.device import Machine
from steelyard.hardware.this_machine import this_machine

logger = logging.getLogger("steelyard.serve")


class KnownHardware:
    """The stored description of this machine, read again when its file changes.

    Args:
        find_path: says where ``steelyard probe`` keeps it.
    """

    def __init__(self, find_path: Callable[[], Path] = profile_path) -> None:
        self._find_path = find_path
        self._here: Machine | None = None
        self._profile: Profile | None = None
        self._read_at: int | None = None

    def refresh(self) -> bool:
        """Look at the file, and read it if it has changed, which takes milliseconds; return whether it had."""
        changed_at = self._changed_at()
        if changed_at == self._read_at:
            return False
        self._read_at = changed_at
        try:
            self._profile = profile_of(self.machine_here(), self._find_path())
        except SteelyardError as error:
            logger.warning("the description of this machine is ignored: %s", error)
            self._profile = None
        return True

    @property
    def profile(self) -> Profile | None:
        """The description that was read last; ``None`` if nobody has measured this machine."""
        return self._profile

    @property
    def machine(self) -> Machine:
        """The machine as measured, else as the operating system tells of it, without rates."""
        return self.machine_here() if self._profile is None else self._profile.machine

    def machine_here(self) -> Machine:
        """Return what the operating system tells of this machine."""
        if self._here is None:
            self._here = this_machine()
        return self._here

    def _changed_at(self) -> int | None:
        try:
            return self._find_path().stat().st_mtime_ns
        except (OSError, StorageError):  # there is no such file, or no place for it
            return None
