"""How the application comes to batches: :func:`open_batch_desk`. Their libraries are imported only if there are any."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from fastapi import APIRouter, Request
from starlette.types import ASGIApp

from steelyard.serve.config import ServeConfig
from steelyard.serve.errors import ApiError
from steelyard.serve.service import Service


class BatchDesk(Protocol):
    """What the application needs of batches."""

    @property
    def routers(self) -> Sequence[APIRouter]:
        """Their addresses."""
        ...

    def open(self, app: ASGIApp) -> None:
        """Begin to work, with ``app`` to answer lines."""
        ...

    async def close(self) -> None:
        """End."""
        ...


def open_batch_desk(service: Service, config: ServeConfig) -> BatchDesk:
    """Return the desk that ``config`` asks for.

    Raises:
        SteelyardError: if the store cannot be opened.
    """
    if config.batch.store is None:
        return _ClosedDesk()
    desk: BatchDesk = import_module("steelyard.serve.batch.open_desk").OpenDesk(service, config)
    return desk


class _ClosedDesk:
    """No batches here, and a word on how to get some."""

    def __init__(self) -> None:
        router = APIRouter(tags=["batches"], include_in_schema=False)
        for path in ("/v1/files", "/v1/files/{rest:path}", "/v1/batches", "/v1/batches/{rest:path}"):
            router.add_api_route(path, _refuse, methods=["GET", "POST", "DELETE"])
        self.routers = (router,)

    def open(self, app: ASGIApp) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


async def _refuse(request: Request) -> Any:
    del request
    message = "this server keeps no batches. Start it with --batch-store and the path of a file."
    raise ApiError(501, message, kind="not_implemented_error", code="unsupported")
