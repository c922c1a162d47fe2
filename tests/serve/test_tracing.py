"""One span per request, under the caller's."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from live_server import NeverLoading
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from steelyard.core.errors import ResourceError
from steelyard.serve import tracing
from steelyard.serve.app import create_app
from steelyard.serve.config import ModelSpec, ObserveConfig, ServeConfig
from steelyard.serve.envelope import Envelope
from steelyard.serve.service import Service
from steelyard.serve.tracing import TracedApp, Tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_is_a_span_of_its_callers_trace():
    config = ServeConfig(models=(ModelSpec(source=None, names=("m",)),))
    exporter = InMemorySpanExporter()
    traces = Tracing("http://localhost:1/v1/traces", exporter)
    app = TracedApp(create_app(Service(config, NeverLoading({"m": 1})), config), traces)

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(Envelope(app, lambda path, status: None, lambda key: {}))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/ping", headers={"traceparent": PARENT})

    response = asyncio.run(main())
    traces.close()
    (span,) = exporter.get_finished_spans()
    assert format(span.context.trace_id, "032x") == PARENT.split("-")[1]
    assert format(span.parent.span_id, "016x") == PARENT.split("-")[2]
    assert span.attributes["http.route"] == "/ping"
    assert span.attributes["steelyard.request_id"] == response.headers["x-request-id"]


def test_without_its_libraries_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    config = ServeConfig(
        models=(ModelSpec(source=None, names=("m",)),), observe=ObserveConfig(otlp_endpoint="http://localhost:1")
    )
    with pytest.raises(ResourceError) as caught:
        create_app(Service(config, NeverLoading({"m": 1})), config)
    assert "steelyard[tracing]" in caught.value.remedy
