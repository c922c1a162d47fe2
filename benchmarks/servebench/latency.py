"""What the server adds to each token when one user streams and nobody else is there.

The engine writes down when each step ended, on the thread that computed it. A client on a bare socket writes down when
each event arrived. Both read one clock, and a step makes one token, so that the difference is all that lies between:
the way back to the event loop, the commit, the detokeniser, the event, HTTP and the socket.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from peerbench.cache import Cache
from peerbench.child import PeerError

from servebench.instrumented_server import END
from servebench.servers import SCRIPT, ServerProcess, ServerSpec, Shape
from servebench.wire import arrivals_s

PROMPT = "The weather in the mountains changes quickly. In the morning"
NUM_TOKENS = 200


def added_s(cache: Cache, threads: int, repeats: int) -> list[float]:
    """Return the seconds that were added to each token of so many streams; one more before them is not counted.

    Raises:
        PeerError: if tokens and events do not correspond.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "step-ends"
        spec = ServerSpec(command=(*SCRIPT, "--step-ends", str(log)))
        server = ServerProcess("steelyard, observed", spec, Shape(threads=threads, seats=1, context=0), cache)
        try:
            server.wait_until_ready()
            streams = [stream_added_s(server.url, log) for _ in range(repeats + 1)]
        finally:
            server.kill()
    return [each for stream in streams[1:] for each in stream]


def stream_added_s(url: str, log: Path) -> list[float]:
    """Return the seconds that were added to each token of one stream."""
    num_before = len(step_ends_s(log))
    arrived_s = arrivals_s(url, PROMPT, NUM_TOKENS)
    ended_s = step_ends_s(log)[num_before:]
    if not len(ended_s) == len(arrived_s) == NUM_TOKENS:
        raise PeerError(f"{len(ended_s)} steps and {len(arrived_s)} events for {NUM_TOKENS} tokens")
    return [arrival - end for arrival, end in zip(arrived_s, ended_s, strict=True)]


def step_ends_s(log: Path) -> list[float]:
    """Return when the steps so far ended."""
    content = log.read_bytes() if log.exists() else b""
    return [end for (end,) in END.iter_unpack(content)]
