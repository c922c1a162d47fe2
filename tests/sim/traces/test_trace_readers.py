"""Readers: each format as it is published, and what is wrong named by file, line and field."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from steelyard.core.errors import InputError, StorageError
from steelyard.sim.traces import load_trace
from steelyard.sim.traces.types import TraceRequest

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-17 00:00:00,1,1
"""
MOONCAKE = """{"timestamp": 27000, "input_length": 513, "output_length": 4, "hash_ids": [0, 7]}
{"timestamp": 27500, "input_length": 512, "output_length": 5, "hash_ids": [0]}
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str, name: str = "trace") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_azure(written):
    trace = load_trace(written(AZURE), 0)
    assert [one[1:3] for one in trace.requests] == [(374, 44), (396, 109), (1, 1)]
    assert [one.arrival_s for one in trace.requests] == pytest.approx([0.0, 4.314579, 20653.31941], abs=1e-7)
    assert trace.notices == ()


def test_mooncake_plain_and_packed(written, tmp_path):
    expected = (TraceRequest(0.0, 513, 4, (0, 7)), TraceRequest(0.5, 512, 5, (0,)))
    assert load_trace(written(MOONCAKE), 0).requests == expected
    (tmp_path / "packed.gz").write_bytes(gzip.compress(MOONCAKE.encode()))
    assert load_trace(str(tmp_path / "packed.gz"), 0).requests == expected


def test_burstgpt_leaves_out_what_failed_and_says_so(written):
    trace = load_trace(written(BURSTGPT), 0)
    assert trace.requests == (TraceRequest(0.0, 472, 18), TraceRequest(113.0, 417, 276))
    assert "1 requests of trace failed" in trace.notices[0]


@pytest.mark.parametrize(
    "text",
    [
        '[{"prompt_len": 3, "output_len": 4}, {"prompt_len": 5, "output_len": 6, "arrival_s": 2}]',
        '{"input_toks": 3, "output_toks": 4}\n\n{"input_toks": 5, "output_toks": 6, "arrival_time_ns": 2000000000}\n',
    ],
)
def test_sharegpt_as_list_and_as_lines(written, text):
    assert load_trace(written(text), 0).requests == (TraceRequest(0.0, 3, 4), TraceRequest(2.0, 5, 6))


def test_a_trace_out_of_order_is_sorted_with_a_notice(written):
    lines = AZURE.splitlines()
    trace = load_trace(written("\n".join([lines[0], lines[2], lines[1], lines[3]])), 0)
    assert [one[1] for one in trace.requests] == [374, 396, 1]
    assert "was not in order of time (1 requests" in trace.notices[0]


@pytest.mark.parametrize(
    ("text", "where", "field", "problem"),
    [
        (AZURE.replace(",109", ","), "trace:3", "GeneratedTokens", "missing"),
        (AZURE.replace(",396", ",-396"), "trace:3", "ContextTokens", "-396 is not from 1"),
        (AZURE.replace(",396", ",0"), "trace:3", "ContextTokens", "0 is not from 1"),
        (AZURE.replace(",396", ",99999999999"), "trace:3", "ContextTokens", "is not from 1"),
        (AZURE.replace(",396", ",nan"), "trace:3", "ContextTokens", "no finite number"),
        (AZURE.replace(",396", ",3.5"), "trace:3", "ContextTokens", "no whole number"),
        (AZURE.replace("18:15:50", "25:15:50"), "trace:3", "TIMESTAMP", "is no time"),
        (AZURE.replace(",396,", ",396,1,"), "trace:3", "GeneratedTokens", "more values than columns"),
        (AZURE.replace("ContextTokens", "ContextTokens2"), "trace:1", "ContextTokens", "no such column"),
        (MOONCAKE.replace("[0, 7]", "[0]"), "trace:1", "hash_ids", "1 numbers stand for a prompt of 2 blocks"),
        (MOONCAKE.replace("[0, 7]", "[0, -7]"), "trace:1", "hash_ids", "whole numbers from 0"),
        (MOONCAKE.replace("27500", '"soon"'), "trace:2", "timestamp", "no finite number"),
        (MOONCAKE.replace('"output_length": 5, ', ""), "trace:2", "output_length", "missing"),
    ],
)
def test_what_is_wrong_is_named(written, text, where, field, problem):
    with pytest.raises(InputError, match=problem) as caught:
        load_trace(written(text), 0)
    assert caught.value.field.endswith(where)
    assert caught.value.problem.startswith(f"{field}:")
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "hello\n", "TIMESTAMP,a,b\n"])
def test_a_file_of_no_known_format_is_refused(written, text):
    with pytest.raises(InputError, match="no known format"):
        load_trace(written(text), 0)


def test_a_broken_line_and_an_empty_trace_are_refused(written):
    with pytest.raises(InputError, match="no JSON"):
        load_trace("mooncake:" + written("{\n"), 0)
    with pytest.raises(InputError, match="no requests"):
        load_trace(written(AZURE.splitlines()[0] + "\n"), 0)


def test_a_file_that_cannot_be_read_is_no_bug(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        load_trace(str(tmp_path / "nowhere"), 0)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(AZURE.encode() * 400)[:60])
    with pytest.raises((StorageError, InputError)):
        load_trace("azure:" + str(tmp_path / "cut.gz"), 0)
