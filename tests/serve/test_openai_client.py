"""The official OpenAI client against a real server with the default model."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

COUNT, NEXT = "1, 2, 3, 4,", " 5,"
ASK: list[Any] = [{"role": "user", "content": "Name the capital of France."}]


def ask(client: openai.OpenAI, **changes: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "smol", "messages": ASK, "temperature": 0, "max_tokens": 8} | changes
    )


def test_chat(client):
    answer = ask(client)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "smol"
    (choice,) = answer.choices
    assert "Paris" in choice.message.content
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    assert choice.logprobs is None
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 8


def test_an_alias_is_answered_in_the_models_name(client):
    assert ask(client, model="alias").model == "smol"


def test_the_same_prompt_again_comes_from_the_cache(client):
    long = [{"role": "user", "content": "Tell me of cached prompts. " * 12}]
    ask(client, messages=long)
    usage = ask(client, messages=long).usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


def test_stream_is_the_same_answer(client):
    whole = ask(client, n=2, seed=3, temperature=1.0)
    texts, reasons, roles, usages = ["", ""], [None, None], [0, 0], []
    for chunk in ask(client, n=2, seed=3, temperature=1.0, stream=True, stream_options={"include_usage": True}):
        assert chunk.object == "chat.completion.chunk"
        usages.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] += choice.delta.role == "assistant"
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert roles == [1, 1]
    assert usages[:-1] == [None] * (len(usages) - 1)
    assert usages[-1].completion_tokens == whole.usage.completion_tokens


def test_stream_without_usage(client):
    assert all(chunk.usage is None and chunk.choices for chunk in ask(client, stream=True))


def test_seed_decides(client):
    def text(seed):
        return ask(client, seed=seed, temperature=1.5).choices[0].message.content

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(6)}) > 1


def test_stop_strings(client):
    counting = {"prompt": "1 2 3 4 5 6 7", "max_tokens": 20, "temperature": 0, "model": "smol"}
    choice = client.completions.create(**counting, stop=["11"]).choices[0]
    assert "10" in choice.text
    assert "11" not in choice.text
    assert choice.finish_reason == "stop"
    assert choice.stop_reason == "11"


def test_chat_logprobs(client):
    choice = ask(client, logprobs=True, top_logprobs=3).choices[0]
    entries = choice.logprobs.content
    assert "".join(entry.token for entry in entries).startswith(choice.message.content)
    for entry in entries:
        assert bytes(entry.bytes).decode() == entry.token
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == entry.logprob  # greedy
        assert entry.logprob <= 0


def test_streamed_logprobs_are_all_there(client):
    whole = ask(client, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    streamed = [
        entry
        for chunk in ask(client, logprobs=True, top_logprobs=1, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [e.token for e in streamed] == [e.token for e in whole]
    assert [e.logprob for e in streamed] == [e.logprob for e in whole]


def test_logit_bias_and_extra_fields(client):
    banned = client.chat.completions.create(model="smol", messages=ASK, max_tokens=1, temperature=0, logprobs=True)
    first = banned.choices[0].logprobs.content[0].token
    tokens = client.post("/../tokenize", body={"prompt": first, "model": "smol"}, cast_to=object)["tokens"]
    changed = ask(client, max_tokens=1, logit_bias={str(tokens[0]): -100}).choices[0].message.content
    assert changed != first
    extra = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True, "min_tokens": 3, "priority": 2}
    answer = ask(client, temperature=1.0, extra_body=extra, user="u", metadata={"a": "b"}, store=False)
    assert answer.usage.completion_tokens == 8


def test_continue_final_message(client):
    begun = [*ASK, {"role": "assistant", "content": "The capital of France is the city of"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    answer = ask(client, messages=begun, extra_body=extra)
    assert answer.choices[0].message.content.startswith(" ")
    assert "Paris" in answer.choices[0].message.content


def test_completions_of_texts_and_tokens(client):
    answer = client.completions.create(model="smol", prompt=[COUNT, "A, B,"], max_tokens=3, temperature=0, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text == NEXT
    tokens = client.post("/../tokenize", body={"prompt": COUNT}, cast_to=object)["tokens"]
    by_ids = client.completions.create(model="smol", prompt=tokens, max_tokens=3, temperature=0)
    assert by_ids.choices[0].text == NEXT
    several = client.completions.create(model="smol", prompt=[tokens, tokens], max_tokens=3, temperature=0)
    assert [choice.text for choice in several.choices] == [NEXT] * 2
    assert client.completions.create(model="smol", prompt="Hello").usage.completion_tokens <= 16


def test_streamed_completions_of_several_prompts(client):
    asked = {"model": "smol", "prompt": [COUNT, "A, B,"], "max_tokens": 4, "temperature": 0}
    whole = client.completions.create(**asked)
    texts = ["", ""]
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs(client, stream):
    asked = {"model": "smol", "prompt": COUNT, "max_tokens": 3, "temperature": 0, "echo": True, "logprobs": 2}
    if stream:
        choices = [chunk.choices[0] for chunk in client.completions.create(**asked, stream=True)]
    else:
        choices = client.completions.create(**asked).choices
    text = "".join(choice.text for choice in choices)
    tokens = [token for choice in choices for token in choice.logprobs.tokens]
    logprobs = [one for choice in choices for one in choice.logprobs.token_logprobs]
    offsets = [one for choice in choices for one in choice.logprobs.text_offset]
    assert text == COUNT + NEXT
    assert "".join(tokens) == text
    assert logprobs[0] is None
    assert all(one <= 0 for one in logprobs[1:])
    assert offsets == [len("".join(tokens[:i])) for i in range(len(tokens))]


def test_prompt_logprobs(client):
    extra = {"prompt_logprobs": 1}
    choice = client.completions.create(model="smol", prompt=COUNT, max_tokens=1, extra_body=extra).choices[0]
    first, *others = choice.prompt_logprobs
    assert first is None
    assert choice.text != COUNT
    ids = client.post("/../tokenize", body={"prompt": COUNT}, cast_to=object)["tokens"]
    for token_id, entries in zip(ids[1:], others, strict=True):
        assert 1 <= len(entries) <= 2
        assert entries[str(token_id)]["logprob"] <= 0
        assert min(entry["rank"] for entry in entries.values()) == 1
    assert len(ask(client, extra_body=extra).prompt_logprobs) > len(ids)
    assert ask(client).prompt_logprobs is None
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, extra_body=extra, stream=True)
    assert caught.value.param == "prompt_logprobs"


def test_usage_in_every_chunk(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    for create in (lambda **more: ask(client, **more), lambda **more: client.completions.create(
        model="smol", prompt=COUNT, max_tokens=5, **more
    )):  # fmt: skip
        counts = [chunk.usage.completion_tokens for chunk in create(stream=True, stream_options=options)]
        assert counts == sorted(counts)
        assert counts[-1] > counts[0]


def test_echo_alone(client):
    answer = client.completions.create(model="smol", prompt=COUNT, max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].text == COUNT
    assert answer.usage.completion_tokens == 0
    assert "".join(answer.choices[0].logprobs.tokens) == COUNT


def test_models(client):
    assert [model.id for model in client.models.list()] == ["smol", "alias"]
    assert client.models.retrieve("alias").owned_by == "steelyard"


def test_async_client(live):
    async def main():
        key = "secret-of-bob"
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0) as client:
            asked = {"model": "smol", "messages": ASK, "max_tokens": 6, "temperature": 0}
            stream = await client.chat.completions.create(**asked, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            answers = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(6)))
            return text, [answer.choices[0].message.content for answer in answers]

    text, texts = asyncio.run(main())
    assert texts == [text] * 6


BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 300}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 100}, "n"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 100_000}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
    ({"stop": ["x"] * 20}, "stop"),
    ({"stop": "x" * 300}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop": ["x", 5]}, "stop"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias"),
    ({"logit_bias": {"900000": 1}}, "logit_bias"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "us er", "content": "x"}]}, "messages[0].role"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
    ({"extra_body": {"chat_template_kwargs": {"messages": "x"}}}, "messages"),
    ({"extra_body": {"chat_template_kwargs": {"now": "x"}}}, "now"),
    ({"extra_body": {"chat_template_kwargs": {"tokenizer": "x"}}}, "tokenizer"),
    ({"extra_body": {"chat_template_kwargs": {"deep": {"a": 1}}}}, "deep"),
    ({"extra_body": {"continue_final_message": True}}, "continue_final_message"),
    ({"extra_body": {"top_k": 1.5}}, "top_k"),
    ({"extra_body": {"timeout": 0}}, "timeout"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b"}}]}]},
     "messages[0].content[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "param"), BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_named(client, changes, param, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **{"stream": stream} | changes if "stream_options" not in changes else changes)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"prompt": ["a"] * 5, "n": 5}, "n"),
        ({"prompt": [1, 99_999_999]}, "prompt_token_ids"),
        ({"prompt": [-1]}, "prompt_token_ids"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"logprobs": 99}, "logprobs"),
    ],
)
def test_wrong_completions_are_named(client, changes, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "smol", "prompt": "x"} | changes)
    assert caught.value.param == param


def test_best_of_n_and_empty_suffix_are_fine(client):
    assert client.completions.create(model="smol", prompt="x", n=2, best_of=2, suffix="", max_tokens=1).choices


def test_a_prompt_too_long_has_its_code(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="smol", prompt="word " * 600)
    assert caught.value.code == "context_length_exceeded"


def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="gpt-4")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_a_wrong_key(live):
    with pytest.raises(openai.AuthenticationError) as caught:
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="wrong-secret", max_retries=0).models.list()
    assert "wrong-secret" not in str(caught.value)


def test_a_full_queue(client, live):
    with ask(client, n=20, max_tokens=400, stream=True, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
        assert int(caught.value.response.headers["retry-after"]) >= 1
    live.eventually(lambda: live.engine.num_running == 0)
    assert ask(client).choices


def test_a_deadline_ends_the_answer_as_it_is(client):
    choice = ask(client, max_tokens=480, extra_body={"timeout": 0.05, "ignore_eos": True}).choices[0]
    assert choice.finish_reason == "length"
    assert choice.stop_reason == "deadline"
