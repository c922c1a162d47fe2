"""What routes ask for files and batches: :class:`Office`, the one who knows store, files and worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from starlette.types import ASGIApp

from steelyard.core.errors import ParamsError
from steelyard.serve.batch.calls import BlockingCalls
from steelyard.serve.batch.files import FileRoom
from steelyard.serve.batch.lines import MAX_LINES, find_faults, read_lines
from steelyard.serve.batch.order import line_order
from steelyard.serve.batch.results import result_lines
from steelyard.serve.batch.sender import LineSender
from steelyard.serve.batch.store import Store
from steelyard.serve.batch.tables import database_url
from steelyard.serve.batch.types import ENDED, Batch, BatchStatus, Fault, Line, StoredFile
from steelyard.serve.batch.worker import OnAnswers, Seats, Worker
from steelyard.serve.config import BatchConfig
from steelyard.serve.errors import NOT_FOUND, ApiError, busy, invalid
from steelyard.serve.identity import new_id
from steelyard.serve.keys import Principal

BATCH, BATCH_OUTPUT = "batch", "batch_output"
_RETRY_S = 60.0


class Office:
    """Files and batches of all callers; nobody sees another's. Use it within one event loop.

    Args:
        config: where things are kept.
        now: returns the date, seconds since 1970.

    Raises:
        SteelyardError: if the store or the directory cannot be opened.
    """

    def __init__(self, config: BatchConfig, now: Callable[[], int]) -> None:
        assert config.store is not None
        self._config, self._now = config, now
        self._room = FileRoom(files_directory(config))
        self._store, self._calls = Store(config.store), BlockingCalls()
        self._room.sweep(self._store.file_ids())
        self._worker: Worker | None = None
        self._working: asyncio.Task[None] | None = None

    def start(
        self, app: ASGIApp, num_seats: int, is_busy: Callable[[], bool], on_answers: OnAnswers = lambda *_: None
    ) -> None:
        """Begin to work: what a process before this one left undone first.

        Args:
            app: answers lines.
            num_seats: lines that it is sent at once.
            is_busy: whether people are waiting for answers.
            on_answers: called with a batch and what has been committed of it.
        """
        order = line_order(self._config.order)
        paper, seats = _Folder(self._store, self._room), Seats(num_seats, is_busy)
        sender = LineSender(app)
        self._worker = Worker(
            self._store, self._calls, sender, paper, seats, order=order, now=self._now, on_answers=on_answers
        )
        self._working = asyncio.get_running_loop().create_task(self._worker.run())

    def stop(self) -> None:
        """Send no more lines, and drop those on their way: they still wait in the store."""
        if self._working is not None:
            self._working.cancel()

    async def close(self) -> None:
        """Stop, and give the store up."""
        self.stop()
        if self._working is not None:
            await asyncio.wait({self._working})
        self._calls.close()
        self._store.close()

    async def add_file(self, owner: Principal, filename: str, pieces: Iterable[bytes]) -> StoredFile:
        """Keep an input file.

        Raises:
            ApiError: 400 if the owner's files would take more than they may; nothing is kept then.
        """
        name, at = new_id("file"), self._now()
        num_bytes = await self._calls(self._room.write, name, pieces)
        stored = await self._calls(self._store.num_stored_bytes, owner.name)
        if stored + num_bytes > self._config.max_stored_bytes:
            await self._calls(self._room.delete, name)
            limit = f"{self._config.max_stored_bytes} bytes that one key may store"
            message = f"file: {stored} and {num_bytes} bytes are over the {limit}. Delete files that you do not need."
            raise invalid(message, param="file", code="storage_limit_exceeded")
        file = StoredFile(
            id=name, owner=owner.name, purpose=BATCH, filename=filename, num_bytes=num_bytes, created_at=at
        )
        await self._calls(self._store.add_file, file)
        return file

    async def file(self, owner: Principal, id: str) -> StoredFile:
        """Return a file.

        Raises:
            ApiError: 404 if there is none of this name that is the owner's.
        """
        file = await self._calls(self._store.file, id)
        if file is None or file.owner != owner.name:
            raise _no_such("file", id)
        return file

    async def files(
        self, owner: Principal, *, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> list[StoredFile]:
        """Return up to ``limit`` files behind the one called ``after``."""
        return await self._calls(
            self._store.files, owner.name, purpose=purpose, after=after, limit=limit, newest_first=newest_first
        )

    async def content(self, owner: Principal, id: str) -> tuple[StoredFile, Path]:
        """Return a file and where it lies; raises as :meth:`file` does."""
        file = await self.file(owner, id)
        return file, self._room.path(file.id)

    async def delete_file(self, owner: Principal, id: str) -> None:
        """Delete a file; batches that have begun do not need it any more. Raises as :meth:`file` does."""
        file = await self.file(owner, id)
        await self._calls(self._store.delete_file, file.id)
        await self._calls(self._room.delete, file.id)

    async def add_batch(
        self,
        owner: Principal,
        *,
        endpoint: str,
        input_file_id: str,
        window: str,
        window_s: int,
        metadata: dict[str, str] | None,
    ) -> Batch:
        """Take a new batch.

        Raises:
            ApiError: 404 or 400 if its input is none, 429 if the owner has too many that have not ended.
        """
        file = await self.file(owner, input_file_id)
        if file.purpose != BATCH:
            message = f"input_file_id: its purpose is {file.purpose}. Upload a file with the purpose batch."
            raise invalid(message, param="input_file_id")
        at = self._now()
        batch = Batch(
            id=new_id("batch").replace("-", "_"),
            owner=owner.name,
            cache_salt=owner.cache_salt,
            endpoint=endpoint,
            input_file_id=input_file_id,
            completion_window=window,
            created_at=at,
            expires_at=at + window_s,
            metadata=metadata,
        )
        if not await self._calls(self._store.add_batch, batch, self._config.max_open):
            open_ = f"{self._config.max_open} batches of this key have not ended"
            raise busy(f"batch_max_open: {open_}. Wait for one, or cancel it.", retry_after_s=_RETRY_S)
        if self._worker is not None:
            self._worker.look()
        return batch

    async def batch(self, owner: Principal, id: str) -> Batch:
        """Return a batch.

        Raises:
            ApiError: 404 if there is none of this name that is the owner's.
        """
        batch = await self._calls(self._store.batch, id)
        if batch is None or batch.owner != owner.name:
            raise _no_such("batch", id)
        return batch

    async def batches(self, owner: Principal, *, after: str | None, limit: int) -> list[Batch]:
        """Return up to ``limit`` batches older than the one called ``after``, newest first."""
        return await self._calls(self._store.batches, owner.name, after=after, limit=limit)

    async def cancel(self, owner: Principal, id: str) -> Batch:
        """Begin to cancel a batch, and return it; what is answered by now is kept.

        Raises:
            ApiError: 404 if there is none of this name that is the owner's, 409 if it has ended.
        """
        batch = await self.batch(owner, id)
        running = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)
        await self._calls(self._store.move, batch.id, BatchStatus.CANCELLING, self._now(), only_from=running)
        if self._worker is not None:
            self._worker.recall(batch.id)
        batch = await self.batch(owner, id)
        if batch.status in ENDED and batch.status is not BatchStatus.CANCELLED:
            raise ApiError(409, f"the batch is {batch.status} and cannot be cancelled", code="batch_ended")
        return batch


class _Folder:
    """Inputs and outputs of batches, as files of the server's."""

    def __init__(self, store: Store, room: FileRoom) -> None:
        self._store, self._room = store, room

    def faults(self, batch: Batch) -> Sequence[Fault]:
        path = self._room.path(batch.input_file_id)
        if not path.exists():
            return [Fault(code="file_not_found", message="the input file has been deleted.", param="input_file_id")]
        return find_faults(path, batch.endpoint, MAX_LINES)

    def lines(self, batch: Batch) -> Iterable[Line]:
        return read_lines(self._room.path(batch.input_file_id))

    def finalise(self, batch: Batch, at: int) -> None:
        """Write both files and name them in the batch; done again after a crash, it comes to the same."""
        results = [self._write(batch, at, completed=True), self._write(batch, at, completed=False)]
        ends = {BatchStatus.CANCELLING: BatchStatus.CANCELLED, BatchStatus.FINALIZING: BatchStatus.COMPLETED}
        end = ends[batch.status]
        if end is BatchStatus.COMPLETED and batch.num_completed + batch.num_failed < batch.num_lines:
            end = BatchStatus.EXPIRED
        self._store.end(batch.id, end, at, only_from=batch.status, results=results)

    def _write(self, batch: Batch, at: int, *, completed: bool) -> StoredFile | None:
        """Write a file under a name that is the batch's own, unless nothing belongs into it."""
        kind = "output" if completed else "error"
        name = f"{batch.id.replace('batch_', 'file-')}-{kind}"
        pieces = result_lines(batch, self._store.outcomes(batch.id), completed=completed)
        num_bytes = self._room.write(name, pieces)
        if num_bytes == 0:
            self._room.delete(name)
            return None
        label = f"{batch.id}_{kind}.jsonl"
        return StoredFile(
            id=name, owner=batch.owner, purpose=BATCH_OUTPUT, filename=label, num_bytes=num_bytes, created_at=at
        )


def files_directory(config: BatchConfig) -> Path:
    """Return where files are kept: beside a SQLite file unless told otherwise.

    Raises:
        ParamsError: if the store is elsewhere, and no directory was given.
    """
    assert config.store is not None
    url = database_url(config.store)
    if config.files is not None:
        return Path(config.files)
    if url.get_backend_name() != "sqlite" or not url.database:
        problem = "a store that is no file needs a directory"
        raise ParamsError(problem, field="batch_files", remedy="Give one for the files of batches")
    return Path(url.database + ".files")


def _no_such(what: str, id: str) -> ApiError:
    return ApiError(404, f"there is no {what} called {id!r:.80}", kind=NOT_FOUND, param="id", code="not_found")
