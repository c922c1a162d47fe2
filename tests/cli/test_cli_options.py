"""Shared options: groups of options, sizes, sampling parameters, and texts from anywhere."""

from __future__ import annotations

import io
import sys
from dataclasses import fields

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from steelyard.cli.inputs import file_text, given_text
from steelyard.cli.options import EngineOptions, OutputOptions, SamplingOptions, new_app, takes_groups
from steelyard.cli.tokenize import parse_ids
from steelyard.core.errors import InputError, ParamsError, PromptError
from steelyard.core.units import parse_bytes
from steelyard.engine.build import LLMOptions


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("1", 1), ("512MiB", 512 << 20), ("2G", 2 << 30), ("1.5 gib", 3 << 29), ("4kb", 4096), ("100B", 100)],
)
def test_sizes(text, num_bytes):
    assert parse_bytes("size", text) == num_bytes


@pytest.mark.parametrize("text", ["", "0", "-1", "1e9", "5T", "MiB", "0.1", "١"])
def test_what_is_no_size(text):
    with pytest.raises(ParamsError) as caught:
        parse_bytes("kv_cache_memory", text)
    assert caught.value.field == "kv_cache_memory"


def test_engine_options_are_options_of_the_engine():
    options = EngineOptions(
        max_model_len=64,
        kv_cache_memory="1M",
        kv_cache_dtype="int8",
        threads=2,
        prefix_caching=False,
        schedule_policy="vtc",
    ).keywords()
    assert LLMOptions.from_keywords(options) == LLMOptions(
        max_model_len=64,
        kv_cache_memory_bytes=1 << 20,
        kv_cache_dtype="int8",
        threads=2,
        enable_prefix_caching=False,
        schedule_policy="vtc",
    )


@pytest.mark.parametrize(
    ("given_options", "field"),
    [
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2.0}, "min_p"),
        ({"stop": [""]}, "stop"),
        ({"seed": 1 << 70}, "seed"),
    ],
)
def test_sampling_options_are_checked_at_once(given_options, field):
    with pytest.raises(ParamsError) as caught:
        SamplingOptions(**given_options).keywords()
    assert caught.value.field == field


def test_sampling_options_say_only_what_was_given():
    assert SamplingOptions().keywords() == {"seed": 0}
    assert SamplingOptions(top_k=0, stop=["a", "b"]).keywords() == {"seed": 0, "top_k": None, "stop": ("a", "b")}


def test_groups_become_options_and_arrive_filled():
    seen = {}
    app = new_app()

    @app.command()
    @takes_groups
    def command(*, word: str = "w", sampling: SamplingOptions, output: OutputOptions) -> None:
        seen.update(word=word, sampling=sampling, output=output)

    parsed = typer.main.get_command(app)
    expected = {"word", *(field.name for group in (SamplingOptions, OutputOptions) for field in fields(group))}
    assert {parameter.name for parameter in parsed.params} == expected
    with parsed.make_context("x", ["--top-k", "3", "--json", "--stop", "a", "--stop", "b"]) as context:
        parsed.invoke(context)
    assert seen["sampling"] == SamplingOptions(top_k=3, stop=["a", "b"])
    assert seen["output"] == OutputOptions(json=True)
    assert seen["word"] == "w"


def _pipe(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_texts_come_from_the_argument_or_the_pipe(monkeypatch):
    _pipe(monkeypatch, "grün\n\n".encode())
    assert given_text("word", field="prompt") == "word"
    assert given_text("-", field="prompt") == "grün\n"
    _pipe(monkeypatch, b"x\r\n")
    assert given_text(None, field="prompt") == "x"


@pytest.mark.parametrize(("data", "words"), [(b"", "empty"), (b"\n", "empty"), (b"ab\xff", "byte 2 (0xff)")])
def test_bad_pipes_are_told(monkeypatch, data, words):
    _pipe(monkeypatch, data)
    with pytest.raises(PromptError) as caught:
        given_text(None, field="prompt")
    assert words in str(caught.value)


def test_bad_arguments_are_told():
    for argument in ("", "caf\udce9"):
        with pytest.raises(PromptError):
            given_text(argument, field="prompt")


def test_files_are_read_strictly(tmp_path):
    good, bad, empty = tmp_path / "good", tmp_path / "bad", tmp_path / "empty"
    good.write_text("ä", encoding="utf-8")
    bad.write_bytes(b"\xe4")
    empty.touch()
    assert file_text(good, field="--file") == "ä"
    for path in (bad, empty, tmp_path, tmp_path / "none"):
        with pytest.raises(InputError) as caught:
            file_text(path, field="--file")
        assert caught.value.field == "--file"


@given(st.lists(st.integers(0, 999_999_999), min_size=1))
def test_ids_are_read_back_from_any_usual_spelling(ids):
    assert parse_ids(str(ids)) == ids
    assert parse_ids(" ".join(map(str, ids))) == ids


@pytest.mark.parametrize("text", ["", "[]", "1 -2", "1.5", "a", "9999999999"])
def test_what_is_no_list_of_ids(text):
    with pytest.raises(PromptError):
        parse_ids(text)
