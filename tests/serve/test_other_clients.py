"""LangChain and LiteLLM against a real server with the default model."""

from __future__ import annotations

import os
from importlib import import_module

import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from live_server import KEYS, LiveServer

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network for prices when it is imported
litellm = import_module("litellm")

ASK = "Name the capital of France."


@pytest.fixture
def chain(live: LiveServer) -> ChatOpenAI:
    return ChatOpenAI(
        model="smol", base_url=f"{live.url}/v1", api_key=KEYS["ann"], temperature=0, max_tokens=8, max_retries=0
    )


def test_langchain_answers(chain):
    answer = chain.invoke(ASK)
    assert "Paris" in answer.content
    assert answer.usage_metadata["input_tokens"] > 0
    assert 0 < answer.usage_metadata["output_tokens"] <= 8


def test_langchain_streams(chain):
    whole = None
    for chunk in chain.stream(ASK, stream_usage=True):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert whole.content == chain.invoke(ASK).content
    assert whole.usage_metadata["output_tokens"] > 0


def test_langchain_embeds(live, client):
    embeddings = OpenAIEmbeddings(
        model="smol", base_url=f"{live.url}/v1", api_key=KEYS["ann"], check_embedding_ctx_length=False
    )
    one, two = embeddings.embed_documents([ASK, "Hello"])
    assert embeddings.embed_query(ASK) == one
    assert one == client.embeddings.create(model="smol", input=ASK).data[0].embedding != two


@pytest.fixture
def at(live: LiveServer) -> dict[str, object]:
    return {"model": "openai/smol", "api_base": f"{live.url}/v1", "api_key": KEYS["ann"], "num_retries": 0}


def test_litellm_answers_and_streams(at):
    asked = {**at, "messages": [{"role": "user", "content": ASK}], "temperature": 0, "max_tokens": 8}
    answer = litellm.completion(**asked)
    assert "Paris" in answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)]
    assert "".join(pieces) == answer.choices[0].message.content


def test_litellm_embeds(at):
    answer = litellm.embedding(**at, input=[ASK, "Hello"], encoding_format="float")
    assert [len(one["embedding"]) for one in answer.data] == [576, 576]


def test_litellm_knows_the_errors(at):
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**at | {"model": "openai/none"}, messages=[{"role": "user", "content": ASK}])
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**at | {"api_key": "wrong-key"}, messages=[{"role": "user", "content": ASK}])
