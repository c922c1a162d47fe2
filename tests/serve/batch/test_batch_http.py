"""Files and batches over HTTP, with the official client, against a real server with the default model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from live_server import KEYS, LiveServer, live_server, wait_until

from steelyard.engine.build import LLMOptions
from steelyard.serve.config import AccessConfig, BatchConfig, LimitsConfig, ListenConfig, ModelSpec, ServeConfig
from steelyard.serve.sources import DiskModels

NAME = "smol"


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Iterator[LiveServer]:
    """A server that keeps batches, with two keys."""
    store = tmp_path_factory.mktemp("batch") / "store"
    config = ServeConfig(
        models=(ModelSpec(source=None, names=(NAME,)),),
        listen=ListenConfig(port=0, drain_timeout_s=5.0),
        access=AccessConfig(api_keys=tuple(f"{name}:{secret}" for name, secret in KEYS.items())),
        limits=LimitsConfig(max_body_bytes=10_000),
        engine=LLMOptions(max_model_len=512, max_num_seqs=4),
        batch=BatchConfig(store=str(store), max_file_bytes=100_000, max_stored_bytes=500_000, max_open=6),
    )
    with live_server(config, DiskModels(config.engine)) as server:
        yield server


@pytest.fixture
def ann(desk) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=desk.url + "/v1", api_key=KEYS["ann"], max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def bob(desk) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=desk.url + "/v1", api_key=KEYS["bob"], max_retries=0, timeout=60) as made:
        yield made


def request_line(number: int, url: str = "/v1/completions", **changes: object) -> dict:
    body = {"prompt": f"{number}, ", "max_tokens": 4, "ignore_eos": True} | changes
    return {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body}


def upload(client: openai.OpenAI, *lines: dict, name: str = "in.jsonl"):
    text = "\n".join(json.dumps(line) for line in lines)
    return client.files.create(file=(name, text.encode()), purpose="batch")


def begin(client: openai.OpenAI, *lines: dict, endpoint: str = "/v1/completions", window: str = "24h", **more):
    file = upload(client, *lines)
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window=window, **more)


def ended(client: openai.OpenAI, id: str):
    terminal = ("completed", "failed", "expired", "cancelled")
    wait_until(lambda: client.batches.retrieve(id).status in terminal)
    return client.batches.retrieve(id)


def content(client: openai.OpenAI, id: str) -> list[dict]:
    return [json.loads(line) for line in client.files.content(id).text.splitlines()]


def test_a_batch_from_its_file_to_its_answers(ann):
    lines = [request_line(1), request_line(2, n=10_000), request_line(3, stream=True), request_line(4)]
    made = begin(ann, *lines, metadata={"why": "a test"})
    assert made.status in ("validating", "in_progress")
    assert made.expires_at - made.created_at == 24 * 3600
    batch = ended(ann, made.id)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (4, 2, 2)
    assert batch.metadata == {"why": "a test"}
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    done, wrong = content(ann, batch.output_file_id), content(ann, batch.error_file_id)
    assert [line["custom_id"] for line in done] == ["line-1", "line-4"]
    assert done[0]["response"]["body"]["usage"]["completion_tokens"] == 4
    assert done[0]["error"] is None
    assert done[0]["response"]["request_id"].startswith("req-")
    assert [line["response"]["status_code"] for line in wrong] == [400, 400]
    assert [line["response"]["body"]["error"]["param"] for line in wrong] == ["n", "stream"]
    output = ann.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")


def test_chats_and_vectors(ann):
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
    line = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": chat}
    batch = ended(ann, begin(ann, line, endpoint="/v1/chat/completions").id)
    (told,) = content(ann, batch.output_file_id)
    assert told["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    line = {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": {"input": "cat"}}
    batch = ended(ann, begin(ann, line, endpoint="/v1/embeddings").id)
    (told,) = content(ann, batch.output_file_id)
    assert len(told["response"]["body"]["data"]) == 1


def test_a_line_without_a_seed_comes_to_the_same_every_time(ann):
    lines = [request_line(number, temperature=1.5, max_tokens=8) for number in range(3)]
    both = [ended(ann, begin(ann, *some).id) for some in (lines, lines[::-1])]
    texts = [
        {line["custom_id"]: line["response"]["body"]["choices"][0]["text"] for line in content(ann, one.output_file_id)}
        for one in both
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0].values())) == 3


def test_an_input_with_faults_fails_with_line_numbers(ann):
    batch = ended(ann, begin(ann, request_line(1), request_line(1), request_line(2, url="/v1/embeddings")).id)
    assert batch.status == "failed"
    assert [(fault.line, fault.code) for fault in batch.errors.data] == [(2, "duplicate_custom_id"), (3, "invalid_url")]
    assert batch.output_file_id is None
    assert batch.failed_at is not None


def test_cancelling_keeps_what_is_done(ann):
    made = begin(ann, *(request_line(number, max_tokens=400) for number in range(60)))
    wait_until(lambda: ann.batches.retrieve(made.id).status == "in_progress")
    assert ann.batches.cancel(made.id).status in ("cancelling", "cancelled")
    batch = ended(ann, made.id)
    assert batch.status == "cancelled"
    wrong = content(ann, batch.error_file_id)
    assert {line["error"]["code"] for line in wrong} == {"batch_cancelled"}
    assert len(wrong) + batch.request_counts.completed == 60
    assert ann.batches.cancel(made.id).status == "cancelled", "twice is once"


def test_what_is_not_done_in_time_expires(ann):
    batch = ended(ann, begin(ann, *(request_line(number, max_tokens=500) for number in range(80)), window="1s").id)
    assert batch.status == "expired"
    assert {line["error"]["code"] for line in content(ann, batch.error_file_id)} == {"batch_expired"}
    with pytest.raises(openai.ConflictError):
        ann.batches.cancel(batch.id)


def test_lists_have_pages(ann, bob):
    ids = [begin(bob, request_line(1)).id for _ in range(3)]
    page = bob.batches.list(limit=2)
    assert [batch.id for batch in page.data] == ids[:0:-1]
    assert page.has_more
    assert [batch.id for batch in bob.batches.list(limit=2, after=ids[1]).data] == ids[:1]
    assert [batch.id for batch in bob.batches.list(limit=1)] == ids[::-1], "the client turns the pages itself"
    for name in ids:
        ended(bob, name)
    inputs = bob.files.list(purpose="batch", order="asc", limit=2)
    assert [file.filename for file in inputs.data] == ["in.jsonl"] * 2


def test_nobody_sees_anothers(ann, bob):
    file = upload(ann, request_line(1))
    batch = ended(ann, begin(ann, request_line(1)).id)
    for ask in (
        lambda: bob.files.retrieve(file.id),
        lambda: bob.files.content(file.id),
        lambda: bob.files.delete(file.id),
        lambda: bob.batches.retrieve(batch.id),
        lambda: bob.batches.cancel(batch.id),
        lambda: bob.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert file.id not in {one.id for one in bob.files.list()}
    assert ann.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        ann.files.content(file.id)


def test_files_stay_where_they_belong(ann):
    file = upload(ann, request_line(1), name="../../etc/pass\nwd")
    assert "/" not in file.filename
    assert ann.files.retrieve(file.id).filename == file.filename
    for name in ("..%2F..%2Fstore", "file-..%2Fx", "%00"):
        with pytest.raises(openai.NotFoundError):
            ann.files.content(name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "0s"}, "completion_window"),
        ({"completion_window": "99d"}, "completion_window"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"output": "/etc/passwd"}, "output"),
    ],
)
def test_a_batch_with_a_wrong_field_is_refused(desk, ann, fields, param):
    body = {"input_file_id": "file-x", "endpoint": "/v1/completions", "completion_window": "24h"} | fields
    told = httpx.post(desk.url + "/v1/batches", json=body, headers={"X-API-Key": KEYS["ann"]})
    assert (told.status_code, told.json()["error"]["param"]) == (400, param)


def test_a_wrong_upload_is_refused(desk, ann):
    headers, url = {"X-API-Key": KEYS["ann"]}, desk.url + "/v1/files"

    def told(**parts):
        answer = httpx.post(url, headers=headers, **parts)
        return answer.status_code, answer.json()["error"]["param"]

    file = {"file": ("in", b"x")}
    assert told(json={}) == (415, None)
    assert told(files=file) == (400, "purpose")
    assert told(files=file, data={"purpose": "fine-tune"}) == (400, "purpose")
    assert told(files=file, data={"purpose": "batch", "more": "x"}) == (400, "more")
    assert told(files={"other": b"x"}, data={"purpose": "batch"}) == (400, "other")
    assert told(data={"purpose": "batch"}, files={"file": (None, b"text")}) == (400, "file")
    assert told(files={"file": ("in", b"x" * 100_001)}, data={"purpose": "batch"}) == (413, None)
    assert told(files={"file": ("in", b"x" * 50_000)}, data={"purpose": "fine-tune"}) == (400, "purpose")


def test_an_output_is_no_input(ann):
    batch = ended(ann, begin(ann, request_line(1)).id)
    with pytest.raises(openai.BadRequestError, match="purpose"):
        ann.batches.create(input_file_id=batch.output_file_id, endpoint="/v1/completions", completion_window="24h")


def test_without_a_store_it_says_how_to_get_one(client):
    with pytest.raises(openai.APIStatusError, match="--batch-store") as raised:
        client.batches.list()
    assert raised.value.status_code == 501


def test_a_key_stores_only_so_much_and_hears_how_to_get_room(bob):
    big = {"file": ("in.jsonl", b"x" * 90_000), "purpose": "batch"}
    kept = [bob.files.create(**big) for _ in range(5)]
    with pytest.raises(openai.BadRequestError) as refused:
        bob.files.create(**big)
    assert refused.value.code == "storage_limit_exceeded"
    assert "Delete files" in str(refused.value)
    bob.files.delete(kept.pop().id)
    kept.append(bob.files.create(**big))
    for file in kept:
        bob.files.delete(file.id)


def test_a_key_has_only_so_many_open_batches_and_others_do_not_mind(ann, bob, desk):
    slow = [request_line(number, max_tokens=200) for number in range(20)]
    file = upload(ann, *slow)
    job = {"input_file_id": file.id, "endpoint": "/v1/completions", "completion_window": "24h"}
    made = [ann.batches.create(**job) for _ in range(6)]
    with pytest.raises(openai.RateLimitError) as refused:
        ann.batches.create(**job)
    assert "batch_max_open" in str(refused.value)
    assert float(refused.value.response.headers["retry-after"]) > 0
    # Bob's batch, the last to come, does not wait for the six before it.
    done = ended(bob, begin(bob, request_line(1), request_line(2)).id)
    assert done.status == "completed"
    assert any(ann.batches.retrieve(one.id).status in ("validating", "in_progress") for one in made)
    for one in made:
        ann.batches.cancel(one.id)
    for one in made:
        assert ended(ann, one.id).status == "cancelled"
    told = httpx.get(desk.url + "/metrics", headers={"Authorization": f"Bearer {KEYS['ann']}"}).text
    assert 'vllm:batch_lines_total{key="bob",state="completed"}' in told
