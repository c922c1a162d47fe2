"""Public text that every machine with Python and Debian's base files has, in a fixed order.

Python's language reference (as ``help()`` shows it) and the licences of Debian's ``base-files``. Left out: anything
that must be fetched.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

LICENCES = Path("/usr/share/common-licenses")


@dataclass(frozen=True, slots=True)
class Source:
    """A text and where it comes from."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Equal pieces of the corpus, as token ids.

    Attributes:
        sha256: of all their ids, hexadecimal: equal hashes were measured on equal tokens.
    """

    token_ids: tuple[tuple[int, ...], ...]
    sources: tuple[str, ...]
    sha256: str


def sources() -> list[Source]:
    """Return the texts in their order; links and copies among the licences count once."""
    reference = "\n\n".join(topics[key] for key in sorted(topics))
    found = [Source(f"Python {platform.python_version()} language reference", reference)]
    files = sorted(LICENCES.glob("*")) if LICENCES.is_dir() else []
    found += [Source(str(file), file.read_text(errors="replace")) for file in files if not file.is_symlink()]
    return found


def windows(texts: Sequence[Source], encode: Callable[[str], Sequence[int]], *, length: int, tokens: int) -> Windows:
    """Cut the texts into windows of ``length`` tokens and take about ``tokens`` tokens, spread evenly over all.

    Raises:
        ValueError: if the texts are too short.
    """
    ids = [token for source in texts for token in encode(source.text)]
    starts = range(0, len(ids) - length + 1, length)
    wanted = -(-tokens // length)
    if wanted > len(starts):
        raise ValueError(f"the texts have {len(ids)} tokens, {wanted} windows of {length} were asked for")
    taken = tuple(
        tuple(ids[start : start + length]) for start in (starts[i * len(starts) // wanted] for i in range(wanted))
    )
    digest = hashlib.sha256(repr(taken).encode()).hexdigest()
    return Windows(token_ids=taken, sources=tuple(source.name for source in texts), sha256=digest)
