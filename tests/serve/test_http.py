"""What OpenAI's client hides: raw requests to a real server."""

from __future__ import annotations

import json
import socket

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_server import KEYS, LiveServer, metric, wait_until

from steelyard import __version__

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
OPEN = {"/health", "/ping", "/"}  # the page; its data is at /dashboard/state


def error_of(response: httpx.Response) -> dict:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def all_routes(live: LiveServer, http: httpx.Client) -> list[tuple[str, str]]:
    """Return method and path of everything that answers; OpenAPI tells, and what it leaves out is added."""
    document = http.get("/openapi.json").json()
    told = [
        (method.upper(), path.replace("{name}", "smol")) for path, ways in document["paths"].items() for method in ways
    ]
    return [
        *told,
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/no/such"),
        ("POST", "/"),
        ("OPTIONS", "/metrics"),
    ]


def test_every_route_but_the_open_ones_wants_a_key(live, http):
    routes = all_routes(live, http)
    assert {"/v1/chat/completions", "/v1/completions", "/metrics", "/tokenize", *OPEN} <= {path for _, path in routes}
    for method, path in routes:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEYS["ann"]}, {"X-API-Key": "wrong"}):
            status = httpx.request(method, live.url + path, headers=headers).status_code
            assert (status == 401) == (path not in OPEN), (method, path, headers)


def test_keys_may_come_in_either_header(live):
    for headers in ({"Authorization": f"bearer {KEYS['bob']}"}, {"X-API-Key": KEYS["bob"]}):
        assert httpx.get(live.url + "/v1/models", headers=headers).status_code == 200


def test_caches_of_two_keys_are_apart(live):
    long = [{"role": "user", "content": "Something long enough for several blocks. " * 8}]
    body = CHAT | {"messages": long, "cache_salt": "untouched by other tests"}

    def cached(name: str, **more: str) -> int:
        headers = {"X-API-Key": KEYS[name]}
        answer = httpx.post(live.url + "/v1/chat/completions", json=body | more, headers=headers)
        return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    # A salt of this test's, as others' requests begin alike.
    assert [cached(name, cache_salt="ours") for name in ("ann", "bob")] == [0, 0]
    assert cached("ann", cache_salt="ours") == cached("bob", cache_salt="ours") > 0
    assert cached("ann", cache_salt="mine") == 0


def test_health_and_versions(http):
    assert (http.get("/health").status_code, http.get("/ping").status_code) == (200, 200)
    assert http.get("/version").json() == {"version": __version__}
    assert http.get("/load").json() == {"server_load": 0}


def test_tokenize_and_back(http):
    told = http.post("/tokenize", json={"prompt": "Grüße, 世界", "return_token_strs": True}).json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["max_model_len"] == 512
    assert http.post("/detokenize", json={"tokens": told["tokens"]}).json() == {"prompt": "Grüße, 世界"}
    chat = http.post("/tokenize", json={"messages": CHAT["messages"]}).json()
    short = http.post("/tokenize", json={"messages": CHAT["messages"], "add_generation_prompt": False}).json()
    assert chat["tokens"][: short["count"]] == short["tokens"]
    assert chat["count"] > short["count"]
    for wrong in ({}, {"prompt": "x", "messages": CHAT["messages"]}, {"prompt": ""}):
        assert error_of(http.post("/tokenize", json=wrong))["param"] == "prompt"
    assert http.post("/detokenize", json={"tokens": [10**6]}).status_code == 400


def test_control_tokens_in_messages_stay_text(http):
    ids = http.post("/tokenize", json={"messages": [{"role": "user", "content": "<|im_end|>"}]}).json()["tokens"]
    harmless = http.post("/tokenize", json={"messages": [{"role": "user", "content": "x"}]}).json()["tokens"]
    end = http.post("/tokenize", json={"messages": CHAT["messages"]}).json()["tokens"]
    special = max(set(end) & set(harmless), key=end.count)
    assert ids.count(special) == harmless.count(special)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"messages": "\xff\xfe"}', b'\xef\xbb\xbf{}', b'{"messages": [{"role": "user", '
     b'"content": "\\ud800"}]}', b'{"messages": ' + b"[" * 5000, b'{"temperature": NaN}',
     b'{"seed": ' + b"9" * 6000 + b"}", b'{"a": 1, "a"', b'"x"', b"\x00"],
)  # fmt: skip
def test_what_is_no_request_is_a_400(http, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/v1/load_lora_adapter"):
        response = http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 400
        error_of(response)


def test_a_body_must_say_that_it_is_json(http):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = http.post("/v1/chat/completions", content=json.dumps(CHAT), headers={"Content-Type": kind})
        assert response.status_code == 415
    kind = "application/json; charset=utf-8"
    assert (
        http.post("/v1/chat/completions", content=json.dumps(CHAT), headers={"Content-Type": kind}).status_code == 200
    )


def test_unknown_addresses_and_methods(http):
    assert error_of(http.get("/no/such"))["type"] == "not_found_error"
    response = http.get("/v1/chat/completions")
    assert response.status_code == 405
    error_of(response)


def test_bodies_have_a_limit(http):
    big = json.dumps(CHAT | {"user": "x" * 300_000})
    assert http.post("/v1/chat/completions", content=big).status_code == 413

    def pieces():
        for start in range(0, len(big), 10_000):
            yield big[start : start + 10_000].encode()

    response = http.post("/v1/chat/completions", content=pieces(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"
    assert http.get("/ping").status_code == 200


def test_headers_have_a_limit(http):
    assert http.get("/ping", headers={"X-Long": "x" * 40_000}).status_code == 431
    assert http.get("/ping?" + "x" * 40_000).status_code in (400, 431)


def test_adapters_are_refused_and_no_path_is_opened(http):
    response = http.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": "/etc/passwd"})
    assert response.status_code == 501
    assert error_of(response)["param"] == "lora_name"
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": "a"}).status_code == 501
    assert error_of(http.post("/v1/load_lora_adapter", json={"lora_name": "a"}))["param"] == "lora_path"


def test_browsers_are_let_in_by_origin_only(http):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}

    def preflight(origin: str) -> httpx.Response:
        headers = {"Origin": origin} | asked
        return httpx.options(str(http.base_url) + "/v1/chat/completions", headers=headers)

    good = preflight("https://good.example")
    assert good.headers["access-control-allow-origin"] == "https://good.example"
    assert "access-control-allow-origin" not in preflight("https://bad.example").headers
    assert "access-control-allow-origin" not in http.get("/ping", headers={"Origin": "https://bad.example"}).headers


def test_request_ids(http):
    assert http.get("/ping", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for bad in ("", "a b", "x" * 200, "<script>"):
        assert http.get("/ping", headers={"X-Request-Id": bad}).headers["x-request-id"].startswith("req-")
    assert http.get("/no/such").headers["x-request-id"]


def test_events_look_as_clients_expect(http):
    with http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        text = "".join(response.iter_text())
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    for chunk in chunks:
        keys = {"id", "object", "created", "model", "system_fingerprint", "choices"}
        assert set(chunk) == keys
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")


LONG = CHAT | {"max_tokens": 480, "ignore_eos": True}


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_blocks(live, http, stream):
    body = json.dumps(LONG | {"stream": stream, "n": 4}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS['ann']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live.port)) as raw:
        raw.sendall(head.encode() + body)
        wait_until(lambda: live.on_loop(lambda: live.engine.num_running) == 4)
        assert live.on_loop(lambda: live.engine.kv_usage.num_referenced_blocks) > 0
    wait_until(lambda: live.on_loop(lambda: live.engine.kv_usage.num_referenced_blocks) == 0)
    live.on_loop(lambda: live.engine.check_invariants())
    assert http.get("/load").json() == {"server_load": 0}


def test_blocks_are_free_one_step_after_a_disconnect(live, http):
    steps: list[tuple[int, int]] = []
    cancels: list[int] = []
    engine = live.engine
    cancel = engine.cancel

    def note_cancel(request_id: str, *reason: object) -> None:
        cancels.append(len(steps))
        cancel(request_id, *reason)

    live.on_loop(lambda: engine.add_observer(lambda record: steps.append((record.step, record.num_running))))
    engine.cancel = note_cancel  # type: ignore[method-assign]
    try:
        with http.stream("POST", "/v1/chat/completions", json=LONG | {"stream": True}) as response:
            next(response.iter_text())
        wait_until(lambda: live.on_loop(lambda: engine.kv_usage.num_referenced_blocks) == 0)
    finally:
        del engine.cancel
    assert len(cancels) == 1
    assert len(steps) - cancels[0] <= 1  # the step that ran when the client left, and none after it


def test_a_slow_reader_is_no_burden(live, http):
    """Whoever does not read gets what it missed in one piece, and holds up nobody."""
    with http.stream("POST", "/v1/chat/completions", json=LONG | {"stream": True}) as slow:
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
        text = "".join(slow.iter_text())
    assert text.endswith("data: [DONE]\n\n")


def test_metrics(http):
    before = http.get("/metrics").text
    usage = http.post("/v1/chat/completions", json=CHAT | {"ignore_eos": True}).json()["usage"]
    after = http.get("/metrics").text

    def gained(name: str, **labels: str) -> float:
        return metric(after, name, **labels) - metric(before, name, **labels)

    assert gained("vllm:prompt_tokens_total", model_name="smol") == usage["prompt_tokens"]
    assert gained("vllm:generation_tokens_total") == usage["completion_tokens"] == 4
    assert gained("vllm:request_success_total", finished_reason="length") == 1
    assert gained("vllm:inter_token_latency_seconds_count") == 3
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert gained(f"vllm:{name}_count") == 1
    assert gained("vllm:prefix_cache_queries_total") == usage["prompt_tokens"]
    assert gained("vllm:prefix_cache_hits_total") == usage["prompt_tokens_details"]["cached_tokens"]
    assert gained("vllm:http_requests_total", path="/v1/chat/completions", status="200") == 1
    assert metric(after, "vllm:num_requests_running") == metric(after, "vllm:num_requests_waiting") == 0
    assert metric(after, "vllm:kv_cache_usage_perc") == metric(after, "vllm:gpu_cache_usage_perc") == 0
    assert metric(after, "vllm:model_loaded") == 1
    assert "secret" not in after


def test_nothing_secret_is_logged(live, http, caplog):
    with caplog.at_level("DEBUG"):
        live.on_loop(lambda: None)
        http.post("/v1/chat/completions", json=CHAT | {"messages": [{"role": "user", "content": "my password"}]})
        http.get("/v1/models", headers={"Authorization": "Bearer leaked-secret"})
        http.post("/v1/chat/completions", json={"api": "my password"})
    assert "password" not in caplog.text
    assert "secret" not in caplog.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["model", "messages", "prompt", "n", "max_tokens", "stop", "logprobs", "top_logprobs", "echo", "stream", "seed",
     "logit_bias", "stream_options", "tools", "tool_choice", "response_format", "structured_outputs", "guided_json",
     "guided_regex", "guided_choice", "chat_template_kwargs", "timeout", "tokens", "top_k", "priority"]
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"]),
    body=st.dictionaries(FIELDS | st.text(max_size=5), json_values, max_size=4),
    whole=st.booleans(),
)
def test_no_request_is_answered_with_a_500(http, path, body, whole):
    base = {"messages": CHAT["messages"], "prompt": "x", "tokens": [1]} if whole else {}
    needed = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/tokenize": "prompt"}.get(
        path, "tokens"
    )
    sent = json.dumps({needed: base[needed], "max_tokens": 1} | body if whole and path[1] == "v" else body)
    response = http.post(
        path, content=sent.encode("utf-8", "surrogatepass"), headers={"Content-Type": "application/json"}
    )
    assert response.status_code < 500
    if response.status_code != 200:
        error_of(response)
