"""Steelyard's server under load by clients that others wrote, beside other servers, its own engine and its aims.

    python benchmarks/serving.py setup
    python benchmarks/serving.py run [--parts load steady http latency start] [--servers SERVER …] [--users 1 16 64]
                                     [--repeats 3] [--threads 2] [--write]

``setup`` makes environments and models where ``peers.py`` keeps its own (``--cache``): llama.cpp's server, built from
source, and vLLM's CPU build, which also brings the load generator. wrk must be on the path.

load      as many users at once, who ask again as soon as they are answered, two requests each: 128 tokens in, 64 out,
          greedy, new prompts in every round, sent by ``vllm bench serve``; beside it the same engine without a server
steady    as many users sent by wrk, which takes less of the cores than vLLM's generator, beside the engine alone
http      64 connections of wrk before a server whose engine takes no time
latency   what lies between the end of an engine's step and a client's socket, one stream
start     process start to first token of a request sent as soon as the port answers

The load generator computes on the cores that the servers compute on; how much it took is in the tables. SERVER is the
beginning of a name; without one all take part. ``--write`` appends to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from peerbench.cache import Cache
from peerbench.child import PeerError
from peerbench.contenders import OURS
from peerbench.install import set_up_parts
from servebench import report
from servebench.http_layer import measure_http
from servebench.latency import added_s
from servebench.load import CLIENT_MODEL, OFFLINE_NAME, Load, OfflineEngine, Server, Taker, VllmClient, take_turns
from servebench.servers import SERVERS, ServerSpec, Shape, missing
from servebench.start import measure_starts
from servebench.steady import measure_steady

from steelyard.core.clock import utc_timestamp
from steelyard.core.environment import cache_directory
from steelyard.hardware.this_machine import num_usable_cores, this_machine
from steelyard.reproduce.report import describe_machine, source_version

RESULTS = Path(__file__).parent / "RESULTS.md"
PROMPT_TOKENS, OUTPUT_TOKENS, SPARE_TOKENS = 128, 64, 64  # load generators' prompts may come out a little longer
REQUESTS_PER_USER, LEAST_REQUESTS = 2, 4
WRK_S = 5
STREAMS = 5


def main() -> None:
    """Run one of the two commands."""
    # Servers are in process groups of their own: whoever ends only this process would leave them behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    options = parse_arguments()
    cache = Cache(options.cache.absolute())
    if options.command == "setup":
        environments = [spec.environment for spec in SERVERS.values() if spec.environment is not None]
        models = [CLIENT_MODEL, *(spec.model for spec in SERVERS.values() if spec.model is not None)]
        failures = set_up_parts(cache, environments, models)
        print("\n".join(failures) or "ready")
        sys.exit(bool(failures))
    publish([line for part in options.parts for line in PARTS[part](cache, options)], options)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="make environments and models")
    run = commands.add_parser("run", help="measure")
    run.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    run.add_argument("--servers", nargs="+", default=[""], metavar="SERVER")
    run.add_argument("--users", nargs="+", type=int, default=[1, 16, 64])
    run.add_argument("--repeats", type=int, default=3)
    run.add_argument("--threads", type=int, default=num_usable_cores())
    run.add_argument("--write", action="store_true")
    for command in (setup, run):
        command.add_argument("--cache", type=Path, default=cache_directory() / "peers")
    return parser.parse_args()


def load_part(cache: Cache, options: argparse.Namespace) -> list[str]:
    """Give everybody the same load in turns."""
    servers, failures = present(cache, options)
    loads = [load_of(number) for number in options.users]
    takers: dict[str, Taker] = {}
    with ExitStack() as stack:
        client = VllmClient(cache)
        stack.callback(client.kill)
        takers[OFFLINE_NAME] = offline = OfflineEngine(cache, options.threads, options.users)
        stack.callback(offline.kill)
        shape = Shape(
            threads=options.threads, seats=max(options.users), context=PROMPT_TOKENS + OUTPUT_TOKENS + SPARE_TOKENS
        )
        for name, spec in servers.items():
            try:
                server = Server(name, spec, shape, cache, client)
            except PeerError as error:
                failures[name] = str(error)
                continue
            stack.callback(server.kill)
            takers[name] = server
        figures, failed = take_turns(takers, loads, options.repeats)
    lines = [line for load in loads for line in (*report.load_table(figures, load.users), "")]
    lines += [report.kept(figures, number) for number in options.users if (OURS, number) in figures]
    lines += report.standings(figures, options.users)
    lines += [f"- {name}: {spec.note}" for name, spec in servers.items() if name in takers]
    return lines + without_figures({**failures, **failed})


def steady_part(cache: Cache, options: argparse.Namespace) -> list[str]:
    """Measure what the server keeps of its engine's throughput."""
    lines = []
    for number in options.users:
        lines += report.steady_lines(measure_steady(cache, options.threads, load_of(number), options.repeats), number)
    return lines


def http_part(cache: Cache, options: argparse.Namespace) -> list[str]:
    """Measure the HTTP layer."""
    return [*report.http_table(measure_http(cache, options.threads, WRK_S)), ""]


def latency_part(cache: Cache, options: argparse.Namespace) -> list[str]:
    """Measure what is added to each token."""
    return report.added_lines(added_s(cache, options.threads, STREAMS))


def start_part(cache: Cache, options: argparse.Namespace) -> list[str]:
    """Measure the servers' starts."""
    servers, failures = present(cache, options)
    figures, failed = measure_starts(cache, servers, options.threads, options.repeats)
    return report.start_lines(figures) + without_figures({**failures, **failed})


PARTS: Mapping[str, Callable[[Cache, argparse.Namespace], list[str]]] = {
    "load": load_part,
    "steady": steady_part,
    "http": http_part,
    "latency": latency_part,
    "start": start_part,
}


def load_of(users: int) -> Load:
    """Return the load of so many users."""
    requests = max(LEAST_REQUESTS, REQUESTS_PER_USER * users)
    return Load(users=users, requests=requests, prompt_tokens=PROMPT_TOKENS, output_tokens=OUTPUT_TOKENS)


def present(cache: Cache, options: argparse.Namespace) -> tuple[dict[str, ServerSpec], dict[str, str]]:
    """Return the servers that are wanted and set up, ours first, and what the others lack."""
    starts = tuple(start.lower() for start in options.servers)
    wanted = {name: spec for name, spec in SERVERS.items() if name == OURS or name.lower().startswith(starts)}
    lacks = {name: missing(spec, cache) for name, spec in wanted.items()}
    return (
        {name: wanted[name] for name, lack in lacks.items() if lack is None},
        {name: f"{lack}, see `serving.py setup`" for name, lack in lacks.items() if lack is not None},
    )


def without_figures(failures: Mapping[str, str]) -> list[str]:
    """Return why figures are missing."""
    return [f"- without a figure: {what}: {why}" for what, why in failures.items()]


def publish(lines: list[str], options: argparse.Namespace) -> None:
    """Print a section, and append it to the results if asked to."""
    title = f"the server under load, {options.threads} threads, median (lowest … highest) of {options.repeats} rounds"
    command = shlex.join(["python", "benchmarks/serving.py", *sys.argv[1:]])
    origin = f"`{command}` · {describe_machine(this_machine())} · torch {torch.__version__} · commit {source_version()}"
    section = "\n".join([f"\n## {utc_timestamp()} · {title}\n", f"{origin}\n", *lines]) + "\n"
    print(section)
    if options.write:
        with RESULTS.open("a") as file:
            file.write(section)


if __name__ == "__main__":
    main()
