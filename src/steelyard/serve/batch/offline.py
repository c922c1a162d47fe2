"""A batch without a server: :func:`answer_file` reads one file and writes another, and can be killed in between.

What is done by then lies beside the output, in a store of its own; the same call goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from steelyard.core.errors import InputError, StorageError
from steelyard.serve.app import create_app
from steelyard.serve.batch.calls import BlockingCalls
from steelyard.serve.batch.files import write_atomically
from steelyard.serve.batch.lines import LineError, find_faults, numbered_lines, read_line, read_lines
from steelyard.serve.batch.order import line_order
from steelyard.serve.batch.results import result_line
from steelyard.serve.batch.sender import LineSender
from steelyard.serve.batch.store import Store
from steelyard.serve.batch.types import ENDPOINTS, Answer, Batch, BatchStatus, Fault, Line
from steelyard.serve.batch.worker import Seats, Worker
from steelyard.serve.config import ServeConfig
from steelyard.serve.identity import unix_seconds
from steelyard.serve.pool import ModelSource
from steelyard.serve.service import Service

_ID = "batch_of_file"
_MAX_LINES = 100_000_000
# So many lines are on their way that none of the engine's seats is ever empty.
_LINES_PER_SEAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJob:
    """One file to be answered.

    Attributes:
        input: JSON Lines, as OpenAI's batches take them.
        output: what becomes of it; it appears when everything is done.
    """

    input: Path
    output: Path

    @property
    def state(self) -> Path:
        """The store of what is done so far."""
        return self.output.with_name(self.output.name + ".state")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Whom to tell.

    Attributes:
        begin: called with the number of lines, and of those done by earlier runs.
        answers: called with what has been committed.
    """

    begin: Callable[[int, int], None]
    answers: Callable[[Sequence[Answer]], None]


def open_job(job: FileJob, model: str) -> Store:
    """Return the job's store, which has its one batch, validated; close it in the end.

    Raises:
        InputError: if the input is wrong, has changed since the job was begun, or the output is there already.
        StorageError: if files cannot be read or written, or another process works on the job.
    """
    if not job.state.exists() and job.output.exists():
        problem = "it is there already"
        raise InputError(problem, field=str(job.output), remedy="Remove it, or give another path for the output")
    identity = {"input_sha256": _sha256(job.input), "model": model}
    endpoint = _endpoint(job.input)
    if not job.state.exists():
        _check(job.input, endpoint)
    store = Store(str(job.state))
    try:
        batch = store.batch(_ID)
        if batch is None:
            batch = _new_batch(job, endpoint, identity)
            store.add_batch(batch)
        _check_same(job, batch.metadata or {}, identity)
        if batch.status is BatchStatus.VALIDATING:
            _check(job.input, endpoint)
            store.begin(_ID, read_lines(job.input), unix_seconds())
    except BaseException:
        store.close()
        raise
    return store


async def answer_file(
    job: FileJob, store: Store, config: ServeConfig, source: ModelSource, progress: Progress
) -> Batch:
    """Answer what is not answered yet, write the output, and return the batch as it has ended.

    Raises:
        SteelyardError: if the model cannot be loaded, or a file not be written.
    """
    service = Service(config, source)
    app, calls = create_app(service, config), BlockingCalls()
    try:
        await service.start()
        if service.startup_error is not None:
            raise service.startup_error
        begun = _batch(store)
        progress.begin(begun.num_lines, begun.num_completed + begun.num_failed)
        seats = Seats(config.batch.concurrency or _LINES_PER_SEAT * config.engine.max_num_seqs, lambda: False)
        worker = Worker(
            store,
            calls,
            LineSender(app),
            _Sheet(job, store),
            seats,
            order=line_order(config.batch.order),
            now=unix_seconds,
            on_answers=lambda _, answers: progress.answers(answers),
        )
        await worker.carry(_ID)
    finally:
        await service.close()
        calls.close()
    return _batch(store)


def forget(job: FileJob) -> None:
    """Remove the store of a job that has its output."""
    for suffix in ("-wal", "-shm", ""):  # the store itself last: it says that there is a job
        job.state.with_name(job.state.name + suffix).unlink(missing_ok=True)


class _Sheet:
    """The input and output of one job."""

    def __init__(self, job: FileJob, store: Store) -> None:
        self._job, self._store = job, store

    def faults(self, batch: Batch) -> Sequence[Fault]:
        return find_faults(self._job.input, batch.endpoint, _MAX_LINES)

    def lines(self, batch: Batch) -> Iterable[Line]:
        del batch
        return read_lines(self._job.input)

    def finalise(self, batch: Batch, at: int) -> None:
        write_atomically(self._job.output, (result_line(batch, one) for one in self._store.outcomes(batch.id)))
        self._store.end(batch.id, BatchStatus.COMPLETED, at, only_from=batch.status, results=(None, None))


def _batch(store: Store) -> Batch:
    batch = store.batch(_ID)
    assert batch is not None, "the job was opened"
    return batch


def _new_batch(job: FileJob, endpoint: str, identity: dict[str, str]) -> Batch:
    return Batch(
        id=_ID,
        owner="file",
        cache_salt="",
        endpoint=endpoint,
        input_file_id=job.input.name,
        completion_window="none",
        created_at=unix_seconds(),
        expires_at=None,
        metadata=identity,
    )


def _check_same(job: FileJob, begun: Mapping[str, str], identity: Mapping[str, str]) -> None:
    """Raise :class:`InputError` unless the job goes on with what it was begun with."""
    for name, field in (("input_sha256", str(job.input)), ("model", "--model")):
        if begun[name] != identity[name]:
            what = "the file has changed" if name == "input_sha256" else f"it was {begun[name]}"
            remedy = f"Restore it, or remove {job.state} to begin anew"
            raise InputError(f"{what} when this job was begun", field=field, remedy=remedy)


def _check(path: Path, endpoint: str) -> None:
    faults = find_faults(path, endpoint, _MAX_LINES)
    if faults:
        first, more = faults[0], f" (and {len(faults) - 1} more lines)" if len(faults) > 1 else ""
        where = str(path) if first.line is None else f"{path}, line {first.line}"
        raise InputError(first.message.rstrip(".") + more, field=where, remedy="Correct the file")


def _endpoint(path: Path) -> str:
    """Return where the first line goes: all others must go there, too."""
    try:
        url = next((read_line(number, text)[1] for number, text in numbered_lines(path)), "")
    except LineError as error:
        fault: Fault = error.args[0]
        raise InputError(
            fault.message.rstrip("."), field=f"{path}, line {fault.line}", remedy="Correct the file"
        ) from None
    if url not in ENDPOINTS:
        problem = f"its lines go to {url!r:.80}" if url else "the file has no lines"
        raise InputError(problem, field=str(path), remedy=f"Give lines whose url is {' or '.join(ENDPOINTS)}")
    return url


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise InputError("there is no such file", field=str(path), remedy="Check the path")
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
        raise StorageError(problem, field=str(path), remedy="Check the permission to read it") from error
