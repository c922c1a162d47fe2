"""The store: a random life of batches against a plain model of it, and what it refuses to open."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from postgres_server import needs_postgres, postgres_url
from sqlalchemy import create_engine, text

from steelyard.core.errors import ParamsError, StorageError
from steelyard.serve.batch.store import Store
from steelyard.serve.batch.tables import database_url, metadata
from steelyard.serve.batch.types import Answer, Batch, BatchStatus, Fault, Line, StoredFile

WAITING_FOR = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)


def new_batch(name: str, owner: str = "ann", **changes: object) -> Batch:
    fields = {
        "id": name,
        "owner": owner,
        "cache_salt": "",
        "endpoint": "/v1/completions",
        "input_file_id": "file-1",
        "completion_window": "24h",
        "created_at": 1,
        "expires_at": 86401,
    }
    return Batch(**(fields | changes))


def new_lines(count: int) -> list[Line]:
    return [Line(number=n, custom_id=f"line-{n}", body=f'{{"n": {n}}}') for n in range(1, count + 1)]


def new_answer(number: int, status: int = 200, body: str = "{}") -> Answer:
    return Answer(number=number, status=status, request_id=f"req-{number}", body=body)


def new_file(name: str, owner: str = "ann", purpose: str = "batch") -> StoredFile:
    return StoredFile(id=name, owner=owner, purpose=purpose, filename="in.jsonl", num_bytes=3, created_at=1)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_url() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def place(request, tmp_path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    url = request.getfixturevalue("postgres")
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return url


def test_a_batch_lives_through_a_new_process(place):
    store = Store(place)
    store.add_file(new_file("file-1"))
    store.add_batch(new_batch("b", metadata={"why": "Zoë"}))
    assert store.begin("b", new_lines(3), 5)
    assert store.finish("b", [new_answer(2), new_answer(3, 400)]) == 2
    store.close()

    store = Store(place)
    batch = store.batch("b")
    assert batch is not None
    assert (batch.status, batch.num_lines, batch.num_completed, batch.num_failed) == ("in_progress", 3, 1, 1)
    assert batch.metadata == {"why": "Zoë"}
    assert batch.stamps == {"in_progress": 5}
    assert [line.number for line in store.waiting("b", after=0, limit=9)] == [1]
    assert store.unfinished(5) == ["b"]
    assert store.move("b", BatchStatus.FINALIZING, 6, only_from=WAITING_FOR)
    assert not store.move("b", BatchStatus.CANCELLING, 7, only_from=WAITING_FOR)
    output = new_file("file-2", purpose="batch_output")
    assert store.end("b", BatchStatus.COMPLETED, 8, only_from=BatchStatus.FINALIZING, results=(output, None))
    assert not store.end("b", BatchStatus.COMPLETED, 9, only_from=BatchStatus.FINALIZING, results=(output, None))
    assert [file.id for file in store.files("ann", purpose=None, after=None, limit=9)] == ["file-2", "file-1"]
    assert [file.id for file in store.files("ann", purpose="batch", after=None, limit=9)] == ["file-1"]
    assert list(store.outcomes("b")) == []
    assert store.unfinished(5) == []
    store.close()


def test_an_answer_is_taken_once(place):
    store = Store(place)
    store.add_batch(new_batch("b"))
    store.begin("b", new_lines(2), 1)
    assert store.finish("b", [new_answer(1, body='"first"'), new_answer(1, 500, '"second"')]) == 1
    assert store.finish("b", [new_answer(1, 500, '"third"'), new_answer(2)]) == 1
    answers = [outcome.answer for outcome in store.outcomes("b")]
    assert [answer and answer.body for answer in answers] == ['"first"', "{}"]
    store.close()


def test_faults_are_kept(place):
    store = Store(place)
    store.add_batch(new_batch("b"))
    fault = Fault(code="invalid_url", message="the url is wrong.", line=2, param="url")
    assert store.fail("b", [fault], 4)
    assert not store.begin("b", new_lines(1), 5)
    batch = store.batch("b")
    assert batch is not None
    assert (batch.faults, batch.status) == ((fault,), BatchStatus.FAILED)
    store.close()


def test_pages_go_on_behind_the_last_one(place):
    store = Store(place)
    for number in range(5):
        store.add_batch(new_batch(f"b{number}", owner="ann" if number != 2 else "bob"))
        store.add_file(new_file(f"f{number}"))
    assert [batch.id for batch in store.batches("ann", after=None, limit=2)] == ["b4", "b3"]
    assert [batch.id for batch in store.batches("ann", after="b3", limit=9)] == ["b1", "b0"]
    assert store.batches("ann", after="nothing", limit=9) == []
    oldest = store.files("ann", purpose=None, after="f1", limit=2, newest_first=False)
    assert [file.id for file in oldest] == ["f2", "f3"]
    store.close()


def test_a_store_of_another_version_is_refused(place):
    store = Store(place)
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE steelyard_schema SET version = 999"))
    store.close()
    with pytest.raises(ParamsError, match="version 999"):
        Store(place)


def test_one_process_at_a_time(place):
    store = Store(place)
    program = f"from steelyard.serve.batch.store import Store; Store({place!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "another process works with it" in done.stderr
    store.close()
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_a_store_is_made_whole_or_not_at_all(place, monkeypatch):
    def killed(connection, *args, **kwargs):
        made(connection, *args, **kwargs)
        raise KeyboardInterrupt

    made = metadata.create_all
    monkeypatch.setattr(metadata, "create_all", killed)
    with pytest.raises(KeyboardInterrupt):
        Store(place)
    monkeypatch.undo()
    store = Store(place)
    assert store.unfinished(1) == []
    store.close()


def test_sqlite_commits_reach_the_disk(tmp_path):
    store = Store(str(tmp_path / "store"))
    with store._engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2
    store.close()


def test_what_is_no_store(tmp_path):
    other = tmp_path / "letter.txt"
    other.write_text("Dear Sir or Madam, " * 100)
    with pytest.raises(ParamsError, match="no SQLite database"):
        Store(str(other))
    assert other.read_text().startswith("Dear"), "it is left as it was"
    with pytest.raises(StorageError, match="cannot be opened"):
        Store(str(tmp_path))
    for place in ("mysql://host/name", "://"):
        with pytest.raises(ParamsError, match="batch_store"):
            Store(place)
    assert database_url("some/path").database == "some/path"
    with sqlite3.connect(other.with_name("fine")) as made:
        made.execute("CREATE TABLE mine (x)")
    Store(str(other.with_name("fine"))).close()


class StoreLife(RuleBasedStateMachine):
    """Batches come, are answered in any order, cancelled, expire and end; the process is replaced at any time."""

    @initialize()
    def begin(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.place = str(Path(self._folder.name) / "store")
        self.store = Store(self.place)
        self.status: dict[str, BatchStatus] = {}
        self.answers: dict[str, dict[int, Answer | None]] = {}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self._folder.cleanup()

    @rule(num_lines=st.integers(1, 5))
    def add(self, num_lines: int) -> None:
        name = f"b{len(self.status)}"
        self.store.add_batch(new_batch(name))
        assert self.store.begin(name, new_lines(num_lines), 1)
        self.status[name] = BatchStatus.IN_PROGRESS
        self.answers[name] = dict.fromkeys(range(1, num_lines + 1))

    @precondition(lambda self: self.status)
    @rule(data=st.data(), status=st.sampled_from([200, 400, 500]))
    def answer(self, data: st.DataObject, status: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.status)))
        numbers = data.draw(st.lists(st.integers(1, 6), max_size=4))
        answers = [new_answer(number, status, f'"{index}"') for index, number in enumerate(numbers)]
        self.store.finish(name, answers)
        for answer in answers:
            if self.answers[name].get(answer.number, answer) is None:
                self.answers[name][answer.number] = answer

    @precondition(lambda self: self.status)
    @rule(data=st.data(), status=st.sampled_from([BatchStatus.FINALIZING, BatchStatus.CANCELLING]))
    def move(self, data: st.DataObject, status: BatchStatus) -> None:
        name = data.draw(st.sampled_from(sorted(self.status)))
        moved = self.store.move(name, status, 2, only_from=WAITING_FOR)
        assert moved is (self.status[name] in WAITING_FOR)
        if moved:
            self.status[name] = status

    @precondition(lambda self: self.status)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.status)))
        ended = self.store.end(
            name, BatchStatus.COMPLETED, 3, only_from=BatchStatus.FINALIZING, results=(new_file(f"file-{name}"), None)
        )
        assert ended is (self.status[name] is BatchStatus.FINALIZING)
        if ended:
            self.status[name], self.answers[name] = BatchStatus.COMPLETED, {}

    @rule()
    def replace_process(self) -> None:
        self.store.close()
        self.store = Store(self.place)

    @invariant()
    def it_is_as_it_should_be(self) -> None:
        if not hasattr(self, "store"):
            return
        for name, answers in self.answers.items():
            batch = self.store.batch(name)
            assert batch is not None
            assert batch.status is self.status[name]
            assert {one.number: one.answer for one in self.store.outcomes(name)} == answers
            waiting = [line.number for line in self.store.waiting(name, after=0, limit=99)]
            assert waiting == [number for number, answer in answers.items() if answer is None]
            if answers:
                done = [answer.status for answer in answers.values() if answer is not None]
                assert (batch.num_completed, batch.num_failed) == (done.count(200), len(done) - done.count(200))
        working = [name for name, status in self.status.items() if status is not BatchStatus.COMPLETED]
        assert self.store.unfinished(99) == working


TestStoreLife = StoreLife.TestCase
TestStoreLife.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)


def test_owners_take_turns_however_many_batches_one_has(place):
    store = Store(place)
    for name in ("a1", "a2", "a3"):
        assert store.add_batch(new_batch(name, "ann"))
    for name in ("b1", "b2"):
        assert store.add_batch(new_batch(name, "bob"))
    assert store.unfinished(3) == ["a1", "b1", "a2"]
    assert store.unfinished(9) == ["a1", "b1", "a2", "b2", "a3"]
    store.close()


def test_an_owner_has_only_so_many_open_batches(place):
    store = Store(place)
    assert store.add_batch(new_batch("a1", "ann"), max_open=2)
    assert store.add_batch(new_batch("a2", "ann"), max_open=2)
    assert not store.add_batch(new_batch("a3", "ann"), max_open=2)
    assert store.batch("a3") is None
    assert store.add_batch(new_batch("b1", "bob"), max_open=2)
    store.fail("a1", [], 5)
    assert store.add_batch(new_batch("a3", "ann"), max_open=2)
    store.close()


def test_the_size_of_an_owner_s_files(place):
    store = Store(place)
    assert store.num_stored_bytes("ann") == 0
    for name, owner in (("file-1", "ann"), ("file-2", "ann"), ("file-3", "bob")):
        store.add_file(new_file(name, owner=owner))
    assert store.num_stored_bytes("ann") == 2 * store.num_stored_bytes("bob") > 0
    store.delete_file("file-1")
    assert store.num_stored_bytes("ann") == store.num_stored_bytes("bob")
    store.close()
