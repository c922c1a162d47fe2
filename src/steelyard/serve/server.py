"""The server as a process: sockets, signals and the way out. :func:`run_server` is what the command calls."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from steelyard.core.clock import now_s, sleep_s
from steelyard.core.errors import StorageError
from steelyard.serve.app import create_app
from steelyard.serve.cluster.llm import FleetModels
from steelyard.serve.config import ServeConfig
from steelyard.serve.files import read_key_file
from steelyard.serve.guard import ConnectionGuard
from steelyard.serve.logs import configure_logs
from steelyard.serve.pool import ModelSource
from steelyard.serve.reload import ConfigWatch
from steelyard.serve.service import Service
from steelyard.serve.sources import DiskModels

logger = logging.getLogger("steelyard.serve")

_INTERRUPTED = 130
# Files that the process needs besides its connections: weights, libraries, the log.
_OWN_FILES = 256
# After the drain's end: for clients to take what was cut short.
_LAST_WORDS_S = 5
_LOOK_S = 0.05
# How long the thread that computes steps waits for the interpreter while the event loop writes to many streams.
# Python's own 5 ms are a good part of a step, in which most cores would have nothing to do.
_SWITCH_INTERVAL_S = 0.0002


def run_server(load: Callable[[], ServeConfig], config_path: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    Args:
        load: returns the configuration, and again on SIGHUP or when its files change.
        config_path: the file that it reads, if there is one.

    Raises:
        ParamsError: if a key or a file is no good.
        SteelyardError: if the first model cannot be loaded.
        StorageError: if the address cannot be listened on.
    """
    config = load()
    configure_logs(config.observe)
    allow_open_files(config.limits.max_connections + _OWN_FILES)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    paths = [path for path in (config_path, config.access.api_key_file) if path is not None]
    config = with_key_file(config)
    service = Service(config, model_source(config))
    watch = ConfigWatch(lambda: with_key_file(load()), paths, service.reconfigure)
    server = Server(service, config, watch)
    if paths:  # without files there is nothing new to read, and a terminal that closes ends the process as ever
        signal.signal(signal.SIGHUP, server.handle_hangup)
    try:
        server.run()
    except SystemExit:
        where = config.listen.uds or f"{config.listen.host}:{config.listen.port}"
        problem = f"{where} cannot be listened on"
        raise StorageError(problem, field="port", remedy="Choose another, or end the program that has it") from None
    if service.startup_error is not None:
        raise service.startup_error


def model_source(config: ServeConfig) -> ModelSource:
    """Return where models come from: engines of this process, or fleets of their own."""
    fleet = config.fleet
    return DiskModels(config.engine) if fleet.replicas is None and fleet.cluster is None else FleetModels(config)


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
        watch: takes the configuration anew.
    """

    def __init__(self, service: Service, config: ServeConfig, watch: ConfigWatch | None = None) -> None:
        self._service, self._drain_s, self._watch = service, config.listen.drain_timeout_s, watch
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._draining = False
        super().__init__(_uvicorn_config(service, config))

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Listen, and stop again if the first model cannot be loaded."""
        self._loop = asyncio.get_running_loop()
        self._service.on_startup_error = self._stop
        if self._watch is not None:
            self._tasks.append(self._loop.create_task(self._watch.run()))
        await super().startup(sockets)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """End everything."""
        for task in self._tasks:
            task.cancel()
        await super().shutdown(sockets)

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """Take the configuration anew, once the server is up."""
        if self._loop is not None and self._watch is not None:
            self._loop.call_soon_threadsafe(self._watch.ask)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal, leave on the second.

        uvicorn's own would raise the signal again in the end, and so make an orderly end look like a crash.
        """
        if self._draining:
            os._exit(_INTERRUPTED)
        self._draining = True
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        logger.info("stopping: %d requests have %g s to end", self._service.num_active, self._drain_s)
        self._service.drain()
        self._tasks.append(asyncio.get_running_loop().create_task(self._drain()))

    async def _drain(self) -> None:
        """Wait for the running requests; meanwhile the port stays open, so that others are told and not cut off."""
        deadline_s = now_s() + self._drain_s
        while self._service.num_active and now_s() < deadline_s:
            await sleep_s(_LOOK_S)
        self._service.cancel_all()
        self._stop()

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
        timeout_graceful_shutdown=_LAST_WORDS_S,
    )
