"""Bodies of very many parts: refused before they could keep the event loop from its work."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from live_server import NeverLoading, live_server
from starlette.requests import Request

from steelyard.serve.config import ListenConfig, ModelSpec, ServeConfig
from steelyard.serve.errors import ApiError
from steelyard.serve.protocol.completions import CompletionRequest
from steelyard.serve.routes.body import read_body

SIZE = 8_000_000
JSON = {"content-type": "application/json"}


def body_of(text: str) -> bytes:
    return b'{"model": "m", "prompt": "x", "metadata": {"a": ' + text.encode() + b"}}"


HUGE = {
    "empty lists": body_of("[" + ",".join(["[]"] * (SIZE // 3)) + "]"),
    "nested lists": body_of("[" + ",".join(["[" * 150 + "]" * 150] * (SIZE // 301)) + "]"),
    "deep": body_of("[" * (SIZE // 2)),
    "numbers": body_of("[" + ",".join(["1"] * (SIZE // 2)) + "]"),
    "after a text with a quote": body_of('["\\"[", ' + ",".join(["{}"] * (SIZE // 3)) + "]"),
}


def read(body: bytes) -> tuple[Any, int]:
    """Return what is read, or the error, and how often the event loop went round meanwhile."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def main() -> tuple[Any, int]:
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
        task = asyncio.ensure_future(read_body(Request(scope, receive), CompletionRequest))
        num_turns = 0
        while not task.done():
            await asyncio.sleep(0)
            num_turns += 1
        return task.exception() or task.result(), num_turns

    return asyncio.run(main())


@pytest.mark.parametrize("name", HUGE)
def test_what_has_too_many_parts_is_refused_while_others_go_on(name):
    error, num_turns = read(HUGE[name])
    assert isinstance(error, ApiError)
    assert (error.status, error.code) == (400, "body_too_complex")
    assert num_turns > 5


@pytest.mark.parametrize("text", ["[,{" * (SIZE // 3), '\\"[' * 200_000, "\\\\"])
def test_marks_in_a_text_are_no_parts(text):
    told, _ = read(f'{{"prompt": "{text}"}}'.encode())
    assert isinstance(told, CompletionRequest)


def test_a_prompt_of_very_many_tokens_is_read():
    told, _ = read(b'{"prompt": [' + b",".join([b"1"] * 2_000_000) + b"]}")
    assert isinstance(told, CompletionRequest)


def test_other_requests_are_answered_between():
    config = ServeConfig(models=(ModelSpec(source=None, names=("m",)),), listen=ListenConfig(port=0))
    with live_server(config, NeverLoading({"m": 1}), wait_for_model=False) as live, ThreadPoolExecutor(8) as pool:
        for path in ("/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"):
            sent = [
                pool.submit(httpx.post, live.url + path, content=body, headers=JSON, timeout=60)
                for body in HUGE.values()
            ]
            assert httpx.get(live.url + "/ping", timeout=60).status_code == 200
            assert {one.result().status_code for one in sent} == {400}
