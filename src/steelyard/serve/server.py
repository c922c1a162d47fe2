"""The server as a process: sockets, signals and the way out. :func:`run_server` is what the command calls."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from steelyard.core.errors import StorageError
from steelyard.serve.app import create_app
from steelyard.serve.config import ServeConfig
from steelyard.serve.files import read_key_file
from steelyard.serve.guard import ConnectionGuard
from steelyard.serve.logs import configure_logs
from steelyard.serve.service import Service
from steelyard.serve.sources import DiskModels

logger = logging.getLogger("steelyard.serve")

_INTERRUPTED = 130
# Files that the process needs besides its connections: weights, libraries, the log.
_OWN_FILES = 256
# After the drain's end: for clients to take what was cut short.
_LAST_WORDS_S = 5


def run_server(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    Raises:
        ParamsError: if a key or a file is no good.
        SteelyardError: if the first model cannot be loaded.
        StorageError: if the address cannot be listened on.
    """
    configure_logs(config.observe)
    allow_open_files(config.limits.max_connections + _OWN_FILES)
    config = with_key_file(config)
    service = Service(config, DiskModels(config.engine))
    server = Server(service, config)
    try:
        server.run()
    except SystemExit:
        where = config.listen.uds or f"{config.listen.host}:{config.listen.port}"
        problem = f"{where} cannot be listened on"
        raise StorageError(problem, field="port", remedy="Choose another, or end the program that has it") from None
    if service.startup_error is not None:
        raise service.startup_error


def allow_open_files(num_files: int) -> None:
    """Raise this process's limit of open files as far as ``num_files`` and the system's own limit go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = num_files if hard == resource.RLIM_INFINITY else min(num_files, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def with_key_file(config: ServeConfig) -> ServeConfig:
    """Return ``config`` with the keys of its key file among its keys."""
    access = config.access
    if access.api_key_file is None:
        return config
    keys = (*access.api_keys, *read_key_file(access.api_key_file))
    return replace(config, access=replace(access, api_keys=keys, api_key_file=None))


class Server(uvicorn.Server):
    """uvicorn with our guard on its connections and our way of ending.

    Args:
        service: what is served.
        config: where and how.
    """

    def __init__(self, service: Service, config: ServeConfig) -> None:
        self._service, self._drain_s = service, config.listen.drain_timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(_uvicorn_config(service, config))

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Listen, and stop again if the first model cannot be loaded."""
        self._loop = asyncio.get_running_loop()
        self._service.on_startup_error = self._stop
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal, leave on the second.

        uvicorn's own would raise the signal again in the end, and so make an orderly end look like a crash.
        """
        if self.should_exit:
            os._exit(_INTERRUPTED)
        self.should_exit = True
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        logger.info("stopping: %d requests have %g s to end", self._service.num_active, self._drain_s)
        self._service.drain()
        asyncio.get_running_loop().call_later(self._drain_s, self._service.cancel_all)

    def _stop(self) -> None:
        self.should_exit = True


def _uvicorn_config(service: Service, config: ServeConfig) -> uvicorn.Config:
    guards: set[ConnectionGuard] = set()

    def guarded(**parts: Any) -> ConnectionGuard:
        return ConnectionGuard(HttpToolsProtocol(**parts), config.limits, guards)

    listen = config.listen
    return uvicorn.Config(
        create_app(service, config),
        host=listen.host,
        port=listen.port,
        uds=listen.uds,
        http=guarded,  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=listen.timeout_keep_alive_s,  # type: ignore[arg-type]
        timeout_graceful_shutdown=int(listen.drain_timeout_s + _LAST_WORDS_S),
    )
