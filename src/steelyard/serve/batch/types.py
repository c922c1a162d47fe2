"""The nouns of batch jobs: :class:`Batch`, its :class:`Line` s, their :class:`Answer` s, and :class:`StoredFile`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class BatchStatus(StrEnum):
    """How far a batch is, in OpenAI's words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED = frozenset({BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})


class LineState(StrEnum):
    """What has become of a line; one that is being computed still waits."""

    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address that lines can be sent to.

    Attributes:
        samples: its answers are drawn by chance, and its requests take a ``seed``.
    """

    samples: bool


ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(samples=True),
    "/v1/completions": Endpoint(samples=True),
    "/v1/embeddings": Endpoint(samples=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with an input file.

    Attributes:
        code: a word for programs.
        message: for people.
        line: counted from 1; ``None`` for the file as a whole.
        param: the line's field at fault.
    """

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One request of a batch.

    Attributes:
        number: of the input's line, counted from 1.
        custom_id: what its sender calls it.
        body: of the request, JSON in ASCII.
    """

    number: int
    custom_id: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a line came to.

    Attributes:
        number: of the line.
        status: of HTTP.
        request_id: what the server's log calls it.
        body: JSON.
    """

    number: int
    status: int
    request_id: str
    body: str

    @property
    def state(self) -> LineState:
        """What the line becomes."""
        return LineState.COMPLETED if self.status == 200 else LineState.FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A line in the end.

    Attributes:
        number: of the line.
        custom_id: what its sender calls it.
        answer: ``None`` if there was no time for one.
    """

    number: int
    custom_id: str
    answer: Answer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One job.

    Attributes:
        id: its name.
        owner: the principal whose it is.
        cache_salt: that principal's.
        endpoint: a key of :data:`ENDPOINTS`.
        input_file_id: where its lines come from.
        completion_window: the time it may take, as it was asked for.
        created_at: seconds since 1970, as all its times.
        expires_at: lines that are not done by then are given up; ``None`` for never.
        metadata: its sender's own.
        status: how far it is.
        stamps: status → when it was reached.
        faults: why it has failed.
        output_file_id: answers, once it has ended.
        error_file_id: lines that came to an error, once it has ended; ``None`` if there are none.
        num_lines: of the input.
        num_completed: of them, answered with status 200.
        num_failed: of them, ended otherwise.
    """

    id: str
    owner: str
    cache_salt: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int | None
    metadata: Mapping[str, str] | None = None
    status: BatchStatus = BatchStatus.VALIDATING
    stamps: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    num_lines: int = 0
    num_completed: int = 0
    num_failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file that the server keeps.

    Attributes:
        id: its name, of the server's making.
        owner: the principal whose it is.
        purpose: ``batch`` for inputs, ``batch_output`` for what came of them.
        filename: what its sender called it; for people only, no path is made of it.
        num_bytes: its size.
        created_at: seconds since 1970.
    """

    id: str
    owner: str
    purpose: str
    filename: str
    num_bytes: int
    created_at: int
