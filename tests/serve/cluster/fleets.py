"""Servers with replicas in processes of their own, real ones and modelled ones."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from live_server import LiveServer, live_server

from steelyard.engine.build import LLMOptions
from steelyard.models.text.load import TextParts
from steelyard.serve.cluster.crew import Member
from steelyard.serve.cluster.llm import FleetLLM, FleetModels
from steelyard.serve.cluster.processes import ProcessLauncher, WorkerProcess
from steelyard.serve.cluster.remote import Health
from steelyard.serve.config import FleetConfig, ListenConfig, ModelSpec, ServeConfig

MODELLED_WORKER = (sys.executable, str(Path(__file__).with_name("modelled_worker.py")))
QUICK = Health(ping_s=0.1, silence_s=1.5, close_s=5.0)


@dataclass(frozen=True)
class LiveFleet:
    """A server whose one model has replicas."""

    live: LiveServer

    @property
    def url(self) -> str:
        return self.live.url

    @property
    def llm(self) -> FleetLLM:
        return cast(FleetLLM, self.live.service.pool.models[0].llm)

    @property
    def members(self) -> list[Member]:
        return [member for _, member in sorted(self.llm.crew.members.items())]

    def pids(self) -> list[int]:
        return [cast(WorkerProcess, member.process).pid for member in self.members]

    def pids_of_busy(self) -> list[int]:
        """Return the processes of the replicas that have requests, those with most of them first."""

        def found() -> list[int]:
            views = [view for view in self.llm.start().dispatcher.views() if view.num_outstanding_requests]
            by_id = {m.remote.id: cast(WorkerProcess, m.process).pid for m in self.members}
            return [by_id[view.id] for view in sorted(views, key=lambda view: -view.num_outstanding_requests)]

        return self.live.on_loop(found)

    def kill_busiest(self, how: signal.Signals = signal.SIGKILL) -> int:
        """Kill, or stop, the replica with most requests."""
        pid = self.pids_of_busy()[0]
        os.kill(pid, how)
        return pid

    def wait_until_whole(self, num_replicas: int) -> None:
        """Wait until every place has a healthy replica."""
        self.live.eventually(lambda: sum(view.healthy for view in self.llm.start().dispatcher.views()) == num_replicas)

    def check_idle(self) -> None:
        """Wait until every request has left."""
        self.live.eventually(lambda: self.live.service.num_active == 0)
        self.live.on_loop(lambda: self.llm.start().check_idle())


@contextmanager
def live_fleet(
    num_replicas: int,
    *,
    modelled: bool,
    router: str = "prefix_affinity",
    engine: dict[str, Any] | None = None,
    health: Health = QUICK,
    **config: Any,
) -> Iterator[LiveFleet]:
    """Serve on a free port; ``config`` are :class:`ServeConfig`'s fields."""
    settled = ServeConfig(
        models=(ModelSpec(source=None, names=("m",)),),
        listen=ListenConfig(port=0, drain_timeout_s=5.0),
        engine=LLMOptions(**({"max_model_len": 512, "max_num_seqs": 4} | (engine or {}))),
        fleet=FleetConfig(replicas=num_replicas, router=router),
        **config,
    )
    source = modelled_source(settled, health) if modelled else FleetModels(settled, health=health)
    with live_server(settled, source) as live:
        fleet = LiveFleet(live)
        pids = live.on_loop(fleet.pids)
        yield fleet
    assert not any(is_alive(pid) for pid in pids), "a replica outlived its server"


def modelled_source(config: ServeConfig, health: Health) -> FleetModels:
    """Return a source of modelled replicas."""
    launcher = ProcessLauncher(config.engine, config.fleet.replicas or 1, MODELLED_WORKER)
    return FleetModels(config, launcher, load_text=lambda source: TextParts(None, None), health=health)


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended, waited for or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")
