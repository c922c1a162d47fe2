"""A PostgreSQL server of the tests' own, where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

_PROGRAMS = all(shutil.which(name) for name in ("initdb", "pg_ctl"))
needs_postgres = pytest.mark.skipif(not _PROGRAMS or find_spec("psycopg") is None, reason="no PostgreSQL here")


@contextmanager
def postgres_url() -> Iterator[str]:
    """Run a new server on a Unix socket alone; syncing is off, for speed."""
    with tempfile.TemporaryDirectory() as folder:
        _give_away(Path(folder))
        data = f"{folder}/data"
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        _run("initdb", "-D", data, "-U", "steelyard", "--auth=trust", "--no-sync")
        _run("pg_ctl", "-D", data, "-o", options, "-w", "-l", f"{folder}/log", "start")
        try:
            yield f"postgresql://steelyard@/postgres?host={folder}"
        finally:
            _run("pg_ctl", "-D", data, "-m", "immediate", "stop")


def _give_away(folder: Path) -> None:
    """PostgreSQL does not run as root."""
    if os.getuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)


def _run(*command: str) -> None:
    user = "postgres" if os.getuid() == 0 else None
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user, cwd="/")
