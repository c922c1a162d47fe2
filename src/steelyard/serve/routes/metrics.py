"""``GET /metrics``."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from steelyard.serve.service import Service


def metrics_router(service: Service) -> APIRouter:
    """Return the route that Prometheus asks."""
    router = APIRouter(tags=["health"])

    @router.get("/metrics")
    async def metrics() -> Response:
        """Return all metrics in Prometheus' text format."""
        return Response(service.metrics.render(), headers={"content-type": CONTENT_TYPE_LATEST})

    return router
