"""From the start of a server's process to the first token of a request that was sent as soon as its port answered."""

from __future__ import annotations

from collections.abc import Mapping

from peerbench.cache import Cache
from peerbench.child import PeerError
from peerbench.measure import note

from servebench.servers import START_TIMEOUT_S, ServerProcess, ServerSpec, Shape
from servebench.wire import first_arrival_s
from steelyard.core.clock import wall_s

PROMPT = "The capital of France is"


def measure_starts(
    cache: Cache, servers: Mapping[str, ServerSpec], threads: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return each server's seconds, and why some have none; the first start, unmeasured, fills the file cache."""
    figures: dict[str, list[float]] = {name: [] for name in servers}
    failures: dict[str, str] = {}
    for round_ in range(-1, repeats):
        for name in [name for name in servers if name not in failures]:
            try:
                took_s = start_once(cache, name, servers[name], threads)
            except PeerError as error:
                failures[name] = str(error)
                continue
            note(f"start {round_ + 1}/{repeats} {name}: {took_s:.2f} s")
            if round_ >= 0:
                figures[name].append(took_s)
    return figures, failures


def start_once(cache: Cache, name: str, spec: ServerSpec, threads: int) -> float:
    """Return the seconds of one start.

    Raises:
        PeerError: if no token comes.
    """
    began_s = wall_s()
    server = ServerProcess(name, spec, Shape(threads=threads, seats=4, context=256), cache)
    try:
        return first_arrival_s(server.url, PROMPT, began_s + START_TIMEOUT_S) - began_s
    finally:
        server.kill()
