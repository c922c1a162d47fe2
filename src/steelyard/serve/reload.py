"""The configuration taken anew while the server runs: :class:`ConfigWatch`.

SIGHUP asks for it, and so does a change of the files it came from. What is wrong with the new one is logged, and the
old one stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from steelyard.core.errors import SteelyardError
from steelyard.serve.config import ServeConfig

logger = logging.getLogger("steelyard.serve")

POLL_S = 1.0
_Stamp = tuple[int, int] | None


class ConfigWatch:
    """Loads the configuration again when it may have changed.

    Args:
        load: reads everything it is made of.
        paths: of the files among them.
        apply: is given each new configuration; what it raises leaves the old one as it was.
    """

    def __init__(
        self, load: Callable[[], ServeConfig], paths: Sequence[str], apply: Callable[[ServeConfig], None]
    ) -> None:
        self._load, self._apply = load, apply
        self._paths = tuple(Path(path) for path in paths)
        self._seen = self._stamps()
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Load it soon, whether or not a file has changed. To be called on the event loop."""
        self._asked.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._asked.wait()
            except TimeoutError:
                pass
            stamps = self._stamps()
            if self._asked.is_set() or stamps != self._seen:
                self._asked.clear()
                self._seen = stamps
                self._reload()

    def _reload(self) -> None:
        try:
            self._apply(self._load())
        except SteelyardError as error:
            logger.error("the configuration stays as it was: %s", error)
        except Exception:
            logger.exception("the configuration stays as it was")

    def _stamps(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> _Stamp:
    """Return what changes when a file does; ``None`` while it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
