"""Names of answers and requests, and the date they carry: the server's only draws of chance and looks at the date."""

from __future__ import annotations

import uuid

from steelyard.core.clock import unix_s


def new_id(prefix: str) -> str:
    """Return a name that nothing else has, such as ``chatcmpl-…``."""
    return f"{prefix}-{uuid.uuid4().hex}"


def unix_seconds() -> int:
    """Return the date in seconds since 1970."""
    return int(unix_s())


def new_call_id(num_chars: int) -> str:
    """Return a name for a tool call: letters and digits alone where they are few, as some templates ask."""
    text = uuid.uuid4().hex[:num_chars]
    return text if num_chars < 16 else f"call_{text}"
