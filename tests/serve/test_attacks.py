"""What somebody with a socket, and perhaps a key, might try, beyond test_http, test_guard and test_openai_client."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from live_server import KEYS, LiveServer
from modelled_server import modelled_server
from pydantic import ValidationError
from starlette.routing import BaseRoute, Route

from steelyard.serve.config import ListenConfig
from steelyard.serve.keys import OPEN_PATHS
from steelyard.serve.protocol.completions import CompletionRequest
from steelyard.serve.service import Service
from steelyard.sim.virtual import run_virtual

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
TEXT = {"prompt": "x", "max_tokens": 1}


def plain_routes(routes: list[BaseRoute]) -> Iterator[Route]:
    """Yield every route of an application, those of routers within it included."""
    for route in routes:
        if isinstance(route, Route):
            yield route
        else:
            yield from plain_routes(list(getattr(route, "routes", None) or []))


def test_every_route_of_the_table_is_behind_the_gate():
    async def main() -> None:
        listen = ListenConfig(docs=True)
        async with modelled_server("ann", listen=listen) as server, server.client() as nobody:
            asked = set()
            for path, methods in table_of(server.app):
                for method in methods:
                    answer = await nobody.request(method, path.replace("{name:path}", "m"))
                    assert (answer.status_code == 401) == (path not in OPEN_PATHS), (method, path)
                    asked.add(path)
            assert {"/v1/completions", "/v1/chat/completions", "/metrics", "/docs", "/openapi.json", "/health"} <= asked

    run_virtual(main())


def table_of(app: Any) -> list[tuple[str, set[str]]]:
    """Return every path with its methods: as the application's table has them, and as OpenAPI tells them."""
    told = {(path, method.upper()) for path, ways in app.openapi()["paths"].items() for method in ways}
    held = {(route.path, method) for route in plain_routes(app.routes) for method in route.methods or ()}
    table: dict[str, set[str]] = {}
    for path, method in told | held:
        table.setdefault(path, set()).add(method)
    return sorted(table.items())


def test_paths_that_look_like_open_ones_are_not():
    async def main() -> None:
        async with modelled_server("ann") as server, server.client() as nobody:
            for path in ("/health/", "/health/../metrics", "/health%2f", "/ping/x", "/HEALTH", "/health;x"):
                assert (await nobody.get(path)).status_code in (401, 404), path
            assert (await nobody.get("http://server//health")).status_code == 401
            assert (await nobody.get("/metrics?/health")).status_code == 401

    run_virtual(main())


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/x", "file:///etc/passwd", "data:image/png;base64,AAAA", "/etc/passwd"]
)
def test_no_request_makes_the_server_open_anything(http, url):
    with listener() as (port, called):
        target = url.format(port=port)
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": target}},
            {"type": "input_image", "image_url": target},
            {"type": "input_audio", "input_audio": {"data": target, "format": "wav"}},
            {"type": "file", "file": {"file_id": target}},
            {"type": "video_url", "video_url": {"url": target}},
        ]
        for part in parts:
            answer = http.post("/v1/chat/completions", json=CHAT | {"messages": [{"role": "user", "content": [part]}]})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "messages[0].content[0]"
        for field in ("lora_path", "chat_template", "guided_json", "documents"):
            assert http.post("/v1/chat/completions", json=CHAT | {field: target}).status_code == 400
        adapter = {"lora_name": "a", "lora_path": target}
        assert http.post("/v1/load_lora_adapter", json=adapter).status_code >= 400
        assert http.post("/v1/chat/completions", json=CHAT | {"model": target}).status_code == 404
    assert not called


@contextmanager
def listener() -> Iterator[tuple[int, list[object]]]:
    """Listen on a port, and note who calls."""
    called: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                try:
                    called.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1], called
        stop.set()
        thread.join()


TEMPLATE_ARGUMENTS = [
    {"chat_template": "{{ 7 * 7 }}"}, {"messages": []}, {"self": 1}, {"tokenizer": "x"}, {"__class__": 1}, {"a b": 1},
    {"a.b": 1}, {"": 1}, {"x" * 100: 1}, {"x": {"y": 1}}, {"x": [1]}, {"x": None}, {"range": 1, "tools": []},
]  # fmt: skip


@pytest.mark.parametrize("arguments", TEMPLATE_ARGUMENTS)
def test_template_arguments_are_words_and_numbers_under_harmless_names(http, arguments):
    plain = http.post("/tokenize", json={"messages": CHAT["messages"]}).json()
    answer = http.post("/tokenize", json={"messages": CHAT["messages"], "chat_template_kwargs": arguments})
    assert answer.status_code == 400 or answer.json() == plain
    assert http.post("/v1/chat/completions", json=CHAT | {"chat_template_kwargs": arguments}).status_code in (200, 400)


def test_text_in_template_arguments_is_no_program(http):
    arguments = {"x": "{{ cycler.__init__.__globals__.os.environ }}", "enable_thinking": "{% raw %}"}
    answer = http.post("/tokenize", json={"messages": CHAT["messages"], "chat_template_kwargs": arguments})
    assert answer.status_code == 200
    text = http.post("/detokenize", json={"tokens": answer.json()["tokens"]}).json()["prompt"]
    assert "environ" not in text
    assert "PATH" not in text


HEAVY: list[tuple[str, Callable[[], dict[str, Any]], str]] = [
    ("many completions", lambda: TEXT | {"n": 1 << 40}, "n"),
    ("a long answer", lambda: TEXT | {"max_tokens": 1 << 40}, "max_tokens"),
    ("many alternatives", lambda: TEXT | {"logprobs": 1000}, "logprobs"),
    ("many alternatives of the prompt", lambda: TEXT | {"prompt_logprobs": 1000}, "prompt_logprobs"),
    ("many stops", lambda: TEXT | {"stop": ["x"] * 10_000}, "stop"),
    ("a long stop", lambda: TEXT | {"stop": "x" * 100_000}, "stop"),
    ("many stop tokens", lambda: TEXT | {"stop_token_ids": [1] * 30_000}, "stop_token_ids"),
    ("many biases", lambda: TEXT | {"logit_bias": {str(i): 1 for i in range(10_000)}}, "logit_bias"),
    ("many prompts", lambda: TEXT | {"prompt": ["x"] * 10_000}, "prompt"),
    ("a long prompt", lambda: TEXT | {"prompt": "1234567890" * 15_000}, "prompt"),
    ("a long salt", lambda: TEXT | {"cache_salt": "x" * 1000}, "cache_salt"),
    ("a far priority", lambda: TEXT | {"priority": 1 << 40}, "priority"),
    ("a far timeout", lambda: TEXT | {"timeout": 1e300}, "timeout"),
    ("a huge seed", lambda: TEXT | {"seed": 1 << 80}, "seed"),
    ("many wrong elements", lambda: TEXT | {"prompt": ["x"] + [1.5] * 30_000}, "prompt"),
    ("many wrong lists", lambda: TEXT | {"prompt": [[1.5]] * 20_000}, "prompt"),
]


@pytest.mark.parametrize(("body", "param"), [case[1:] for case in HEAVY], ids=[case[0] for case in HEAVY])
def test_what_is_too_much_is_refused_by_name(live, http, body, param):
    answer = http.post("/v1/completions", json=body())
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert live.on_loop(lambda: live.engine.num_waiting + live.engine.num_running) == 0


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": ""}] * 5000,
        [{"role": "user", "content": "x"}] * 4000,
        [{"role": "user", "content": [{"type": "text", "text": "x"}] * 4000}],
        [{"role": "user", "content": json.loads("[" * 90 + "]" * 90)}],
        [{"role": "user", "content": {"a": 1}}],
        [{"role": "user", "content": "x", "name": "y" * 10_000, "extra": [[[1]]]}],
        [{"role": "x" * 10_000, "content": "x"}],
        [{"content": "x"}],
        [{}],
    ],
)
def test_conversations_without_measure(http, messages):
    answer = http.post("/v1/chat/completions", json=CHAT | {"messages": messages})
    assert answer.status_code in (200, 400)
    if answer.status_code == 400:
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_of_faults_is_counted_and_not_listed(http):
    wrong = TEXT | {f"u{number}": 1 for number in range(9000)}
    answer = http.post("/v1/completions", json=wrong)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "the body has 9000 faults"


def test_lists_and_mappings_are_given_up_at_their_first_fault():
    """A fault for each of millions of elements would keep the server busy for half a minute."""
    for wrong in ({"prompt": ["x", *[1.5] * 1000]}, {"prompt": "x", "stop": [1] * 1000}, {"prompt": [[1.5]] * 1000},
                  {"prompt": "x", "logit_bias": {str(i): "x" for i in range(1000)}}):  # fmt: skip
        with pytest.raises(ValidationError) as caught:
            CompletionRequest.model_validate_json(json.dumps(wrong))
        assert caught.value.error_count() <= 6


def head(path: str, length: int | None = None, **more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"X-API-Key: {KEYS['ann']}", "Content-Type: application/json"]
    lines += [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in more.items()), "", ""]).encode()


def answer_to(live: LiveServer, sent: bytes) -> bytes:
    """Send bytes and return what comes until the server closes, or has answered."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=20) as raw:
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        received = b""
        while piece := raw.recv(65536):
            received += piece
    return received


@pytest.mark.parametrize(
    "sent",
    [
        head("/v1/completions", 5) + b"{}\r\n\r\n",
        head("/v1/completions", -1),
        head("/v1/completions", **{"Content-Length": "1e3"}),
        head("/v1/completions", 2, **{"Content-Length": "3"}) + b"{}}",
        head("/v1/completions", 4, **{"Transfer-Encoding": "chunked"}) + b"0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
        head("/v1/completions", **{"Transfer-Encoding": "chunked"}) + b"zz\r\n{}\r\n0\r\n\r\n",
        head("/v1/completions", **{"Transfer-Encoding": "gzip"}) + b"{}",
        head("/v1/completions", 2, **{"Expect": "100-continue"}) + b"{}",
        head("/v1/completions", 2, **{"Upgrade": "websocket", "Connection": "Upgrade"}) + b"{}",
        head("/v1/completions", 2, **{"Content-Encoding": "gzip"}) + b"{}",
        b"POST /v1/completions HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"\x00" * 100,
    ],
)
def test_malformed_http_harms_nobody(live, http, sent):
    answer = answer_to(live, sent)
    assert not answer.startswith(b"HTTP/1.1 5"), answer
    assert b"vllm:" not in answer, "no second request was smuggled in"
    assert http.get("/ping").status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_leave_at_any_moment_leave_nothing_behind(live, stream):
    body = json.dumps(CHAT | {"stream": stream, "max_tokens": 200, "ignore_eos": True}).encode()
    whole = head("/v1/chat/completions", len(body)) + body
    for cut in range(1, len(whole), 29):
        with socket.create_connection(("127.0.0.1", live.port)) as raw:
            raw.sendall(whole[:cut])
    for num_bytes in (0, 1, 100, 2000):
        with socket.create_connection(("127.0.0.1", live.port)) as raw:
            raw.sendall(whole)
            if num_bytes and stream:
                raw.recv(num_bytes)
    for _ in range(3):  # connections are accepted in their order: by now all of them have been
        httpx.get(live.url + "/ping")
    live.eventually(lambda: live.service.num_active == 0)
    live.eventually(lambda: live.engine.kv_usage.num_referenced_blocks == 0)
    live.on_loop(lambda: live.engine.check_invariants())


def test_a_cache_shared_by_one_caller_is_shared_with_no_other():
    """No name of a key and no salt, however chosen, makes up another caller's."""

    async def main() -> None:
        async with modelled_server("a", "a/b", "key-a") as server:
            service: Service = server.service
            seen: dict[str, tuple[str, str]] = {}
            submit = server.engine.submit

            def note(request):
                assert seen.setdefault(request.cache_salt, (request.tenant, salt)) == (request.tenant, salt)
                return submit(request)

            server.engine.submit = note  # type: ignore[method-assign]
            for key in service.keys.names:
                for salt in ("", "/", "b", "/b", "b/", "a", ":a", "key:a", "5:key:a"):
                    async with server.client(key) as client:
                        body = {"prompt": [1, 2], "max_tokens": 1, "cache_salt": salt}
                        assert (await client.post("/v1/completions", json=body)).status_code == 200
            assert len(seen) == 3 * 9

    run_virtual(main())


def test_no_request_may_fill_the_memory_with_log_probabilities():
    async def main() -> None:
        async with modelled_server(engine={"max_model_len": 4096}) as server, server.client() as client:

            async def ask(**more: int) -> httpx.Response:
                return await client.post("/v1/completions", json={"prompt": [1] * 96, "max_tokens": 1} | more)

            for wrong in (
                {"n": 64, "max_tokens": 4000, "logprobs": 20},
                {"n": 128, "max_tokens": 2000, "logprobs": 15},
            ):
                answer = await ask(**wrong)
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")
            many = {"prompt": [[1] * 4000] * 256, "max_tokens": 1, "prompt_logprobs": 3}
            answer = await client.post("/v1/completions", json=many)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")
            assert (await ask(n=64)).status_code == 200

    run_virtual(main())


def test_browsers_get_no_leave_unless_the_server_was_told():
    async def main() -> None:
        async with modelled_server() as server, server.client() as page:
            asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
            for answer in (
                await page.options("/v1/completions", headers=asked),
                await page.get("/ping", headers=asked),
            ):
                assert not [name for name in answer.headers if name.startswith("access-control-")]
            form = {"content-type": "text/plain"}
            body = json.dumps({"prompt": [1], "max_tokens": 1})
            answer = await page.post("/v1/completions", content=body, headers=asked | form)
            assert answer.status_code == 415, "what a page can send without leave is not taken"

    run_virtual(main())


def test_errors_tell_nothing_of_the_machine(http: httpx.Client):
    for path in ("/v1/models/../../etc/passwd", "/v1/models/%2e%2e%2fetc", "/v1/models/" + "x" * 3000):
        answer = http.get(path)
        assert answer.status_code == 404
        assert len(answer.content) < 2000
    wrong = http.post("/v1/completions", json=TEXT | {"no": "x" * 5000})
    assert "steelyard/" not in wrong.text
    assert "Traceback" not in wrong.text
