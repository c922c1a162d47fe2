"""Input files: what is a line, and what is told of those that are none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.serve.batch.lines import LineError, find_faults, read_line, read_lines

URL = "/v1/completions"
GOOD = {"custom_id": "a", "method": "POST", "url": URL, "body": {"prompt": "x"}}


def written(path, *lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def faults(path, *lines, max_lines=100):
    return [(fault.line, fault.code) for fault in find_faults(written(path, *lines), URL, max_lines)]


def test_lines_are_read_with_the_numbers_of_the_file(tmp_path):
    path = written(tmp_path / "in", b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), b"  ", GOOD | {"custom_id": "é"})
    assert find_faults(path, URL, 100) == []
    assert [(line.number, line.custom_id) for line in read_lines(path)] == [(1, "a"), (3, "é")]
    assert json.loads(next(iter(read_lines(path))).body) == {"prompt": "x"}


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"\xff", "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        ([1], "invalid_json_line", None),
        ({"method": "POST", "url": URL, "body": {}}, "missing_required_parameter", "custom_id"),
        (GOOD | {"custom_id": 1}, "invalid_type", "custom_id"),
        (GOOD | {"custom_id": ""}, "invalid_custom_id", "custom_id"),
        (GOOD | {"custom_id": "\0"}, "invalid_custom_id", "custom_id"),
        (GOOD | {"custom_id": "\ud800"}, "invalid_custom_id", "custom_id"),
        (GOOD | {"custom_id": "x" * 513}, "invalid_custom_id", "custom_id"),
        (GOOD | {"body": "x"}, "invalid_type", "body"),
        (GOOD | {"method": "GET"}, "invalid_method", "method"),
        (GOOD | {"url": "/v1/models"}, "invalid_url", "url"),
        (GOOD | {"path": "/etc/passwd"}, "unknown_parameter", "path"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, line, code, param):
    (fault,) = find_faults(written(tmp_path / "in", GOOD, line), URL, 100)
    assert (fault.line, fault.code, fault.param) == (2, code, param)


def test_whole_files_can_be_wrong(tmp_path):
    path = tmp_path / "in"
    assert faults(path) == [(None, "empty_file")]
    assert faults(path, GOOD, GOOD) == [(2, "duplicate_custom_id")]
    many = [GOOD | {"custom_id": str(number)} for number in range(4)]
    assert faults(path, *many, max_lines=3) == [(None, "too_many_requests")]
    assert len(faults(path, *[b"x"] * 1000)) == 100


json_texts = st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)


@given(st.binary(max_size=60) | json_texts)
def test_no_text_is_too_strange(text):
    with pytest.raises(LineError) as raised:
        read_line(7, text)
    assert raised.value.args[0].line == 7
