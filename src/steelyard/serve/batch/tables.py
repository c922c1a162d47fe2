"""The tables of a batch store, and how a database is opened so that what is committed stays.

SQLite: write-ahead log, every commit synced to the disk, and locked by its process, so that no second one takes the
same lines. PostgreSQL: an advisory lock does the latter.
"""

from __future__ import annotations

import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    StaticPool,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from steelyard.core.errors import ParamsError, ResourceError, StorageError

SCHEMA_VERSION = 1
_LOCK_KEY = 0x5EE1_BA7C  # of the advisory lock: any number that nobody else takes
_BUSY_S = 1.0

metadata = MetaData()
schema = Table("steelyard_schema", metadata, Column("version", Integer, primary_key=True))
files = Table(
    "files",
    metadata,
    Column("position", Integer, primary_key=True),  # in order of making, which dates are too coarse for
    Column("id", String(80), nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("purpose", String(40), nullable=False),
    Column("filename", Text, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("created_at", Integer, nullable=False),
)
batches = Table(
    "batches",
    metadata,
    Column("position", Integer, primary_key=True),  # in order of making, which dates are too coarse for
    Column("id", String(80), nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("cache_salt", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("completion_window", Text, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("expires_at", Integer),
    Column("metadata", JSON),
    Column("status", String(20), nullable=False, index=True),
    Column("stamps", JSON, nullable=False),
    Column("faults", JSON, nullable=False),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("num_lines", Integer, nullable=False),
    Column("num_completed", Integer, nullable=False),
    Column("num_failed", Integer, nullable=False),
)
lines = Table(
    "lines",
    metadata,
    Column("batch_id", ForeignKey("batches.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("custom_id", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("status", Integer),
    Column("request_id", Text),
    Column("answer", Text),
    UniqueConstraint("batch_id", "custom_id"),
    Index("lines_by_state", "batch_id", "state", "number"),
)


def open_database(place: str) -> Engine:
    """Return the database at a path or URL, made or checked, and locked by this process.

    Raises:
        ParamsError: if it is no path and no URL of SQLite or PostgreSQL, or a database of another version.
        ResourceError: if the library for it is not installed.
        StorageError: if it cannot be opened, or another process has it.
    """
    url = database_url(place)
    engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)
    try:
        with engine.begin() as connection:
            _make_or_check(connection)
    except BaseException as error:
        engine.dispose()  # or the lock would stay
        if isinstance(error, DBAPIError):
            raise _unusable(error) from error
        raise
    return engine


def database_url(place: str) -> URL:
    """Return the URL of a path or URL.

    Raises:
        ParamsError: if it is neither, or of another kind of database.
    """
    try:
        url = make_url(place) if "://" in place else URL.create("sqlite", database=place)
    except ArgumentError:
        url = URL.create("unknown")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        remedy = "Give a path, or a URL such as postgresql://user@host/name"
        raise ParamsError("it is no database that batches can be kept in", field="batch_store", remedy=remedy)
    return url


def _sqlite(url: URL) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    arguments = {"check_same_thread": False, "timeout": _BUSY_S}
    engine = create_engine(url.set(drivername="sqlite"), poolclass=StaticPool, connect_args=arguments)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None  # the driver would begin at the first change of a row, too late for tables
    for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN IMMEDIATE")  # takes the lock, which is kept until the process ends
    connection.execute("COMMIT")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _postgresql(url: URL) -> Engine:
    if find_spec("psycopg") is None:
        raise ResourceError(
            "psycopg is not installed", field="batch_store", remedy="Run: pip install 'steelyard[postgres]'"
        )
    engine = create_engine(url.set(drivername="postgresql+psycopg"), poolclass=StaticPool, pool_pre_ping=True)
    event.listen(engine, "connect", _lock_postgresql)
    return engine


def _lock_postgresql(connection: Any, record: Any) -> None:
    """Take the lock, which the database keeps for as long as this connection lives."""
    del record
    taken = connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK_KEY,)).fetchone()[0]
    connection.commit()
    if not taken:
        raise _taken()


def _make_or_check(connection: Connection) -> None:
    if not inspect(connection).has_table(schema.name):
        metadata.create_all(connection)
        connection.execute(insert(schema).values(version=SCHEMA_VERSION))
        return
    version = connection.scalar(select(schema.c.version))
    if version != SCHEMA_VERSION:
        problem = f"it has version {version} of the tables, and this program knows {SCHEMA_VERSION}"
        raise ParamsError(problem, field="batch_store", remedy="Use the program that made it, or another store")


def _taken() -> StorageError:
    remedy = "End the other one, or give another store"
    return StorageError("another process works with it", field="batch_store", remedy=remedy)


def _unusable(error: DBAPIError) -> StorageError | ParamsError:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_BUSY:
        return _taken()
    if code == sqlite3.SQLITE_NOTADB:
        return ParamsError("it is no SQLite database", field="batch_store", remedy="Give the path of one, or a new one")
    remedy = "Check the path or address, and the permissions"
    return StorageError(f"it cannot be opened ({type(error.orig).__name__})", field="batch_store", remedy=remedy)
