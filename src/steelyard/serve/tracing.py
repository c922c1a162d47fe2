"""OpenTelemetry traces, if asked for: one span per request, a child of the caller's if it sent one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from steelyard import __version__
from steelyard.core.errors import ResourceError
from steelyard.serve.envelope import REQUEST_ID

_NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


class Tracing:
    """Sends spans to a collector.

    Args:
        endpoint: the collector's URL for traces over HTTP, such as ``http://localhost:4318/v1/traces``.
        exporter: takes the spans in place of the collector.

    Raises:
        ResourceError: if OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, exporter: Any = None) -> None:
        if not all(_installed(name) for name in _NEEDED):
            remedy = "Run: pip install 'steelyard[tracing]'"
            raise ResourceError("OpenTelemetry is not installed", field="otlp_endpoint", remedy=remedy)
        trace, export = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.trace.export")
        resource = import_module("opentelemetry.sdk.resources").Resource.create({"service.name": "steelyard"})
        if exporter is None:
            exporter = import_module(f"{_NEEDED[1]}.trace_exporter").OTLPSpanExporter(endpoint=endpoint)
        self._provider = trace.TracerProvider(resource=resource)
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("steelyard.serve", __version__)
        self._propagator = import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()
        self._server = import_module("opentelemetry.trace").SpanKind.SERVER

    def span(self, scope: Scope) -> AbstractContextManager[Any]:
        """Begin the span of a request."""
        parent = self._propagator.extract(dict(Headers(scope=scope)))
        attributes = {"http.request.method": scope["method"], "steelyard.request_id": scope["state"][REQUEST_ID]}
        span: AbstractContextManager[Any] = self._tracer.start_as_current_span(
            f"{scope['method']} request", context=parent, kind=self._server, attributes=attributes
        )
        return span

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class TracedApp:
    """Puts a span around every request.

    Args:
        app: what lies behind.
        tracing: makes the spans.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app, self._tracing = app, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on within its span."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._tracing.span(scope) as span:
            await self._app(scope, receive, send)
            span.set_attribute("http.route", getattr(scope.get("route"), "path", "unknown"))


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
