"""Answers that clients may ask for again, or go on from: :class:`AnswerStore`, in memory and bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.serve.errors import NOT_FOUND, ApiError


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """An answer and what led to it.

    Attributes:
        body: as it was sent.
        turns: the conversation, this answer the last of it.
    """

    body: Mapping[str, Any]
    turns: tuple[Mapping[str, Any], ...]

    @property
    def num_chars(self) -> int:
        """About what it takes."""
        return sum(_num_chars(turn) for turn in self.turns) + len(str(self.body))


def _num_chars(turn: Mapping[str, Any]) -> int:
    return len(turn["content"]) + (len(str(turn["tool_calls"])) if "tool_calls" in turn else 0)


class AnswerStore:
    """Keeps answers until newer ones need their place. Each caller sees its own alone.

    Args:
        max_chars: of all answers and conversations together.
    """

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._answers: OrderedDict[tuple[str, str], StoredAnswer] = OrderedDict()  # by caller and id, oldest first
        self._num_chars = 0

    def put(self, caller: str, id: str, answer: StoredAnswer) -> None:
        """Keep an answer; the oldest give way, and one that is larger than all the place is not kept."""
        self._answers[caller, id] = answer
        self._num_chars += answer.num_chars
        while self._num_chars > self._max_chars:
            _, oldest = self._answers.popitem(last=False)
            self._num_chars -= oldest.num_chars

    def get(self, caller: str, id: str, field: str = "response_id") -> StoredAnswer:
        """Return a caller's answer.

        Raises:
            ApiError: 404, naming ``field``, if the caller has none of this name, or no longer.
        """
        found = self._answers.get((caller, id))
        if found is None:
            message = f"{field}: there is no such answer, or it is no longer kept. Send the whole conversation."
            raise ApiError(404, message, kind=NOT_FOUND, param=field, code="not_found")
        return found

    def has(self, caller: str, id: str) -> bool:
        """Return whether a caller's answer is kept."""
        return (caller, id) in self._answers

    def remove(self, caller: str, id: str) -> None:
        """Forget a caller's answer.

        Raises:
            ApiError: 404 as :meth:`get` does.
        """
        self._num_chars -= self.get(caller, id).num_chars
        del self._answers[caller, id]
