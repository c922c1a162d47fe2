"""Whatever is drawn under a constraint, fulfils it: with random logits, adversarial vocabularies and random schemas."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from random import Random
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from tokenizers import decoders, models, pre_tokenizers

from steelyard.core.constraint import Constraint
from steelyard.core.errors import ParamsError
from steelyard.core.params import SamplingParams
from steelyard.core.request import FinishReason
from steelyard.core.sequence import Sequence
from steelyard.engine.completion import CompletionState
from steelyard.engine.constraints import ConstraintFollower, GrammarStore
from steelyard.engine.llguidance_backend import LlguidanceBackend
from steelyard.engine.sampling import Sampler
from steelyard.models.text.detokenizer import IncrementalDetokenizer
from steelyard.models.text.gguf_tokenizer import tokenizer_from_gguf
from steelyard.models.text.sentencepiece_model import metadata_from_sentencepiece
from steelyard.models.text.tokenizer import Tokenizer, byte_alphabet

TEXTS = (
    "Hello, world!", " leading and trailing ", "Grüße, 世界! 👩‍👩‍👧‍👦 e\u0301",
    '{"a": [1, 2.5e-3, null], "b\\n": "\\u00e9"}',
    "line\nline\r\n\ttab   spaces", "<|im_end|> is text, so is </s> and <0x41>", "\x00\x01\x7f\x80",
)  # fmt: skip
LONG_TOKENS = (
    '{"', '":', '": "', '"}', '"},', "}}", "[[", "]]", "],", "\\", '\\"', "\\u", "00", "e+", "-1", "true", "false",
    "null", "  ", "\n\n", "\n ", "abc", "ab", "yes", "no", "ü", "é", "👩", '"a"', ',"b":', "</", "<|",
)  # fmt: skip
END = "<|im_end|>"
PADDED = 400  # wider than the vocabulary, as models' output layers are


def byte_level() -> Tokenizer:
    """A byte-level tokenizer of all bytes and of tokens that cross the borders of JSON's syntax and of characters."""
    alphabet = {byte: char for char, byte in byte_alphabet().items()}
    torn = [text.encode()[:-1] for text in ("é", "👩", "世")] + ["世".encode()[1:], b"\xff", b'"\x80']
    pieces = [alphabet[byte] for byte in range(256)]
    for text in [text.encode() for text in LONG_TOKENS] + torn:
        piece = "".join(alphabet[byte] for byte in text)
        pieces += [piece] if piece not in pieces else []
    backend = tokenizers.Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", END])
    return Tokenizer(backend.to_str(), eos_token_ids=[backend.token_to_id("<|endoftext|>")])


def sentencepiece_like() -> Tokenizer:
    """A SentencePiece tokenizer, which puts a space before every text and takes it off again."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.replace("\x00", "") for text in (*TEXTS, *LONG_TOKENS)] * 4),
        model_writer=out, model_type="bpe", vocab_size=380, byte_fallback=True, hard_vocab_limit=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    return tokenizer_from_gguf(metadata_from_sentencepiece(out.getvalue()))


TOKENIZERS = {"byte-level": byte_level(), "sentencepiece": sentencepiece_like()}
BACKENDS = {name: LlguidanceBackend(t, PADDED, t.eos_token_ids) for name, t in TOKENIZERS.items()}


def complete(
    constraint: Constraint, seed: int, kind: str = "byte-level", *, max_tokens: int = 300, **params: Any
) -> CompletionState:
    """Complete with logits that are noise, a little in favour of ends so that texts stay short."""
    tokenizer = TOKENIZERS[kind]
    follower = ConstraintFollower(GrammarStore(lambda: BACKENDS[kind]))
    chosen = SamplingParams(max_tokens=max_tokens, constraint=constraint, **params)
    sequence = Sequence(id=0, request_id="r", index=0, prompt=(1,), params=chosen, seed=seed, arrival_s=0.0)
    state = CompletionState(
        sequence, tokenizer.eos_token_ids, 10_000,
        lambda p: IncrementalDetokenizer(tokenizer, skip_special_tokens=p.skip_special_tokens, continues_text=True),
    )  # fmt: skip
    noise = np.random.default_rng(seed)
    likely = [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) in (b'"', b"}", b"]", b'"}', b"}}")]
    sampler = Sampler(tokenizer.eos_token_ids)
    while state.finish_reason is None:
        logits = torch.from_numpy(noise.normal(size=(1, PADDED)).astype(np.float32))
        logits[0, [*likely, *tokenizer.eos_token_ids]] += 4.0
        suppress, failed = follower.look_ahead([sequence], logits.device)
        assert not failed, failed
        (token,) = follower.note([sequence], sampler.sample(logits, [sequence], suppress))
        state.push(token)
    return state


def finished(states: Iterable[CompletionState]) -> list[str]:
    """Return the texts of those that ended by themselves."""
    return [s.snapshot().text for s in states if s.finish_reason is FinishReason.STOP]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_spell_for_the_grammar_what_they_spell_for_the_tokenizer(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text, add_special_tokens=False)
    spelt = b"".join(tokenizer.token_bytes(i) for i in ids).decode()
    assert spelt.lstrip(" ") == text.lstrip(" ")
    matcher = BACKENDS[kind].compile(Constraint.choice([spelt])).start()
    for token in ids:
        assert not matcher.is_complete
        assert not BACKENDS[kind].forbidden([matcher])[0, token]
        matcher.consume([token])
    assert matcher.problem is None
    assert matcher.is_complete
    other = BACKENDS[kind].compile(Constraint.choice([spelt + "!"])).start()
    other.consume(ids)
    assert not other.is_complete


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ends_are_allowed_just_where_the_text_may_end_and_other_control_tokens_never(kind: str) -> None:
    tokenizer, backend = TOKENIZERS[kind], BACKENDS[kind]
    matcher = backend.compile(Constraint.regex("a(bc*)?")).start()
    ends, seen = sorted(tokenizer.eos_token_ids), []
    others = sorted(tokenizer.control_token_ids - tokenizer.eos_token_ids)
    by_bytes = {
        tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size) if i not in tokenizer.control_token_ids
    }
    for text in (b"a", b"b", b"c"):
        forbidden = backend.forbidden([matcher])[0]
        assert forbidden[others].all()
        assert forbidden[tokenizer.vocab_size :].all()
        seen.append(not forbidden[ends].any())
        assert seen[-1] != forbidden[ends].all()
        matcher.consume([by_bytes[text]])
    assert seen == [False, True, True]


def test_masks_of_many_matchers_are_those_of_each() -> None:
    backend = BACKENDS["byte-level"]
    grammars = [
        backend.compile(c) for c in (Constraint.json_object(), Constraint.regex("[ab]+"), Constraint.choice("xy"))
    ]
    matchers = [grammar.start() for grammar in grammars * 3]
    together = backend.forbidden(matchers)
    assert (together == np.concatenate([backend.forbidden([matcher]) for matcher in matchers])).all()
    assert together.shape == (9, PADDED)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=4), st.lists, max_leaves=3
)
NAMES = st.sampled_from(["a", "b", "name", "größe", 'q"uote', "back\\slash", "x y", "</s>"])


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(NAMES, inner, min_size=1, max_size=3)
    return st.tuples(properties, st.booleans(), st.booleans()).map(
        lambda p: {
            "type": "object", "properties": p[0], "required": list(p[0]) if p[1] else [], "additionalProperties": p[2],
        }
    )  # fmt: skip


SCHEMAS = st.recursive(
    st.one_of(
        st.sampled_from([{"type": kind} for kind in ("string", "integer", "number", "boolean", "null")]),
        st.tuples(st.integers(-50, 50), st.integers(0, 99)).map(
            lambda a: {"type": "integer", "minimum": a[0], "maximum": sum(a)}
        ),
        st.tuples(st.integers(0, 3), st.integers(0, 3)).map(
            lambda a: {"type": "string", "minLength": a[0], "maxLength": sum(a)}
        ),
        st.sampled_from(["^[a-c]{2,4}$", "^x?y+$", "^[0-9]{3}-[^a]$"]).map(lambda p: {"type": "string", "pattern": p}),
        st.lists(JSON_VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
        JSON_VALUES.map(lambda value: {"const": value}),
    ),
    lambda inner: st.one_of(
        objects(inner),
        st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
            lambda a: {"type": "array", "items": a[0], "minItems": a[1], "maxItems": a[1] + a[2]}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150)
@given(schema=SCHEMAS, seed=st.integers(0, 1000), kind=st.sampled_from(sorted(TOKENIZERS)), greedy=st.booleans())
def test_what_ends_by_itself_is_valid(schema: dict[str, Any], seed: int, kind: str, greedy: bool) -> None:
    state = complete(Constraint.json_schema(schema), seed, kind, temperature=0.0 if greedy else 1.0)
    for text in finished([state]):
        Draft202012Validator(schema).validate(json.loads(text))


def test_most_texts_end_by_themselves() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
        "required": ["a", "b"],
    }
    for kind in TOKENIZERS:
        texts = finished(complete(Constraint.json_schema(schema), seed, kind) for seed in range(8))
        assert len(texts) >= 4
        assert all(set(json.loads(text)) >= {"a", "b"} for text in texts)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    "pattern", ["[0-9]{3}-[a-z]{2}", "(yes|no)( maybe)?", '^a/b\n"[^x]$', " {1,3}x", "ü+|👩|\\w{2}"]
)
def test_regular_expressions_match_the_whole_text(kind: str, pattern: str) -> None:
    for text in finished(complete(Constraint.regex(pattern), seed, kind) for seed in range(4)):
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_choices_and_grammars(kind: str) -> None:
    choices = ["yes", "no", "yes, but", ' "quoted"\n', "größe"]
    found = finished(complete(Constraint.choice(choices), seed, kind) for seed in range(12))
    assert len(found) == 12
    assert set(found) <= set(choices)
    assert len(set(found)) > 1
    nested = Constraint.grammar('start: "(" start ")" | "x"')
    for text in finished(complete(nested, seed, kind, max_tokens=40) for seed in range(5)):
        assert re.fullmatch(r"\(*x\)*", text)
        assert text.count("(") == text.count(")")


@pytest.mark.parametrize(
    "params",
    [{"min_tokens": 50}, {"ignore_eos": True}, {"ignore_eos": True, "min_tokens": 9, "skip_special_tokens": False},
     {"frequency_penalty": 2.0, "repetition_penalty": 3.0}, {"logit_bias": {0: 100.0, 5: -100.0}, "top_k": 3},
     {"top_p": 0.1, "min_p": 0.5, "logprobs": 3}, {"stop_token_ids": (97, 98, 99), "min_tokens": 50}],
)  # fmt: skip
def test_a_constraint_goes_before_all_other_wishes(params: dict[str, Any]) -> None:
    for seed in range(3):
        state = complete(Constraint.regex("[a-c]{3,5}"), seed, **params)
        assert state.finish_reason is FinishReason.STOP
        assert re.fullmatch("[a-c]{3,5}", state.snapshot().text)


def test_min_tokens_keeps_a_text_going_where_the_constraint_lets_it() -> None:
    assert complete(Constraint.regex("(a|b)+"), 1, min_tokens=30).sequence.num_output_tokens >= 30


def test_max_tokens_and_stop_strings_cut_a_text_short() -> None:
    assert complete(Constraint.regex("a{50,}"), 1, max_tokens=5).finish_reason is FinishReason.LENGTH
    stopped = complete(Constraint.regex("a{9}b{9}c"), 1, stop=("ab",))
    assert stopped.snapshot().text == "a" * 8


def test_white_space_cannot_go_on_for_ever() -> None:
    rng = Random(1)
    backend, tokenizer = BACKENDS["byte-level"], TOKENIZERS["byte-level"]
    matcher = backend.compile(Constraint.json_schema({"type": "object", "maxProperties": 0})).start()
    blank = [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i).isspace()]
    matcher.consume([tokenizer.encode("{")[0]])
    num_blanks = 0
    while num_blanks < 200 and (allowed := [i for i in blank if not backend.forbidden([matcher])[0, i]]):
        matcher.consume([rng.choice(allowed)])
        num_blanks += 1
    assert 0 < num_blanks < 100


@pytest.mark.parametrize("name", ["date", "email", "hostname", "ipv4", "ipv6", "uuid"])  # those jsonschema can check
def test_known_formats_are_kept_to(name: str) -> None:
    schema = {"type": "string", "format": name}
    texts = finished(complete(Constraint.json_schema(schema), seed, max_tokens=500) for seed in range(3))
    for text in texts:
        Draft202012Validator(schema, format_checker=FormatChecker()).validate(json.loads(text))


def test_formats_that_nobody_knows_say_nothing() -> None:
    value = {"format": "int32"}
    schema = {
        "type": "object",
        "properties": {
            "format": {"type": "integer", "format": "int64", "minimum": 0, "maximum": 9},
            "b": {"const": value},
        },
        "required": ["format", "b"],
        "additionalProperties": False,
    }
    for text in finished(complete(Constraint.json_schema(schema), seed) for seed in range(3)):
        assert json.loads(text)["b"] == value
        Draft202012Validator(schema).validate(json.loads(text))


BLOW_UPS = {
    "unsatisfiable regex": Constraint.regex("[^\\s\\S]"),
    "look-ahead": Constraint.regex("(?=a)b"),
    "unclosed": Constraint.regex("(a"),
    "false": Constraint.json_schema({"allOf": [{"type": "string"}, {"type": "integer"}]}),
    "unknown keyword": Constraint.json_schema({"not": {"type": "string"}}),
    "endless reference": Constraint.json_schema({"$ref": "#"}),
    "remote reference": Constraint.json_schema({"$ref": "http://localhost:1/x"}),
    "product of alternatives": Constraint.json_schema(
        {"allOf": [{"anyOf": [{"properties": {f"k{j}": {"const": i}}} for i in range(4)]} for j in range(12)]}
    ),
    "endless rule": Constraint.grammar("start: start"),
    "no start": Constraint.grammar('begin: "a"'),
    "doubling terminals": Constraint.grammar(
        'start: R30\nR0: "a"\n' + "\n".join(f"R{i}: R{i - 1} R{i - 1}" for i in range(1, 31))
    ),
}


@pytest.mark.parametrize("name", BLOW_UPS)
def test_what_is_wrong_or_too_much_is_refused_by_name(name: str) -> None:
    with pytest.raises(ParamsError) as caught:
        BACKENDS["byte-level"].compile(BLOW_UPS[name])
    assert caught.value.field == BLOW_UPS[name].kind.value
    assert "%llguidance" not in str(caught.value), "our own grammar is nobody's business"


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint.grammar('start: start start | start start start | "a"'),
        Constraint.grammar('start: x x x x x x\nx: "a"* | x "a"*'),
        Constraint.regex("(.*a.{30}){3}"),
        Constraint.regex(".*(a.{0,200}b|c.{0,300}d).{0,200}e.*"),
        Constraint.regex("((a{0,99}){0,99}){0,99}b"),
        Constraint.json_schema({"type": "string", "maxLength": 10**7}),
    ],
)
def test_texts_that_become_too_much_to_follow_come_to_an_end(constraint: Constraint) -> None:
    """Either the limits of a step end them, or they cost little: this test would not return otherwise."""
    backend = BACKENDS["byte-level"]
    matcher, rng = backend.compile(constraint).start(), np.random.default_rng(0)
    for _ in range(400):
        forbidden = backend.forbidden([matcher])[0]
        if matcher.problem is not None or matcher.is_complete:
            break
        matcher.consume([int(rng.choice(np.flatnonzero(~forbidden)))])


def test_a_model_without_an_end_is_refused() -> None:
    with pytest.raises(ParamsError, match="needs a model with an end-of-sequence token"):
        LlguidanceBackend(TOKENIZERS["byte-level"], PADDED, ())
