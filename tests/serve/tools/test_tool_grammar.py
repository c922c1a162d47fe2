"""Whatever is drawn under the constraint to calls is read as calls whose arguments are valid."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tokenizers
from jsonschema import Draft202012Validator
from tokenizers import decoders, models, pre_tokenizers

from steelyard.core.errors import ParamsError
from steelyard.engine.llguidance_backend import LlguidanceBackend
from steelyard.models.text.tokenizer import Tokenizer, byte_alphabet
from steelyard.serve.tools.declare import Tool
from steelyard.serve.tools.formats import HERMES, LLAMA, MISTRAL
from steelyard.serve.tools.grammar import calls_constraint
from steelyard.serve.tools.reader import ArgumentsPiece, CallBegins, ToolReader

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


def drawn(tokenizer: Tokenizer, style: str, max_calls: int, seed: int) -> str:
    """Return a text drawn evenly from what the constraint allows, its control tokens written out."""
    backend = LlguidanceBackend(tokenizer, tokenizer.vocab_size, tokenizer.eos_token_ids)
    matcher = backend.compile(calls_constraint(TOOLS, FORMATS[style], max_calls, tokenizer)).start()
    chance, ids = np.random.default_rng(seed), []
    while not matcher.is_complete:
        allowed = np.flatnonzero(~backend.forbidden([matcher])[0])
        ends = [token for token in allowed if token in tokenizer.eos_token_ids]
        ids.append(int(ends[0] if ends and chance.random() < 0.5 else chance.choice(allowed)))
        matcher.consume(ids[-1:])
        assert matcher.problem is None
    return tokenizer.decode([i for i in ids if i not in tokenizer.eos_token_ids], skip_special_tokens=False)


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("control", [(), ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>")])
def test_calls_are_read_as_they_were_demanded(style: str, control: tuple[str, ...]) -> None:
    tokenizer, counts = alphabet_tokenizer(*control), set()
    for seed in range(6):
        reader = ToolReader(FORMATS[style], PARAMETERS, 3)
        text = drawn(tokenizer, style, 3, seed)
        pieces = reader.feed(text) + reader.close()
        names = [piece.name for piece in pieces if isinstance(piece, CallBegins)]
        arguments = [piece.text for piece in pieces if isinstance(piece, ArgumentsPiece)]
        assert len(names) == len(arguments) == len(pieces) / 2, text
        for name, written in zip(names, arguments, strict=True):
            Draft202012Validator(PARAMETERS[name]).validate(json.loads(written))
        counts.add(len(names))
    assert counts <= {1, 2, 3}
    assert len(counts) > 1


def test_one_call_is_one_call() -> None:
    for style in FORMATS:
        reader = ToolReader(FORMATS[style], PARAMETERS)
        reader.feed(drawn(alphabet_tokenizer(), style, 1, 1))
        assert reader.num_calls == 1


def test_tools_too_large_together_are_refused_by_name() -> None:
    many = [
        Tool(name=f"f{i}", parameters={"type": "object", "properties": {"x": {"description": "x" * 2000}}})
        for i in range(40)
    ]
    with pytest.raises(ParamsError) as caught:
        calls_constraint(many, HERMES, 1, alphabet_tokenizer())
    assert caught.value.field == "tools"
