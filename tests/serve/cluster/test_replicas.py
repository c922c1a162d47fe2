"""Replicas of the default model behind a socket: the same answers as one engine's, whatever dies meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from fleets import LiveFleet, live_fleet
from live_server import KEYS, LiveServer, metric

SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}}, "required": ["name"]}
CITY = "The three largest cities of Italy, in a list, are"
STORY: dict[str, Any] = {"model": "m", "prompt": "Once upon a time", "max_tokens": 200, "seed": 7, "temperature": 0.9}


@pytest.fixture(scope="module")
def fleet() -> Iterator[LiveFleet]:
    with live_fleet(2, modelled=False) as fleet:
        yield fleet


@pytest.fixture
def client(fleet: LiveFleet) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def told(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEYS['ann']}"}
    answer = httpx.post(url + path, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    for name in ("id", "created", "model"):
        said.pop(name, None)
    said.get("usage", {}).pop("prompt_tokens_details", None)  # the caches are others
    return said


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": CITY, "max_tokens": 24, "temperature": 0},
        {"prompt": CITY, "max_tokens": 24, "seed": 11, "temperature": 1.2, "top_p": 0.9},
        {"prompt": [CITY, "One, two,"], "max_tokens": 6, "seed": 3, "n": 2, "logprobs": 2, "echo": True},
        {"prompt": CITY, "max_tokens": 40, "temperature": 0, "stop": [".", "3"], "include_stop_str_in_output": True},
        {"prompt": CITY, "max_tokens": 8, "temperature": 0, "logit_bias": {"253": 5.0}, "frequency_penalty": 0.5},
        {"prompt": CITY, "max_tokens": 30, "seed": 5, "structured_outputs": {"json": SCHEMA}},
    ],
)
def test_completions_are_one_engines_to_the_token(fleet: LiveFleet, live: LiveServer, body: dict[str, Any]):
    assert told(fleet.url, "/v1/completions", body) == told(live.url, "/v1/completions", body)


def test_vectors_and_scores_are_one_engines_to_the_bit(fleet: LiveFleet, live: LiveServer):
    texts = {"input": ["A cat", "Income tax"]}
    assert told(fleet.url, "/v1/embeddings", texts) == told(live.url, "/v1/embeddings", texts)
    query = {"query": "pets", "documents": ["A cat", "Income tax"], "pooling": "last"}
    assert told(fleet.url, "/v1/rerank", query) == told(live.url, "/v1/rerank", query)


def test_chats_with_tools_are_one_engines(fleet: LiveFleet, live: LiveServer):
    tool = {"type": "function", "function": {"name": "find", "parameters": SCHEMA}}
    body = {"messages": [{"role": "user", "content": "Find Rome"}], "tools": [tool], "tool_choice": "required"}
    body |= {"temperature": 0, "max_tokens": 60}
    ours, theirs = (told(url, "/v1/chat/completions", body)["choices"][0] for url in (fleet.url, live.url))
    for choice in (ours, theirs):
        for call in choice["message"]["tool_calls"]:
            call.pop("id")
    assert ours == theirs


def test_wrong_requests_are_refused_before_a_stream_begins(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model="m", prompt=[1] * 600, stream=True)
    with pytest.raises(openai.BadRequestError, match="guided_regex"):
        client.completions.create(model="m", prompt="a", stream=True, extra_body={"guided_regex": "("})
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        client.completions.create(model="m", prompt=[10**6], stream=True)


def read(client: openai.OpenAI, body: dict[str, Any], began: threading.Event, said: list[str]) -> None:
    for event in client.completions.create(**body, stream=True):
        said.append(event.choices[0].text)
        if len(said) == 20:
            began.set()


def test_a_killed_replicas_streams_go_on_unbroken_in_other_places(fleet: LiveFleet, client: openai.OpenAI):
    bodies = [STORY, STORY | {"temperature": 0}, STORY | {"seed": 8}]
    whole = [client.completions.create(**body).choices[0].text for body in bodies]
    began = [threading.Event() for _ in bodies]
    said: list[list[str]] = [[] for _ in bodies]
    readers = [threading.Thread(target=read, args=(client, *one)) for one in zip(bodies, began, said, strict=True)]
    for reader in readers:
        reader.start()
    for one in began:
        assert one.wait(30)
    fleet.kill_busiest()
    for reader in readers:
        reader.join(60)
    assert ["".join(pieces) for pieces in said] == whole
    assert fleet.live.on_loop(lambda: fleet.llm.start().dispatcher.num_continuations) >= 1
    assert httpx.get(fleet.url + "/health").status_code == 200, "the other one is there"
    fleet.check_idle()
    fleet.wait_until_whole(2)


def test_equal_beginnings_meet_in_one_prefix_cache(fleet: LiveFleet, client: openai.OpenAI):
    prompt = "A long beginning that many questions share, " * 6
    cached = []
    for end in ("one", "two", "three", "four"):
        usage = client.completions.create(model="m", prompt=prompt + end, max_tokens=1).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens)
    assert cached[0] == 0
    assert all(num_tokens and num_tokens >= 48 for num_tokens in cached[1:])


def test_metrics_add_up(fleet: LiveFleet, client: openai.OpenAI):
    before = httpx.get(fleet.url + "/metrics").text
    body: dict[str, Any] = {"model": "m", "prompt": "One, two", "max_tokens": 12, "n": 3}
    answer = client.completions.create(**body, extra_body={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 36

    def gained(name: str) -> float:
        after = httpx.get(fleet.url + "/metrics").text
        return metric(after, name, model_name="m") - metric(before, name, model_name="m")

    fleet.check_idle()
    assert gained("vllm:generation_tokens_total") == 36
    assert gained("vllm:inter_token_latency_seconds_count") == 33
    assert gained("vllm:prefix_cache_queries_total") > 0
    assert gained("vllm:time_to_first_token_seconds_count") == 1
