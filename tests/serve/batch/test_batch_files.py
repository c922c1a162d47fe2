"""Files of batches: whole or not there, and nowhere else."""

from __future__ import annotations

import pytest

from steelyard.core.errors import StorageError
from steelyard.serve.batch.files import FileRoom, write_atomically


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    room = FileRoom(tmp_path / "room")
    assert room.write("file-1", [b"one ", b"two"]) == 7
    assert room.path("file-1").read_bytes() == b"one two"

    def broken():
        yield b"half"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        room.write("file-1", broken())
    assert room.path("file-1").read_bytes() == b"one two"
    assert [path.name for path in (tmp_path / "room").iterdir()] == ["file-1"]
    room.delete("file-1")
    room.delete("file-1")
    assert not room.path("file-1").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "file-../x", "file-", "file-a/b", "file-a\n"])
def test_no_name_leads_out(tmp_path, name):
    with pytest.raises(AssertionError):
        FileRoom(tmp_path).path(name)


def test_what_a_dead_process_left_is_swept_away(tmp_path):
    room = FileRoom(tmp_path)
    for name in ("file-known", "file-unknown", "file-half.part", "notes.txt"):
        (tmp_path / name).touch()
    room.sweep({"file-known"})
    assert {path.name for path in tmp_path.iterdir()} == {"file-known", "notes.txt"}


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "blocked").touch()
    with pytest.raises(StorageError, match="cannot be made"):
        FileRoom(tmp_path / "blocked" / "room")
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomically(tmp_path / "nowhere" / "x", [b""])
