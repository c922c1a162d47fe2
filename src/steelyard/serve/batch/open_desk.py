"""Batches beside people: :class:`OpenDesk` works on them in the serving process, with what people leave of it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.types import ASGIApp

from steelyard.serve.batch.office import Office
from steelyard.serve.config import ServeConfig
from steelyard.serve.identity import unix_seconds
from steelyard.serve.keys import BATCH_TENANT
from steelyard.serve.routes.batches import batches_router
from steelyard.serve.routes.files import files_router
from steelyard.serve.service import Service


class OpenDesk:
    """See :class:`.desk.BatchDesk`.

    Raises:
        SteelyardError: if the store cannot be opened.
    """

    def __init__(self, service: Service, config: ServeConfig) -> None:
        self._service, self._config = service, config
        self._office = Office(config.batch, unix_seconds)
        self.routers: tuple[APIRouter, ...] = (files_router(self._office), batches_router(self._office))

    def open(self, app: ASGIApp) -> None:
        """Begin to work; when the server drains, lines on their way are dropped at once, and computed again later."""
        num_seats = self._config.batch.concurrency or max(1, self._config.engine.max_num_seqs // 2)
        self._service.on_drain = self._office.stop
        self._office.start(app, num_seats, self._people_wait, self._service.metrics.count_lines)

    async def close(self) -> None:
        """End."""
        await self._office.close()

    def _people_wait(self) -> bool:
        """Whether an engine has requests waiting that are no lines of batches."""
        loaded = [model.llm for model in self._service.pool.models if model.llm is not None]
        return any(not name.startswith(BATCH_TENANT) for llm in loaded for name in llm.start().waiting_tenants())
