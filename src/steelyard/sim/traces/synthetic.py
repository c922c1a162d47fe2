"""Traces that are drawn: arrivals by a process, lengths by a distribution, both from one seed.

``synthetic:poisson,rate=4,duration=600,prompt=lognormal:512:0.8,output=fixed:128`` says on the command line what
:class:`SyntheticConfig` says in Python.

- ``poisson``: gaps are exponential.
- ``gamma``: gaps have the coefficient of variation ``cv``; above 1 arrivals come in clumps, below 1 evenly.
- ``diurnal``: Poisson whose rate swings by ``swing`` (a share of it) once in ``period`` seconds, lowest at the start.
- ``bursts``: Poisson whose rate jumps (a Markov-modulated process of two states): in bursts of ``burst`` seconds on
  average, once in ``every`` seconds on average, it is ``factor`` times that of the quiet between; ``rate`` is the mean.

Lengths: ``fixed:N``, ``uniform:LOW:HIGH`` or ``lognormal:MEAN:SIGMA`` for each of ``prompt`` and ``output``;
or for both ``lengths=trace:FILE`` (pairs drawn from a file) or ``lengths=NAME``, of :data:`PUBLISHED`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from random import Random

from steelyard.core.errors import ParamsError
from steelyard.policies.registry import check_number
from steelyard.sim.traces.types import MAX_TOKENS, Trace, TraceRequest, ordered_trace

Lengths = Callable[[Random], tuple[int, int]]
"""Draws the tokens of a prompt and of its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticConfig:
    """What to draw.

    Attributes:
        arrivals: a key of :data:`ARRIVALS`.
        rate: mean arrivals per second.
        duration_s: of the trace, unless ``count`` ends it before.
        count: requests; ``None`` for as many as come in ``duration_s``.
        options: of the process: ``cv``; ``swing`` and ``period``; ``burst``, ``every`` and ``factor``.

    Raises:
        ParamsError: if a value is out of range, or the process has no such option.
    """

    arrivals: str = "poisson"
    rate: float = 1.0
    duration_s: float = 600.0
    count: int | None = None
    options: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.arrivals not in ARRIVALS:
            known = ", ".join(ARRIVALS)
            raise ParamsError(f"there is no process {self.arrivals!r}", field="synthetic", remedy=f"Use one of {known}")
        check_number("rate", self.rate, above=0)
        check_number("duration", self.duration_s, above=0)
        if self.count is not None:
            check_number("count", self.count, above=0)
        known_options = ARRIVALS[self.arrivals].defaults
        for name, number in self.options.items():
            if name not in known_options:
                valid = ", ".join(known_options) or "none"
                problem = f"{self.arrivals} has no such option"
                raise ParamsError(problem, field=name, remedy=f"Its options: {valid}")
            check_number(name, number, above=0)


def synthetic_trace(config: SyntheticConfig, lengths: Lengths, seed: int) -> Trace:
    """Return a trace drawn by ``seed``; arrivals do not depend on the lengths.

    Raises:
        InputError: if nothing arrives within the duration.
    """
    times, sizes = Random(f"{seed}/arrivals"), Random(f"{seed}/lengths")
    process = ARRIVALS[config.arrivals]
    name = f"{config.arrivals}, {config.rate:g}/s"
    return ordered_trace(name, list(_requests(config, process.draw(config, times), lengths, sizes)))


def _requests(config: SyntheticConfig, gaps: Iterator[float], lengths: Lengths, rng: Random) -> Iterator[TraceRequest]:
    at_s = 0.0
    for gap_s in islice(gaps, config.count):
        at_s += gap_s
        if at_s > config.duration_s:
            return
        yield TraceRequest(at_s, *lengths(rng))


# -- arrivals ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Process:
    """How gaps between arrivals are drawn, and the options with their defaults."""

    draw: Callable[[SyntheticConfig, Random], Iterator[float]]
    defaults: Mapping[str, float]

    def option(self, config: SyntheticConfig, name: str) -> float:
        """Return an option of the process."""
        return config.options.get(name, self.defaults[name])


def _poisson(config: SyntheticConfig, rng: Random) -> Iterator[float]:
    while True:
        yield rng.expovariate(config.rate)


def _gamma(config: SyntheticConfig, rng: Random) -> Iterator[float]:
    shape = ARRIVALS["gamma"].option(config, "cv") ** -2
    while True:
        yield rng.gammavariate(shape, 1.0 / (shape * config.rate))


def _diurnal(config: SyntheticConfig, rng: Random) -> Iterator[float]:
    """Thin a Poisson process of the highest rate (Lewis and Shedler, 1979)."""
    process = ARRIVALS["diurnal"]
    swing, period_s = min(1.0, process.option(config, "swing")), process.option(config, "period")
    highest = config.rate * (1.0 + swing)
    at_s = last_s = 0.0
    while True:
        at_s += rng.expovariate(highest)
        rate = config.rate * (1.0 - swing * math.cos(2.0 * math.pi * at_s / period_s))
        if rng.random() * highest < rate:
            yield at_s - last_s
            last_s = at_s


def _bursts(config: SyntheticConfig, rng: Random) -> Iterator[float]:
    process = ARRIVALS["bursts"]
    burst_s, every_s, factor = (process.option(config, name) for name in ("burst", "every", "factor"))
    quiet_rate = config.rate * (burst_s + every_s) / (every_s + factor * burst_s)
    at_s = last_s = 0.0
    in_burst, until_s = False, rng.expovariate(1.0 / every_s)
    while True:
        gap_s = rng.expovariate(quiet_rate * factor if in_burst else quiet_rate)
        if at_s + gap_s > until_s:  # memoryless: draw anew from where the state changes
            at_s, in_burst = until_s, not in_burst
            until_s += rng.expovariate(1.0 / (burst_s if in_burst else every_s))
            continue
        at_s += gap_s
        yield at_s - last_s
        last_s = at_s


ARRIVALS: dict[str, Process] = {
    "poisson": Process(_poisson, {}),
    "gamma": Process(_gamma, {"cv": 2.0}),
    "diurnal": Process(_diurnal, {"swing": 0.8, "period": 86_400.0}),
    "bursts": Process(_bursts, {"burst": 10.0, "every": 60.0, "factor": 5.0}),
}

# -- lengths ----------------------------------------------------------------------------------------------------------

# Mean tokens of prompts and answers as DistServe's figure 7 gives them (OSDI'24); the spread of the logarithms is a
# choice of ours, near what such data sets show.
PUBLISHED: dict[str, tuple[str, str]] = {
    "sharegpt": ("lognormal:755.5:1.0", "lognormal:200.3:0.9"),
    "humaneval": ("lognormal:171.3:0.5", "lognormal:98.2:0.6"),
    "longbench": ("lognormal:1738.3:0.4", "lognormal:90.7:0.8"),
}


def independent_lengths(prompt: str, output: str) -> Lengths:
    """Return lengths of which prompt and output are drawn by themselves, each as ``fixed:N`` and the like says.

    Raises:
        ParamsError: if a text is no such distribution.
    """
    draw_prompt, draw_output = _distribution("prompt", prompt), _distribution("output", output)
    return lambda rng: (draw_prompt(rng), draw_output(rng))


def lengths_of(trace: Trace) -> Lengths:
    """Return lengths drawn from a trace's pairs, each as likely as it occurs."""
    pairs = [(one.num_prompt_tokens, one.num_output_tokens) for one in trace.requests]
    return lambda rng: rng.choice(pairs)


def published_lengths(name: str) -> Lengths:
    """Return the lengths of :data:`PUBLISHED` by name.

    Raises:
        ParamsError: if there are none of that name.
    """
    if name not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        remedy = f"Use one of {known}, or trace:FILE"
        raise ParamsError(f"there are no lengths {name!r}", field="lengths", remedy=remedy)
    return independent_lengths(*PUBLISHED[name])


def _distribution(name: str, text: str) -> Callable[[Random], int]:
    kind, *given = text.split(":")
    try:
        numbers = [float(number) for number in given]
    except ValueError:
        numbers = []
    if kind == "fixed" and len(numbers) == 1 and numbers[0] >= 1:
        return lambda rng: int(numbers[0])
    if kind == "uniform" and len(numbers) == 2 and 1 <= numbers[0] <= numbers[1]:
        return lambda rng: rng.randint(int(numbers[0]), int(numbers[1]))
    if kind == "lognormal" and len(numbers) == 2 and numbers[0] >= 1 and numbers[1] >= 0:
        mu = math.log(numbers[0]) - numbers[1] ** 2 / 2
        return lambda rng: min(MAX_TOKENS, max(1, round(rng.lognormvariate(mu, numbers[1]))))
    remedy = "Give fixed:N, uniform:LOW:HIGH or lognormal:MEAN:SIGMA, in tokens from 1"
    raise ParamsError(f"{text!r} is no distribution", field=name, remedy=remedy)
