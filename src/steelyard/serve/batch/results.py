"""What is written in the end: one line of output for each line of input, as OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

from steelyard.serve.batch.types import Batch, BatchStatus, LineState, Outcome
from steelyard.serve.sse import to_json

_UNDONE = {
    BatchStatus.FINALIZING: ("batch_expired", "This line had no answer when the completion window was over."),
    BatchStatus.CANCELLING: ("batch_cancelled", "This line had no answer when the batch was cancelled."),
}


def result_line(batch: Batch, outcome: Outcome) -> bytes:
    """Return the line of output for one line of input."""
    answer = outcome.answer
    told: dict[str, Any] = {
        "id": "batch_req_" + sha256(f"{batch.id}/{outcome.number}".encode()).hexdigest()[:32],
        "custom_id": outcome.custom_id,
        "response": None,
        "error": None,
    }
    if answer is None:
        code, message = _UNDONE[batch.status]
        told["error"] = {"code": code, "message": message}
    else:
        body = json.loads(answer.body)
        told["response"] = {"status_code": answer.status, "request_id": answer.request_id, "body": body}
    return to_json(told).encode() + b"\n"


def is_completed(outcome: Outcome) -> bool:
    """Whether the line was answered with status 200."""
    return outcome.answer is not None and outcome.answer.state is LineState.COMPLETED


def result_lines(batch: Batch, outcomes: Iterable[Outcome], *, completed: bool) -> Iterator[bytes]:
    """Yield the lines of the output file, or of the error file."""
    for outcome in outcomes:
        if is_completed(outcome) is completed:
            yield result_line(batch, outcome)
