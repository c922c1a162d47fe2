"""Calls are told from text, whatever pieces the text comes in, and nothing that is no call is lost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.serve.tools.formats import HERMES, LLAMA, MISTRAL, ToolFormat
from steelyard.serve.tools.reader import ArgumentsPiece, CallBegins, ObjectScanner, TextPiece, ToolPiece, ToolReader

NAMES = ("f", "get_weather", "a.b-c")
FORMATS = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL}
F = '{"name": "f", "arguments": {"x": 1}}'


def read(style: ToolFormat, pieces: Sequence[str], max_calls: int | None = None) -> tuple[str, list[tuple[str, str]]]:
    """Return the text and the calls, each with its arguments as text."""
    reader = ToolReader(style, NAMES, max_calls)
    found: list[ToolPiece] = []
    for piece in pieces:
        found += reader.feed(piece)
    found += reader.close()
    text, calls = "", []
    for one in found:
        match one:
            case TextPiece():
                assert one.text
                text += one.text
            case CallBegins():
                calls.append((one.name, ""))
            case ArgumentsPiece():
                calls[-1] = (calls[-1][0], calls[-1][1] + one.text)
    assert len(calls) == reader.num_calls
    return text, calls


def cut(text: str, places: Sequence[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


CASES = [
    (HERMES, f"<tool_call>\n{F}\n</tool_call>", "", [("f", '{"x": 1}')]),
    (HERMES, f"<tool_call>{F}</tool_call><tool_call>{F}</tool_call>", "", [("f", '{"x": 1}')] * 2),
    (HERMES, f"Let me see.\n<tool_call>\n{F}\n</tool_call>\n", "Let me see.", [("f", '{"x": 1}')]),
    (HERMES, f"<tool_call>\n{F}\n</tool_call>\nDone.", "\nDone.", [("f", '{"x": 1}')]),
    (HERMES, f"<tool_call>\n{F}", "", [("f", '{"x": 1}')]),
    (HERMES, '<tool_call>{"arguments": {"x": "é"}, "name": "f"}</tool_call>', "", [("f", '{"x": "\\u00e9"}')]),
    (HERMES, '<tool_call>{"arguments": {"x": "\\ud800"}, "name": "f"}</tool_call>', "", [("f", '{"x": "\\ud800"}')]),
    (
        HERMES,
        '<tool_call>{"name": "f", "arguments": "{\\"x\\": \\"\\ud800\\"}"}</tool_call>',
        "",
        [("f", '{"x": "\\ud800"}')],
    ),
    (HERMES, '<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"x\\": 2}"}</tool_call>', "", [("f", '{"x": 2}')]),
    (
        HERMES,
        '<tool_call>{"name": "f", "arguments": {"x": "}\\"{"}, "id": 7}</tool_call>',
        "",
        [("f", '{"x": "}\\"{"}')],
    ),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": ', "", [("f", '{"x": ')]),
    (HERMES, '<tool_call>{"name": "nobody", "arguments": {}}</tool_call>!', None, []),
    (HERMES, '<tool_call>{"name": "f", "arguments": 5}</tool_call>', None, []),
    (HERMES, "<tool_call> is how one calls", None, []),
    (HERMES, f"<tool_call><tool_call>{F}</tool_call>", "<tool_call>", [("f", '{"x": 1}')]),
    (HERMES, "a < b <tool_", None, []),
    (HERMES, '<tool_call>\n{"name": "f", "argu', None, []),
    (HERMES, "  \n ", None, []),
    (HERMES, "", None, []),
    (HERMES, f"<tool_call>{F}</tool_call>\n<tool_call>{F[:9]}", "", [("f", '{"x": 1}')]),
    (HERMES, f"<tool_call>{F}</tool_call>\n<tool", "", [("f", '{"x": 1}')]),
    (HERMES, f"<tool_call>{F}</tool", "", [("f", '{"x": 1}')]),
    (LLAMA, '{"name": "f", "parameters": {"x": 1}}', "", [("f", '{"x": 1}')]),
    (LLAMA, '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "a.b-c"}', "", [("f", "{}"), ("a.b-c", "{}")]),
    (LLAMA, '{"answer": 1}', None, []),
    (LLAMA, 'It is {"name": "f", "parameters": {}}', None, []),
    (MISTRAL, f"[TOOL_CALLS][{F}, {F}]", "", [("f", '{"x": 1}')] * 2),
    (MISTRAL, f"[TOOL_CALLS] [{F}]", "", [("f", '{"x": 1}')]),
    (MISTRAL, "[TOOL_CALLS] []", None, []),
]


@pytest.mark.parametrize(("style", "text", "said", "calls"), CASES)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_text_and_calls(style, text, said, calls, size):
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert read(style, pieces) == (text if said is None else said, calls)


def test_no_more_calls_than_allowed():
    text = f"<tool_call>{F}</tool_call><tool_call>{F}</tool_call> and more"
    assert read(HERMES, [text], 1) == ("", [("f", '{"x": 1}')])
    assert read(HERMES, list(text), 1) == ("", [("f", '{"x": 1}')])
    assert read(HERMES, [text], 3) == (" and more", [("f", '{"x": 1}')] * 2)


def test_arguments_come_as_they_grow():
    reader = ToolReader(HERMES, NAMES)
    assert reader.feed('<tool_call>{"name": "f", "arguments": ') == []
    assert reader.feed("{") == [CallBegins("f"), ArgumentsPiece("{")]
    assert reader.feed('"x": 1') == [ArgumentsPiece('"x": 1')]
    assert reader.feed("}}</tool_call>\nBye <") == [ArgumentsPiece("}"), TextPiece("\nBye")]
    assert reader.feed("b") == [TextPiece(" <b")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(max_size=5), JSON, max_size=3)


def written(style: ToolFormat, calls: Sequence[tuple[str, dict[str, object]]], *, ascii_only: bool) -> str:
    bodies = [json.dumps({"name": n, style.arguments_key: a}, ensure_ascii=ascii_only) for n, a in calls]
    groups = bodies if style.separator is None else [style.separator.join(bodies)]
    return "\n".join(f"{style.marker}{style.opening}{group}{style.closing}" for group in groups)


@given(
    style=st.sampled_from(sorted(FORMATS)),
    calls=st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=3),
    places=st.lists(st.integers(0, 10_000), max_size=12),
    ascii_only=st.booleans(),
)
def test_what_is_written_is_read(style, calls, places, ascii_only):
    text = written(FORMATS[style], calls, ascii_only=ascii_only)
    said, found = read(FORMATS[style], cut(text, places))
    assert not said
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


NOISE = st.lists(
    st.sampled_from(["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[", "]", "{", "}", '"', "\\",
                     ",", ";", " ", "\n", "x", "<", "<tool", F, '{"name": "f"}', '{"name": "f", "arguments": {']),
    max_size=12,
).map("".join)  # fmt: skip


@given(style=st.sampled_from(sorted(FORMATS)), text=NOISE | st.text(), places=st.lists(st.integers(0, 999), max_size=9))
def test_pieces_do_not_matter_and_text_is_kept(style, text, places):
    whole = read(FORMATS[style], [text])
    assert read(FORMATS[style], cut(text, places)) == whole
    assert read(FORMATS[style], list(text)) == whole
    if not whole[1]:
        assert whole[0] == text


@given(value=ARGUMENTS, rest=st.text(max_size=5), places=st.lists(st.integers(0, 999), max_size=9))
def test_an_object_ends_at_its_last_bracket(value, rest, places):
    text = json.dumps(value, ensure_ascii=False)
    scanner, taken = ObjectScanner(), 0
    for piece in cut(text + rest, places):
        end = scanner.end(piece)
        if end is not None:
            assert taken + end == len(text)
            return
        taken += len(piece)
    raise AssertionError("it never ended")
