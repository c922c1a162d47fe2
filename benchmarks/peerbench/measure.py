"""The driver: every contender runs each workload in turn, the others stopped, round after round."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peerbench.child import Child, PeerError
from peerbench.workloads import Answer, Workload, check_answer, random_prompts
from steelyard.core.clock import wall_s

WARM_UP_TOKENS = 4
START_CONTEXT = 2048
SAMPLE_TOKENS = 24

Start = Callable[[str], Child]
LoadFields = Callable[[str], dict[str, Any]]


@dataclass(slots=True)
class Results:
    """What came of a run.

    Attributes:
        figures: by workload, then contender, one per round.
        peak_rss_bytes: by contender, one per fresh process.
        versions: by contender, of the engine.
        samples: by contender, how it continued the sample, token ids.
        failures: by contender and, if it failed in one only, workload: why.
    """

    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    peak_rss_bytes: dict[str, list[float]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[int]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """The contenders and how they are started.

    Attributes:
        names: of the contenders, in their order.
        start: starts a contender's process.
        load_fields: ``model`` and ``options`` of a contender's load request.
        threads: that each may use.
    """

    names: Sequence[str]
    start: Start
    load_fields: LoadFields
    threads: int

    def load_request(self, name: str, *, seats: int, context: int) -> dict[str, Any]:
        """Return the fields of the request that loads a contender's model."""
        return {"threads": self.threads, "seats": seats, "context": context, **self.load_fields(name)}


def run_all(arena: Arena, workloads: Mapping[str, Workload], repeats: int, sample: list[int]) -> Results:
    """Load every contender, let each continue ``sample`` for the eye, and measure all workloads."""
    results = Results()
    children = load_all(arena, workloads, results)
    try:
        for name, child in children.items():
            say_sample(results, name, child, sample)
        for key, workload in workloads.items():
            if workload.fresh_process:
                results.figures[key] = measure_starts(arena, list(children), workload, repeats, results)
            else:
                results.figures[key] = measure_warm(children, key, workload, repeats, results)
    finally:
        for child in children.values():
            child.kill()
    return results


def load_all(arena: Arena, workloads: Mapping[str, Workload], results: Results) -> dict[str, Child]:
    """Return the contenders that could load their model, each loaded and stopped."""
    shape = {
        "seats": max(workload.num_prompts for workload in workloads.values()),
        "context": max(START_CONTEXT, *(workload.context for workload in workloads.values())),
    }
    children = {}
    for name in arena.names:
        note(f"loading {name}")
        child = arena.start(name)
        try:
            results.versions[name] = child.ask("load", **arena.load_request(name, **shape))["version"]
        except PeerError as error:
            results.failures[name] = str(error)
            child.kill()
            continue
        child.pause()
        children[name] = child
    return children


def say_sample(results: Results, name: str, child: Child, sample: list[int]) -> None:
    """Keep the contender's greedy continuation of a real prompt."""
    child.resume()
    try:
        answer = child.ask("generate", prompts=[sample], max_tokens=SAMPLE_TOKENS)
        results.samples[name] = answer["completions"][0]["token_ids"]
    except PeerError as error:
        results.failures[f"{name}, sample"] = str(error)
    finally:
        child.pause()


# --- loaded engines --------------------------------------------------------------------------------------------------


def measure_warm(
    children: Mapping[str, Child], key: str, workload: Workload, repeats: int, results: Results
) -> dict[str, list[float]]:
    """Warm every contender up and return its figures, one per round; who fails once is out of this workload."""
    figures: dict[str, list[float]] = {name: [] for name in children}
    for round_ in range(-1, repeats):
        prompts = random_prompts(workload, round_)
        for name in list(figures):
            try:
                answer = take_turn(children[name], workload, prompts, warm_up=round_ < 0)
            except PeerError as error:
                results.failures[f"{name}, {key}"] = str(error)
                del figures[name]
                continue
            if round_ >= 0:
                figures[name].append(workload.figure(workload, answer))
                note(f"{key} {round_ + 1}/{repeats} {name}: {figures[name][-1]:.1f} {workload.unit}")
    return figures


def take_turn(child: Child, workload: Workload, prompts: list[list[int]], *, warm_up: bool) -> Answer:
    """Let one contender run a workload once; the warm-up is the same but ends after a few tokens."""
    tokens = min(WARM_UP_TOKENS, workload.output_tokens) if warm_up else workload.output_tokens
    child.resume()
    try:
        if warm_up:
            child.ask("prepare", seats=workload.num_prompts, context=workload.context)
        answer = child.ask("generate", prompts=prompts, max_tokens=tokens)
    finally:
        child.pause()
    check_answer(answer, len(prompts), tokens)
    return answer


# --- fresh processes -------------------------------------------------------------------------------------------------


def measure_starts(
    arena: Arena, names: Sequence[str], workload: Workload, repeats: int, results: Results
) -> dict[str, list[float]]:
    """Return each contender's figures from processes of their own; the first, unmeasured, fills the file cache."""
    figures: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(-1, repeats):
        prompts = random_prompts(workload, round_)
        for name in list(figures):
            try:
                answer = start_once(arena, name, workload, prompts)
            except PeerError as error:
                results.failures[f"{name}, start"] = str(error)
                del figures[name]
                continue
            if round_ >= 0:
                figures[name].append(workload.figure(workload, answer))
                results.peak_rss_bytes.setdefault(name, []).append(answer["peak_rss_bytes"])
                note(f"start {round_ + 1}/{repeats} {name}: {figures[name][-1]:.2f} s")
    return figures


def start_once(arena: Arena, name: str, workload: Workload, prompts: list[list[int]]) -> Answer:
    """Return the first answer of a fresh process, with ``start_s``: seconds from its start until it was here."""
    load = arena.load_request(name, seats=1, context=START_CONTEXT)
    start_s = wall_s()
    child = arena.start(name)
    try:
        child.send("load", **load)
        child.send("generate", prompts=prompts, max_tokens=workload.output_tokens)
        child.receive()
        answer = child.receive()
        answer["start_s"] = wall_s() - start_s
    finally:
        child.kill()
    check_answer(answer, len(prompts), workload.output_tokens)
    return answer


def note(text: str) -> None:
    """Tell whoever waits how far it has come."""
    print(text, file=sys.stderr, flush=True)
