"""Vectors, scores and orders of documents, asked of a real server with the official client and without."""

from __future__ import annotations

import base64
import math

import httpx
import numpy as np
import openai
import pytest
from live_server import KEYS, metric

CAT, KITTEN, TAX = "A cat sat on the mat.", "A kitten sat on the mat.", "Income tax law of 1986"


def vectors(client: openai.OpenAI, given: object, **more: object) -> list[list[float]]:
    answer = client.embeddings.create(model="smol", input=given, **more)  # type: ignore[arg-type]
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return [one.embedding for one in answer.data]


def test_vectors_have_length_one_and_know_likeness(client):
    cat, kitten, tax = vectors(client, [CAT, KITTEN, TAX])
    assert len(cat) == 576
    assert math.fsum(x * x for x in cat) == pytest.approx(1.0, abs=1e-5)
    assert np.dot(cat, kitten) > np.dot(cat, tax)


def test_one_text_many_texts_and_token_ids_are_the_same(client, http):
    tokens = http.post("/tokenize", json={"prompt": CAT}).json()["tokens"]
    (one,) = vectors(client, CAT)
    assert vectors(client, [KITTEN, CAT])[1] == one
    assert vectors(client, tokens) == [one]
    assert vectors(client, [tokens, tokens]) == [one, one]


def test_numbers_and_bytes_are_the_same(http):
    def raw(encoding: str) -> object:
        answer = http.post("/v1/embeddings", json={"input": CAT, "encoding_format": encoding}).json()
        assert answer["object"] == "list"
        assert answer["model"] == "smol"
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 5
        return answer["data"][0]["embedding"]

    numbers, text = raw("float"), raw("base64")
    np.testing.assert_array_equal(np.float32(numbers), np.frombuffer(base64.b64decode(text), "<f4"))


def test_fewer_dimensions_are_the_first_ones_scaled_anew(client):
    (whole,), (short,) = vectors(client, CAT), vectors(client, CAT, dimensions=64)
    assert len(short) == 64
    np.testing.assert_allclose(short, np.float64(whole[:64]) / np.linalg.norm(whole[:64]), atol=1e-6)
    raw = {"normalize": False}
    (long,), (cut,) = vectors(client, CAT, extra_body=raw), vectors(client, CAT, dimensions=8, extra_body=raw)
    assert cut == long[:8]
    assert np.linalg.norm(long) > 1.5


def test_the_last_token_may_stand_for_the_text(client):
    (mean,), (last,) = vectors(client, CAT), vectors(client, CAT, extra_body={"pooling": "last"})
    assert mean != last
    assert vectors(client, TAX + CAT, extra_body={"pooling": "last"})[0] != last


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * 9}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [10**9]}, "prompt_token_ids"),
        ({"input": "word " * 600}, "input"),
        ({"input": "a", "dimensions": 577}, "dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "truncate_prompt_tokens": 4}, "truncate_prompt_tokens"),
        ({"input": "a", "pooling": "max"}, "pooling"),
    ],
)
def test_what_cannot_be_is_refused_by_name(http, body, param):
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_the_official_clients_errors(client, live):
    with pytest.raises(openai.BadRequestError) as caught:
        vectors(client, "word " * 600)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="none", input="a")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong-key").embeddings.create(model="smol", input="a")
    live.eventually(lambda: live.engine.num_running == 0)
    live.on_loop(live.engine.check_invariants)


def test_a_deadline_gives_a_request_up(http, live):
    answer = http.post("/v1/embeddings", json={"input": ["word " * 400] * 8, "timeout": 0.001})
    assert answer.status_code in (503, 504)
    live.eventually(lambda: live.engine.num_running == 0)


def test_scores(http):
    def scores(first: object, second: object, path: str = "/v1/score") -> list[float]:
        answer = http.post(path, json={"text_1": first, "text_2": second}).json()
        assert [one["index"] for one in answer["data"]] == list(range(len(answer["data"])))
        assert all(one["object"] == "score" for one in answer["data"])
        assert answer["usage"]["prompt_tokens"] > 0
        return [one["score"] for one in answer["data"]]

    near, far = scores(CAT, [KITTEN, TAX])
    assert -1 <= far < near < 1
    assert scores(CAT, CAT) == [pytest.approx(1.0)]
    assert scores([CAT, CAT], [KITTEN, TAX]) == [near, far]
    assert scores(CAT, KITTEN, "/score") == [near]


@pytest.mark.parametrize(
    ("first", "second", "param"),
    [([CAT, CAT], CAT, "text_1"), ([], CAT, "text_1"), (CAT, [], "text_2"), (CAT, "", "text_2")],
)
def test_texts_that_cannot_be_paired(http, first, second, param):
    answer = http.post("/v1/score", json={"text_1": first, "text_2": second})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_documents_in_order(http, path):
    asked = {"query": CAT, "documents": [TAX, {"text": KITTEN}, "The cat sat."]}
    answer = http.post(path, json=asked).json()
    results = answer["results"]
    scores = [one["relevance_score"] for one in results]
    assert scores == sorted(scores, reverse=True)
    assert sorted(one["index"] for one in results) == [0, 1, 2]
    assert results[-1]["index"] == 0
    assert answer["usage"]["total_tokens"] > 10
    if path == "/v2/rerank":
        assert all("document" not in one for one in results)
    else:
        assert results[-1]["document"] == {"text": TAX}
    (best,) = http.post(path, json=asked | {"top_n": 1, "return_documents": path == "/v2/rerank"}).json()["results"]
    assert best["index"] == results[0]["index"]
    assert ("document" in best) == (path == "/v2/rerank")


def test_long_documents_are_cut_off_if_asked(http):
    asked = {"query": CAT, "documents": [CAT + " tax law" * 300]}
    assert http.post("/v1/rerank", json=asked).json()["error"]["param"] == "documents"
    (cut,) = http.post("/v1/rerank", json=asked | {"max_tokens_per_doc": 4}).json()["results"]
    (own,) = http.post("/v1/rerank", json={"query": CAT, "documents": ["A cat sat on"]}).json()["results"]
    assert cut["relevance_score"] == own["relevance_score"]


@pytest.mark.parametrize(
    ("body", "param"),
    [({"documents": ["a"]}, "query"), ({"query": "a", "documents": []}, "documents"),
     ({"query": "a", "documents": ["b"], "top_n": 0}, "top_n"), ({"query": "a", "documents": ["b"] * 8}, "documents"),
     ({"query": "a", "documents": [{"text": "b", "title": "c"}]}, "documents[0]")],
)  # fmt: skip
def test_orders_that_cannot_be_made(http, body, param):
    answer = http.post("/v1/rerank", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_every_key_may_ask_again(live):
    text = "Something long enough for several blocks. " * 6
    for name in KEYS:
        with httpx.Client(base_url=live.url, headers={"X-API-Key": KEYS[name]}, timeout=60) as http:
            for _ in range(2):
                assert http.post("/v1/embeddings", json={"input": text, "pooling": "last"}).status_code == 200


def test_the_cache_of_one_key_is_no_other_keys(http, live):
    """Prompts that one key had pooled or completed are found cached by itself alone."""
    text = {"model": "smol", "input": "What one key has asked, no other may learn. " * 6}

    def num_hits(key: str, path: str, body: dict[str, object]) -> float:
        headers = {"Authorization": f"Bearer {KEYS[key]}"}
        before = hits()
        assert httpx.post(live.url + path, json=body, headers=headers, timeout=60).status_code == 200
        return hits() - before

    def hits() -> float:
        return metric(http.get("/metrics").text, "vllm:prefix_cache_hits_total")

    pair = {"text_1": "Another text that only one has sent before. " * 6, "text_2": "x"}
    completion = {"model": "smol", "prompt": text["input"] + "And more.", "max_tokens": 1}
    num_hits("ann", "/v1/embeddings", text)
    num_hits("ann", "/v1/score", pair)
    num_hits("ann", "/v1/completions", completion)
    assert num_hits("bob", "/v1/embeddings", text) == 0
    assert num_hits("bob", "/v1/score", pair) == 0
    assert num_hits("ann", "/v1/completions", completion) > 0
