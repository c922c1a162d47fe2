"""A server with two modelled replicas as a program; prints their process ids once they are there, and serves."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fleets import QUICK, LiveFleet, modelled_source
from live_server import live_server

from steelyard.engine.build import LLMOptions
from steelyard.serve.config import FleetConfig, ListenConfig, ModelSpec, ServeConfig

CONFIG = ServeConfig(
    models=(ModelSpec(source=None, names=("m",)),),
    listen=ListenConfig(port=0),
    engine=LLMOptions(max_model_len=256, max_num_seqs=4),
    fleet=FleetConfig(replicas=2),
)

if __name__ == "__main__":
    with live_server(CONFIG, modelled_source(CONFIG, QUICK)) as live:
        print(*LiveFleet(live).pids(), flush=True)
        sys.stdin.read()
