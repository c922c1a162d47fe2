"""Steelyard beside other engines on this machine: the same weights, token ids and threads, greedy, interleaved.

    python benchmarks/peers.py setup [ENGINE …]
    python benchmarks/peers.py run [--engines ENGINE …] [--workloads NAME …] [--threads 2] [--repeats 5] [--write]
    python benchmarks/peers.py quality [--engines ENGINE …] [--tokens 100000] [--write]

``setup`` makes a virtual environment per engine and converts the default model, into ``--cache`` (default:
``peers`` in Steelyard's cache directory). ``run`` loads every engine in a process of its own; a round lets each run
a workload once while the others stand still. ``quality`` has engines predict the same text. ENGINE is the beginning of
a contender's name; without one all take part. ``--write`` appends the tables to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from peerbench import corpus, quality, report
from peerbench.cache import Cache
from peerbench.contenders import Contender, chosen
from peerbench.install import set_up
from peerbench.measure import Arena, run_all
from peerbench.workloads import WORKLOADS

from steelyard.core.clock import utc_timestamp
from steelyard.core.environment import cache_directory
from steelyard.hardware.this_machine import num_usable_cores, this_machine
from steelyard.models.catalogue import default_model
from steelyard.models.resolve import resolve_model
from steelyard.models.text.load import load_text
from steelyard.models.text.tokenizer import Tokenizer
from steelyard.reproduce.report import describe_machine, source_version

RESULTS = Path(__file__).parent / "RESULTS.md"
SAMPLE = "The capital of France is"
WINDOW_TOKENS = 1024


def main() -> None:
    """Run one of the three commands."""
    options = parse_arguments()
    COMMANDS[options.command](options)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="make environments and models")
    setup.add_argument("engines", nargs="*", metavar="ENGINE")
    run = commands.add_parser("run", help="compare speed, start and memory")
    run.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    run.add_argument("--repeats", type=int, default=5)
    quality_ = commands.add_parser("quality", help="compare perplexities")
    quality_.add_argument("--tokens", type=int, default=100_000)
    for command in (run, quality_):
        command.add_argument("--engines", nargs="+", default=[], metavar="ENGINE")
        command.add_argument("--threads", type=int, default=num_usable_cores())
        command.add_argument("--write", action="store_true")
    for command in (setup, run, quality_):
        command.add_argument("--cache", type=Path, default=cache_directory() / "peers")
    return parser.parse_args()


def setup_command(options: argparse.Namespace) -> None:
    """Make what is not there yet; fail if something could not be made."""
    failures = set_up(Cache(options.cache.absolute()), chosen(options.engines))
    print("\n".join(failures) or "ready")
    sys.exit(bool(failures))


def run_command(options: argparse.Namespace) -> None:
    """Compare the contenders."""
    cache = Cache(options.cache.absolute())
    contenders, missing = present(cache, chosen(options.engines))
    workloads = {name: WORKLOADS[name] for name in options.workloads}
    tokenizer = default_tokenizer()
    arena = make_arena(cache, contenders, options.threads)
    results = run_all(arena, workloads, options.repeats, tokenizer.encode(SAMPLE))
    results.failures.update(missing)
    for name, token_ids in results.samples.items():
        print(f"{name}: {SAMPLE}{tokenizer.decode(token_ids)!r}")
    title = f"peers, {options.threads} threads, greedy, median (lowest … highest) of {options.repeats} rounds"
    lines = report.table(list(contenders), report.columns(results, workloads))
    publish(title, [*lines, "", *report.notes(contenders, results)], options)


def quality_command(options: argparse.Namespace) -> None:
    """Compare how well engines predict the same text."""
    cache = Cache(options.cache.absolute())
    wanted = chosen(options.engines, quality.SCORERS)
    contenders, failures = present(cache, wanted)
    encode = default_tokenizer().encode
    windows = corpus.windows(corpus.sources(), encode, length=WINDOW_TOKENS, tokens=options.tokens)
    scores, failed = quality.score_all(make_arena(cache, contenders, options.threads), windows)
    failures.update(failed)
    lost = [f"- without a figure: {name}: {why}" for name, why in failures.items()]
    publish("peers, perplexity", [*quality.table(scores), "", *quality.origin(windows), *lost], options)


COMMANDS = {"setup": setup_command, "run": run_command, "quality": quality_command}


def present(cache: Cache, contenders: Mapping[str, Contender]) -> tuple[dict[str, Contender], dict[str, str]]:
    """Return the contenders that are set up, and what the others lack."""
    lacks = {name: cache.missing(contender) for name, contender in contenders.items()}
    return (
        {name: contenders[name] for name, lack in lacks.items() if lack is None},
        {name: f"{lack}, see `peers.py setup`" for name, lack in lacks.items() if lack is not None},
    )


def make_arena(cache: Cache, contenders: Mapping[str, Contender], threads: int) -> Arena:
    """Return what starts these contenders."""
    return Arena(
        names=list(contenders),
        start=lambda name: cache.start(name, contenders[name]),
        load_fields=lambda name: {
            "model": cache.model_argument(name, contenders[name]),
            "options": dict(contenders[name].options),
        },
        threads=threads,
    )


def default_tokenizer() -> Tokenizer:
    """Return the default model's tokenizer."""
    tokenizer = load_text(resolve_model(default_model())).tokenizer
    assert tokenizer is not None, "the default model has a tokenizer"
    return tokenizer


def publish(title: str, lines: list[str], options: argparse.Namespace) -> None:
    """Print a section, and append it to the results if asked to."""
    command = shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]])
    origin = f"`{command}` · {describe_machine(this_machine())} · torch {torch.__version__} · commit {source_version()}"
    section = "\n".join([f"\n## {utc_timestamp()} · {title}\n", f"{origin}\n", *lines]) + "\n"
    print(section)
    if options.write:
        with RESULTS.open("a") as file:
            file.write(section)


if __name__ == "__main__":
    main()
