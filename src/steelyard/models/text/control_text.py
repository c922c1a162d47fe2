"""Finding the texts of control tokens inside a string: leftmost first, and of those that start together the longest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping


class ControlScanner:
    """Splits strings at control-token texts, in time linear in the string and independent of how many texts there are.

    Args:
        ids: control token's text → its id; empty texts are ignored.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = {text: token_id for text, token_id in ids.items() if text}
        lengths: dict[str, set[int]] = {}
        for text in self._ids:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._starts = re.compile("[" + "".join(map(re.escape, sorted(lengths))) + "]") if lengths else None

    def split(self, text: str) -> list[str | int]:
        """Return ``text`` as ordinary strings (never empty) and control token ids, in order."""
        parts: list[str | int] = []
        done = 0
        for start, end in self._matches(text):
            if start > done:
                parts.append(text[done:start])
            parts.append(self._ids[text[start:end]])
            done = end
        if done < len(text):
            parts.append(text[done:])
        return parts

    def _matches(self, text: str) -> Iterator[tuple[int, int]]:
        done = 0
        for found in self._starts.finditer(text) if self._starts else ():
            start = found.start()
            if start >= done:
                done = self._match_end(text, start)
                if done > start:
                    yield start, done

    def _match_end(self, text: str, start: int) -> int:
        """Return where the longest control text at ``start`` ends, or ``start`` if there is none."""
        for length in self._lengths[text[start]]:
            if text[start : start + length] in self._ids:
                return start + length
        return start
