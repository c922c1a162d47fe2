"""What batches leave in the database: :class:`Store`. Each method is one transaction, and blocks.

A line's answer and its state are committed together, and only by who finds it waiting: whatever is killed, and however
often a line is computed, it has one answer in the end. Nothing is written about lines that are being computed, so there
is nothing to be repaired after a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, delete, func, insert, select, update

from steelyard.serve.batch.tables import batches, files, lines, open_database
from steelyard.serve.batch.types import ENDED, Answer, Batch, BatchStatus, Fault, Line, LineState, Outcome, StoredFile

_CHUNK = 1000
_WORKING = tuple(status.value for status in BatchStatus if status not in ENDED)


class Store:
    """Batches, their lines, and the list of files.

    Args:
        place: path of a SQLite file, or the URL of a database.

    Raises:
        SteelyardError: as :func:`.tables.open_database` does.
    """

    def __init__(self, place: str) -> None:
        self._engine = open_database(place)

    def close(self) -> None:
        """Give the database up."""
        self._engine.dispose()

    def add_file(self, file: StoredFile) -> None:
        """Keep a file's name."""
        with self._engine.begin() as connection:
            connection.execute(insert(files).values(**asdict(file)))

    def file(self, id: str) -> StoredFile | None:
        """Return a file by its name."""
        with self._engine.begin() as connection:
            row = connection.execute(select(files).where(files.c.id == id)).first()
        return None if row is None else _file(row)

    def files(
        self, owner: str, *, purpose: str | None, after: str | None, limit: int, newest_first: bool = True
    ) -> list[StoredFile]:
        """Return up to ``limit`` files behind the one called ``after``."""
        wanted = [files.c.owner == owner] + ([] if purpose is None else [files.c.purpose == purpose])
        with self._engine.begin() as connection:
            return [_file(row) for row in _page(connection, files, wanted, after, limit, newest_first)]

    def delete_file(self, id: str) -> None:
        """Forget a file."""
        with self._engine.begin() as connection:
            connection.execute(delete(files).where(files.c.id == id))

    def file_ids(self) -> set[str]:
        """Return the names of all files."""
        with self._engine.begin() as connection:
            return set(connection.scalars(select(files.c.id)))

    def add_batch(self, batch: Batch, max_open: int | None = None) -> bool:
        """Keep a new batch, unless its owner has ``max_open`` that have not ended; return whether it was kept."""
        mine = (batches.c.owner == batch.owner, batches.c.status.in_(_WORKING))
        with self._engine.begin() as connection:
            if max_open is not None:
                num_open = connection.scalar(select(func.count()).select_from(batches).where(*mine)) or 0
                if num_open >= max_open:
                    return False
            connection.execute(insert(batches).values(**asdict(batch)))
        return True

    def num_stored_bytes(self, owner: str) -> int:
        """Return the size of all files of an owner."""
        with self._engine.begin() as connection:
            return connection.scalar(select(func.sum(files.c.num_bytes)).where(files.c.owner == owner)) or 0

    def batch(self, id: str) -> Batch | None:
        """Return a batch by its name."""
        with self._engine.begin() as connection:
            row = connection.execute(select(batches).where(batches.c.id == id)).first()
        return None if row is None else _batch(row)

    def batches(self, owner: str, *, after: str | None, limit: int) -> list[Batch]:
        """Return up to ``limit`` batches older than the one called ``after``, newest first."""
        with self._engine.begin() as connection:
            rows = _page(connection, batches, [batches.c.owner == owner], after, limit, newest_first=True)
            return [_batch(row) for row in rows]

    def unfinished(self, limit: int) -> list[str]:
        """Return the names of up to ``limit`` batches that have not ended: the oldest of each owner, then the next."""
        turn = func.row_number().over(partition_by=batches.c.owner, order_by=batches.c.position)
        wanted = select(batches.c.id).where(batches.c.status.in_(_WORKING)).order_by(turn, batches.c.position)
        with self._engine.begin() as connection:
            return list(connection.scalars(wanted.limit(limit)))

    def begin(self, id: str, found: Iterable[Line], at: int) -> bool:
        """Take a valid batch's lines and let it be in progress; return ``False`` if it is not validating any more."""
        remaining, num_lines = iter(found), 0
        with self._engine.begin() as connection:
            if not _move(connection, id, BatchStatus.IN_PROGRESS, at, (BatchStatus.VALIDATING,), {}):
                return False
            while chunk := list(islice(remaining, _CHUNK)):
                num_lines += len(chunk)
                rows = [{"batch_id": id, "state": LineState.WAITING.value, **asdict(line)} for line in chunk]
                connection.execute(insert(lines), rows)
            connection.execute(update(batches).where(batches.c.id == id).values(num_lines=num_lines))
        return True

    def fail(self, id: str, faults: Sequence[Fault], at: int) -> bool:
        """End a batch whose input is wrong; return ``False`` if it is not validating any more."""
        told = {"faults": [asdict(fault) for fault in faults]}
        with self._engine.begin() as connection:
            return _move(connection, id, BatchStatus.FAILED, at, (BatchStatus.VALIDATING,), told)

    def move(self, id: str, status: BatchStatus, at: int, *, only_from: Sequence[BatchStatus]) -> bool:
        """Let a batch have ``status`` from now on; return ``False`` if it had none of ``only_from``."""
        with self._engine.begin() as connection:
            return _move(connection, id, status, at, only_from, {})

    def waiting(self, id: str, *, after: int, limit: int) -> list[Line]:
        """Return up to ``limit`` lines without an answer, by number, from behind the line ``after``."""
        of_batch = (lines.c.batch_id == id) & (lines.c.state == LineState.WAITING.value) & (lines.c.number > after)
        wanted = select(lines.c.number, lines.c.custom_id, lines.c.body).where(of_batch)
        with self._engine.begin() as connection:
            rows = connection.execute(wanted.order_by(lines.c.number).limit(limit))
            return [Line(number=row.number, custom_id=row.custom_id, body=row.body) for row in rows]

    def finish(self, id: str, answers: Sequence[Answer]) -> int:
        """Commit answers of lines that still wait, and return how many that were; others are dropped."""
        with self._engine.begin() as connection:
            taken = [answer for answer in answers if _finish_line(connection, id, answer)]
            num_completed = sum(answer.state is LineState.COMPLETED for answer in taken)
            counts = {
                batches.c.num_completed: batches.c.num_completed + num_completed,
                batches.c.num_failed: batches.c.num_failed + len(taken) - num_completed,
            }
            connection.execute(update(batches).where(batches.c.id == id).values(counts))
        return len(taken)

    def outcomes(self, id: str) -> Iterator[Outcome]:
        """Yield what became of each line, by number."""
        last = 0
        while rows := self._outcome_rows(id, last):
            yield from map(_outcome, rows)
            last = rows[-1].number

    def end(
        self, id: str, status: BatchStatus, at: int, *, only_from: BatchStatus, results: Sequence[StoredFile | None]
    ) -> bool:
        """End a batch, whose lines are in its files now and are forgotten here.

        Args:
            id: which.
            status: what it becomes.
            at: now, seconds since 1970.
            only_from: what it is.
            results: the file of its answers and that of its errors.

        Returns:
            ``False`` if it is no such thing any more; nothing has changed then.
        """
        output, errors = results
        with self._engine.begin() as connection:
            ids = {name: file and file.id for name, file in (("output_file_id", output), ("error_file_id", errors))}
            moved = _move(connection, id, status, at, (only_from,), ids)
            if moved:
                connection.execute(delete(lines).where(lines.c.batch_id == id))
                for file in filter(None, results):
                    connection.execute(insert(files).values(**asdict(file)))
        return moved

    def _outcome_rows(self, id: str, last: int) -> Sequence[Row[Any]]:
        wanted = select(lines).where((lines.c.batch_id == id) & (lines.c.number > last))
        with self._engine.begin() as connection:
            return connection.execute(wanted.order_by(lines.c.number).limit(_CHUNK)).all()


def _move(
    connection: Connection, id: str, status: BatchStatus, at: int, only_from: Sequence[BatchStatus], values: Any
) -> bool:
    """Give a batch another status, a stamp of it, and other values, if its status is among ``only_from``."""
    of_batch = (batches.c.id == id) & batches.c.status.in_([one.value for one in only_from])
    stamps = connection.scalar(select(batches.c.stamps).where(of_batch).with_for_update())
    if stamps is None:
        return False
    told = {"status": status.value, "stamps": {**stamps, status.value: at}, **values}
    connection.execute(update(batches).where(of_batch).values(**told))
    return True


def _finish_line(connection: Connection, id: str, answer: Answer) -> bool:
    this = (lines.c.batch_id == id) & (lines.c.number == answer.number) & (lines.c.state == LineState.WAITING.value)
    told = {
        "state": answer.state.value,
        "status": answer.status,
        "request_id": answer.request_id,
        "answer": answer.body,
    }
    return connection.execute(update(lines).where(this).values(**told)).rowcount == 1


def _page(
    connection: Connection,
    table: Table,
    wanted: list[ColumnElement[bool]],
    after: str | None,
    limit: int,
    newest_first: bool,
) -> Sequence[Row[Any]]:
    """Return rows in order of their making, from behind the one called ``after``: none if there is no such row."""
    position = table.c.position
    if after is not None:
        last = select(position).where(table.c.id == after).scalar_subquery()
        wanted = [*wanted, position < last if newest_first else position > last]
    order = position.desc() if newest_first else position
    return connection.execute(select(table).where(*wanted).order_by(order).limit(limit)).all()


def _file(row: Row[Any]) -> StoredFile:
    known = row._asdict()
    del known["position"]
    return StoredFile(**known)


def _batch(row: Row[Any]) -> Batch:
    known = row._asdict()
    del known["position"]
    faults = tuple(Fault(**fault) for fault in known.pop("faults"))
    return Batch(**{**known, "status": BatchStatus(known["status"]), "faults": faults})


def _outcome(row: Row[Any]) -> Outcome:
    answer = None
    if row.state != LineState.WAITING.value:
        answer = Answer(number=row.number, status=row.status, request_id=row.request_id, body=row.answer)
    return Outcome(number=row.number, custom_id=row.custom_id, answer=answer)
