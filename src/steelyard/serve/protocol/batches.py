"""``/v1/batches``: what clients ask for, and what they are told."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import StringConstraints

from steelyard.serve.batch.types import ENDPOINTS, Batch
from steelyard.serve.errors import invalid
from steelyard.serve.protocol.wire import WireModel

_WINDOW = re.compile(r"([0-9]{1,5})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_WINDOW_S = 30 * 86400
_MAX_METADATA = 16
_STAMPS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class BatchRequest(WireModel):
    """The body of ``POST /v1/batches``."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: (
        dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]] | None
    ) = None

    def check(self) -> None:
        """Raise :class:`ApiError` if a field has no meaning here."""
        if self.endpoint not in ENDPOINTS:
            message = f"endpoint: batches cannot go there. Give one of {', '.join(ENDPOINTS)}."
            raise invalid(message, param="endpoint")
        if not 0 < self.window_s <= _MAX_WINDOW_S:
            message = "completion_window: it is no time up to 30 days. Give one such as 24h."
            raise invalid(message, param="completion_window")
        if len(self.metadata or {}) > _MAX_METADATA:
            raise invalid(f"metadata: there are more than {_MAX_METADATA} entries.", param="metadata")

    @property
    def window_s(self) -> int:
        """The seconds that the batch may take; 0 if that cannot be read."""
        found = _WINDOW.fullmatch(self.completion_window)
        return 0 if found is None else int(found[1]) * _UNIT_S[found[2]]


def batch_answer(batch: Batch) -> dict[str, Any]:
    """Return what a client is told of a batch."""
    faults = [
        {"code": fault.code, "line": fault.line, "message": fault.message, "param": fault.param}
        for fault in batch.faults
    ]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        **{f"{name}_at": batch.stamps.get(name) for name in _STAMPS},
        "request_counts": {"total": batch.num_lines, "completed": batch.num_completed, "failed": batch.num_failed},
        "metadata": batch.metadata,
    }
