"""Whatever is drawn under the constraint to calls is read as calls whose arguments are valid."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tokenizers
from jsonschema import Draft202012Validator
from tokenizers import decoders, models, pre_tokenizers

from steelyard.core.constraint import Constraint
from steelyard.core.errors import ParamsError
from steelyard.engine.llguidance_backend import LlguidanceBackend
from steelyard.models.text.tokenizer import Tokenizer, byte_alphabet
from steelyard.serve.tools.declare import Tool
from steelyard.serve.tools.formats import HERMES, LLAMA, MISTRAL
from steelyard.serve.tools.grammar import CallGrammar
from steelyard.serve.tools.reader import ArgumentsPiece, CallBegins, TextPiece, ToolReader

FORMATS = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL}
# References are to the parameters' own parts, and "::=" is no grammar's business.
PARAMETERS: dict[str, dict[str, Any]] = {
    "f": {"type": "object", "properties": {"x": {"$ref": "#/$defs/n"}}, "required": ["x"],
          "additionalProperties": False, "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}},
    "g": {"properties": {"w": {"enum": ['a"b', "é\n", "a ::= b"]}}, "additionalProperties": False},
    "h.0-_": {"type": "object", "properties": {}, "additionalProperties": False},
}  # fmt: skip
TOOLS = [Tool(name=name, parameters=parameters) for name, parameters in PARAMETERS.items()]


def alphabet_tokenizer(*control: str) -> Tokenizer:
    """A tokenizer of single bytes, an end and control tokens."""
    letters = {byte: char for char, byte in byte_alphabet().items()}
    backend = tokenizers.Tokenizer(models.BPE(vocab={letters[byte]: byte for byte in range(256)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>", *control])
    return Tokenizer(backend.to_str(), eos_token_ids=[backend.token_to_id("<|end|>")])


def grammar(tokenizer: Tokenizer, style: str, max_calls: int = 3) -> CallGrammar:
    return CallGrammar(tools=TOOLS, style=FORMATS[style], max_calls=max_calls, tokenizer=tokenizer)


def drawn(tokenizer: Tokenizer, constraint: Constraint, seed: int, prefix: str = "") -> str:
    """Return a text drawn evenly from what follows ``prefix`` under the constraint, control tokens written out."""
    backend = LlguidanceBackend(tokenizer, tokenizer.vocab_size, tokenizer.eos_token_ids)
    matcher = backend.compile(constraint).start()
    chance, ids = np.random.default_rng(seed), tokenizer.encode(prefix, add_special_tokens=False, parse_special=True)
    matcher.consume(ids)
    while not matcher.is_complete:
        allowed = np.flatnonzero(~backend.forbidden([matcher])[0])
        assert matcher.problem is None, matcher.problem
        ends = [token for token in allowed if token in tokenizer.eos_token_ids]
        ids.append(int(ends[0] if ends and chance.random() < 0.5 else chance.choice(allowed)))
        matcher.consume(ids[-1:])
    return tokenizer.decode([i for i in ids if i not in tokenizer.eos_token_ids], skip_special_tokens=False)


def read(style: str, text: str) -> tuple[str, list[str]]:
    """Return the text beside calls, and their tools' names, after checking their arguments."""
    reader = ToolReader(FORMATS[style], PARAMETERS)
    pieces = reader.feed(text) + reader.close()
    names = [piece.name for piece in pieces if isinstance(piece, CallBegins)]
    arguments = [piece.text for piece in pieces if isinstance(piece, ArgumentsPiece)]
    for name, written in zip(names, arguments, strict=True):
        Draft202012Validator(PARAMETERS[name]).validate(json.loads(written))
    return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece)), names


CONTROL = [(), ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>")]
BEGINNINGS = {"hermes": "<tool_call>", "llama": "{", "mistral": "[TOOL_CALLS]"}


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("control", CONTROL)
def test_calls_are_read_as_they_were_demanded(style: str, control: tuple[str, ...]) -> None:
    tokenizer, counts = alphabet_tokenizer(*control), set()
    for seed in range(6):
        said, names = read(style, drawn(tokenizer, grammar(tokenizer, style).calls(), seed))
        assert not said
        counts.add(len(names))
    assert counts <= {1, 2, 3}
    assert len(counts) > 1


@pytest.mark.parametrize("style", FORMATS)
def test_one_call_is_one_call(style: str) -> None:
    tokenizer = alphabet_tokenizer()
    assert len(read(style, drawn(tokenizer, grammar(tokenizer, style, 1).calls(), 1))[1]) == 1


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("control", CONTROL)
def test_within_text_a_call_that_begins_goes_on_as_one(style: str, control: tuple[str, ...]) -> None:
    tokenizer = alphabet_tokenizer(*control)
    strict = grammar(tokenizer, style).calls_within_text()
    for seed in range(4):
        drawn(tokenizer, strict, seed)
        if style != "llama":
            said, names = read(style, drawn(tokenizer, strict, seed, "Let me see. " + BEGINNINGS[style]))
            assert said.startswith("Let me see.")
            assert names
        assert read(style, drawn(tokenizer, strict, seed, BEGINNINGS[style]))[1]


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize(
    "answer", [Constraint.choice(["yes", "yes, but", "no"]), Constraint.regex("[yn]/"), Constraint.json_object()]
)
def test_calls_or_an_answer(style: str, answer: Constraint) -> None:
    tokenizer = alphabet_tokenizer()
    either = grammar(tokenizer, style).calls_or(answer)
    begun = {"choice": "y", "regex": "n", "json_object": '{"a'}[answer.kind.value]
    said, names = read(style, drawn(tokenizer, either, 1, begun))
    assert not names
    match answer.kind.value:
        case "choice":
            assert said in answer.texts
        case "regex":
            assert said == "n/"
        case _:
            assert isinstance(json.loads(said), dict)
    assert read(style, drawn(tokenizer, either, 1, FORMATS[style].marker))[1]


def test_a_grammar_is_no_answer_beside_calls() -> None:
    with pytest.raises(ParamsError, match="cannot be a part of another") as caught:
        grammar(alphabet_tokenizer(), "hermes").calls_or(Constraint.grammar("start: /a/", "guided_grammar"))
    assert caught.value.field == "guided_grammar"


def test_tools_too_large_together_are_refused_by_name() -> None:
    many = [
        Tool(name=f"f{i}", parameters={"type": "object", "properties": {"x": {"description": "x" * 2000}}})
        for i in range(40)
    ]
    with pytest.raises(ParamsError) as caught:
        CallGrammar(tools=many, style=HERMES, max_calls=1, tokenizer=alphabet_tokenizer()).calls()
    assert caught.value.field == "tools"
