"""What one completion says as it grows, text and calls apart, for every dialect: :class:`AnswerReader`."""

from __future__ import annotations

from steelyard.serve.tools.plan import ToolPlan
from steelyard.serve.tools.reader import TextPiece, ToolPiece


class AnswerReader:
    """Reads a completion's text; without tools all of it is text.

    Args:
        plan: of the request; ``None`` if it has no tools.
    """

    def __init__(self, plan: ToolPlan | None) -> None:
        self._reader = None if plan is None else plan.reader()

    @property
    def has_called(self) -> bool:
        """Whether there is a call so far."""
        return self._reader is not None and self._reader.num_calls > 0

    def feed(self, text: str, *, ended: bool = False) -> list[ToolPiece]:
        """Return what more text says; with ``ended``, it is the last."""
        if self._reader is None:
            return [TextPiece(text)] if text else []
        return [*self._reader.feed(text), *(self._reader.close() if ended else ())]
