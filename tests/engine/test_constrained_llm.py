"""Constraints on the default model, through the front door: fulfilled whatever happens, and nobody else's business."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import pytest
from jsonschema import Draft202012Validator

from steelyard import LLM, SamplingParams
from steelyard.core.constraint import Constraint
from steelyard.core.errors import ParamsError
from steelyard.core.request import CompletionOutput, FinishReason, Request, RequestOutput, SampledToken
from steelyard.engine import build
from steelyard.engine.build import grammar_store

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["big", "small"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
ASK = [{"role": "user", "content": "Describe a person as JSON."}]
REGEX = "[0-9]{3}-[A-Z]{2}"
CHOICES = ["Berlin", "Paris", "the Hague"]
BAD = Constraint.grammar('start: start start | start start start | "a"')


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(max_model_len=512, seed=3) as engine:
        yield engine


def answers(llm: LLM, constraint: Constraint | None, **params: object) -> list[CompletionOutput]:
    (output,) = llm.chat(ASK, SamplingParams(constraint=constraint, **{"max_tokens": 120, **params}))  # type: ignore[arg-type]
    return list(output.outputs)


def check(constraint: Constraint, output: CompletionOutput) -> None:
    assert output.finish_reason is FinishReason.STOP
    match constraint.kind.value:
        case "json_schema":
            Draft202012Validator(PERSON).validate(json.loads(output.text))
        case "regex":
            assert re.fullmatch(REGEX, output.text)
        case "choice":
            assert output.text in CHOICES
        case "grammar":
            assert re.fullmatch(r"1(\+1)*", output.text)


CONSTRAINTS = [
    Constraint.json_schema(PERSON),
    Constraint.regex(REGEX),
    Constraint.choice(CHOICES),
    Constraint.grammar('start: one ("+" one){0,5}\none: "1"'),
]


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda constraint: constraint.kind.value)
def test_whatever_the_temperature_the_text_is_as_asked(llm: LLM, constraint: Constraint) -> None:
    for output in answers(llm, constraint, temperature=0.0) + answers(llm, constraint, temperature=1.0, n=6, seed=1):
        check(constraint, output)
    for output in answers(llm, constraint, temperature=1.5, n=4, seed=2, repetition_penalty=1.3, logprobs=2):
        check(constraint, output)
        assert output.logprobs is not None
        assert len(output.logprobs) == len(output.token_ids)


def test_any_object_is_an_object_if_it_ends(llm: LLM) -> None:
    ended = [o for o in answers(llm, Constraint.json_object(), n=8, seed=1) if o.finish_reason is FinishReason.STOP]
    assert all(isinstance(json.loads(output.text), dict) for output in ended)


def test_free_neighbours_keep_their_bits(llm: LLM) -> None:
    prompt = "The capital of Italy is"
    free = SamplingParams(temperature=1.0, seed=5, max_tokens=24, logprobs=2)
    (alone,) = llm.generate(prompt, free)
    bound = [
        SamplingParams(temperature=1.0, seed=i, max_tokens=60, constraint=c) for i, c in enumerate(CONSTRAINTS * 2)
    ]
    together = llm.generate([prompt] * 9, [free, *bound])
    assert together[0].outputs == alone.outputs
    for params, output in zip(bound, together[1:], strict=True):
        assert params.constraint is not None
        check(params.constraint, output.outputs[0])
        assert output.outputs == llm.generate(prompt, params)[0].outputs


@pytest.mark.parametrize(
    "options",
    [
        {"overlap_steps": True},
        {"enable_prefix_caching": False},
        {"num_kv_blocks": 11, "max_num_batched_tokens": 16},
    ],
)
def test_overlap_caching_chunks_and_preemption_change_nothing(llm: LLM, options: dict[str, int]) -> None:
    prompts = [f"{'A person. ' * (1 + i)}As JSON: " for i in range(6)]
    lines = Constraint.regex(r"([a-z]{2,9}[ ,]){200}")
    bound = [lines, CONSTRAINTS[0], lines, None, lines, lines]
    params = [SamplingParams(temperature=1.0, seed=i, max_tokens=80, constraint=c) for i, c in enumerate(bound)]
    expected = [output.outputs for output in llm.generate(prompts, params)]
    preempted = []

    def watch(record: object) -> None:
        preempted.extend(record.schedule.preempt)  # type: ignore[attr-defined]

    block_bytes = llm.engine.parts.runner.kv_shape.block_bytes
    few = {"kv_cache_memory_bytes": options.get("num_kv_blocks", 0) * block_bytes or None}
    rest = {name: value for name, value in options.items() if name != "num_kv_blocks"}
    with LLM(max_model_len=160, seed=3, observers=(watch,), **few, **rest) as other:
        assert [output.outputs for output in other.generate(prompts, params)] == expected
    assert bool(preempted) == ("num_kv_blocks" in options)


def test_an_answer_begun_elsewhere_goes_on_under_its_constraint(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, seed=4, max_tokens=60, constraint=CONSTRAINTS[0])
    ids = llm.engine.encode("As JSON: ")
    (whole,) = llm.generate("As JSON: ", params)
    (expected,) = whole.outputs
    known = tuple(SampledToken(token) for token in expected.token_ids)

    async def ends(cut: int) -> RequestOutput:
        request = Request(id=f"cut-{cut}", prompt_token_ids=ids, params=params, output=known[:cut])
        return await llm.engine.start().submit(request).result()

    for cut in (1, 7, len(known) - 1):
        output = asyncio.run_coroutine_threadsafe(ends(cut), llm._loop).result()
        assert output.outputs == (expected,)


def test_what_cannot_be_compiled_is_refused_at_the_door(llm: LLM) -> None:
    for constraint, field in ((Constraint.regex("(?=a)b"), "regex"), (Constraint.grammar("start: start"), "grammar")):
        with pytest.raises(ParamsError) as caught:
            answers(llm, constraint)
        assert caught.value.field == field


def test_what_becomes_too_much_fails_alone(llm: LLM) -> None:
    async def both() -> tuple[str, str]:
        engine = llm.engine
        bad = await engine.submit("a", SamplingParams(max_tokens=400, constraint=BAD, n=2))
        good = await engine.submit("a", SamplingParams(temperature=0.0, max_tokens=300, constraint=CONSTRAINTS[0]))
        with pytest.raises(ParamsError, match="grammar: the text cannot be continued after"):
            await bad.result()
        ended = await good.result()
        engine.start().check_invariants()
        return ended.text, ended.outputs[0].finish_reason.value

    text, reason = asyncio.run_coroutine_threadsafe(both(), llm._loop).result()
    assert reason == "stop"
    json.loads(text)


def test_without_the_package_the_extra_is_named(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "llguidance_installed", lambda: False)
    store = grammar_store(llm.tokenizer, llm.tokenizer.vocab_size, llm.tokenizer.eos_token_ids)
    assert store is not None
    with pytest.raises(ParamsError, match=r"steelyard\[serve\]"):
        store.get(CONSTRAINTS[1])
    assert grammar_store(None, 10, frozenset()) is None
