"""The ASGI application: :func:`create_app`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from steelyard import __version__
from steelyard.serve.anthropic import AnthropicAnswers
from steelyard.serve.batch.desk import open_batch_desk
from steelyard.serve.config import ServeConfig
from steelyard.serve.dashboard.assets import Page
from steelyard.serve.dashboard.hardware import KnownHardware
from steelyard.serve.dashboard.state import Dashboard
from steelyard.serve.envelope import Envelope
from steelyard.serve.errors import install_error_answers
from steelyard.serve.keys import OPEN_PATHS, KeyGate
from steelyard.serve.limits import RequestLimits
from steelyard.serve.routes.adapters import adapters_router
from steelyard.serve.routes.chat import chat_router
from steelyard.serve.routes.completions import completions_router
from steelyard.serve.routes.dashboard import dashboard_router, page_router
from steelyard.serve.routes.embeddings import embeddings_router
from steelyard.serve.routes.health import health_router
from steelyard.serve.routes.messages import messages_router
from steelyard.serve.routes.metrics import metrics_router
from steelyard.serve.routes.models import models_router
from steelyard.serve.routes.responses import responses_router
from steelyard.serve.routes.tokens import tokens_router
from steelyard.serve.service import Service
from steelyard.serve.tracing import TracedApp, Tracing


def create_app(service: Service, config: ServeConfig) -> FastAPI:
    """Return the application around ``service``, which its lifespan starts and closes.

    Raises:
        ResourceError: if traces are asked for and OpenTelemetry is not installed.
    """
    desk = open_batch_desk(service, config)
    endpoint = config.observe.otlp_endpoint
    tracing = None if endpoint is None else Tracing(endpoint)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.get_running_loop().create_task(service.start())  # /health answers meanwhile
        desk.open(app)
        yield
        await desk.close()
        await service.close()
        await starting
        if tracing is not None:
            tracing.close()

    addresses = {"docs_url": "/docs", "openapi_url": "/openapi.json"} if config.listen.docs else {}
    closed: dict[str, str | None] = {"docs_url": None, "redoc_url": None, "openapi_url": None}
    app = FastAPI(title="Steelyard", version=__version__, lifespan=lifespan, **{**closed, **addresses})  # type: ignore[arg-type]
    page = Page()
    for router in (
        health_router(service),
        metrics_router(service),
        models_router(service),
        chat_router(service),
        completions_router(service),
        tokens_router(service),
        embeddings_router(service),
        messages_router(service),
        responses_router(service),
        adapters_router(),
        *desk.routers,
        dashboard_router(Dashboard(service, KnownHardware())),
        page_router(page),
    ):
        app.include_router(router)
    install_error_answers(app, retry_after_s=config.limits.retry_after_s)
    _add_layers(app, service, config, tracing, open_paths=OPEN_PATHS | page.paths)
    return app


def _add_layers(
    app: FastAPI, service: Service, config: ServeConfig, tracing: Tracing | None, *, open_paths: frozenset[str]
) -> None:
    """Put the layers around the routes; the last one added is the outermost."""
    app.add_middleware(RequestLimits, limits=config.limits, max_file_bytes=config.batch.max_file_bytes)
    app.add_middleware(KeyGate, keys=service.keys, open_paths=open_paths)
    if config.listen.allowed_origins:  # outside the gate: browsers ask for leave without a key
        app.add_middleware(
            CORSMiddleware, allow_origins=config.listen.allowed_origins, allow_methods=["*"], allow_headers=["*"]
        )
    if tracing is not None:
        app.add_middleware(TracedApp, tracing=tracing)
    app.add_middleware(Envelope, count=service.metrics.count_answer, rate_headers=service.admission.rate_headers)
    app.add_middleware(AnthropicAnswers)
