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
