"""``/health``, ``/ping``, ``/version`` and ``/load``."""

from __future__ import annotations

from fastapi import APIRouter, Response

from steelyard import __version__
from steelyard.serve.errors import unavailable
from steelyard.serve.service import Service


def health_router(service: Service) -> APIRouter:
    """Return the routes that tell how the server is."""
    router = APIRouter(tags=["health"])

    @router.get("/health")
    async def health() -> Response:
        """Answer 200 once a model is loaded; 503 before, while an engine is dead, and once the server is to stop."""
        if not service.is_ready:
            raise unavailable("no model is loaded yet, an engine has died, or the server is about to stop")
        return Response()

    @router.get("/ping")
    async def ping() -> Response:
        """Answer 200: the process is there."""
        return Response()

    @router.post("/ping")
    async def posted_ping() -> Response:
        """The same, for platforms that post."""
        return Response()

    @router.get("/version")
    async def version() -> dict[str, str]:
        """Return the version of Steelyard."""
        return {"version": __version__}

    @router.get("/load")
    async def load() -> dict[str, int]:
        """Return how many requests are being worked on."""
        return {"server_load": service.num_active}

    return router
