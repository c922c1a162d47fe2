"""The page at ``/`` with its files, and ``GET /dashboard/state``, which tells it what the engines do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

from steelyard.serve.dashboard.assets import Asset, Page
from steelyard.serve.dashboard.state import Dashboard, DashboardState
from steelyard.serve.sse import to_json


def page_router(page: Page) -> APIRouter:
    """Return a route for each of the page's files."""
    router = APIRouter(include_in_schema=False)
    for path, asset in page.assets.items():
        router.add_api_route(path, _sender(asset), methods=["GET", "HEAD"])
    return router


def dashboard_router(dashboard: Dashboard) -> APIRouter:
    """Return the route that the page asks twice a second."""
    router = APIRouter(tags=["health"])

    @router.get("/dashboard/state", response_model=DashboardState)
    async def state(model: str | None = None, since: float = 0.0) -> Response:
        """Tell how a model does now, and what happened to it since a time of the server's own clock."""
        body = to_json(dashboard.state(model, since))
        return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

    return router


def _sender(asset: Asset) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == asset.headers["etag"]:
            return Response(status_code=304, headers=asset.headers)
        return Response(asset.body, headers=asset.headers)

    return send
