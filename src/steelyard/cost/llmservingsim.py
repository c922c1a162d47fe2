"""Steps put together from LLMServingSim's measured operators: :class:`OperatorSteps`.

Its profiler measured every operator of one layer under vLLM: dense ones by tokens, the output projection and sampling
by sequences, attention by the prompt tokens of the step, their context before it, the decoding sequences and their
context. A step is their sum over the layers. Two things are filled in: decoding sequences of unlike contexts count with
the mean, moved towards the longest by a share that the profiler fitted to batches of unlike contexts; and of several
prompts in one step the longest is looked up together with the decodes, the others alone, less what an attention call
takes at least. Left out: power, and mixtures of experts.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import final

from steelyard.core.errors import InputError, StorageError
from steelyard.core.names import pick
from steelyard.cost.estimate import StepEstimate
from steelyard.cost.roofline import SequenceShape, StepShape
from steelyard.cost.tables import Grid, InterpolationError, Point

LLAMA_3_8B_LAYERS = 32
SHIPPED = ("rtx-4090", "rtx-pro-6000")
# The profile's alpha_default on the RTX PRO 6000 with one device; it was not fitted on the RTX 4090, and carried over.
_SKEW = 0.0543
_MICRO = 1e-6
_ONCE = ("embedding", "final_layernorm")
_TWICE = ("layernorm",)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSteps:
    """A :class:`~steelyard.cost.estimate.StepModel` of measured operators; all tables in microseconds.

    Attributes:
        num_layers: of the model.
        dense: by tokens of the step: all layers' operators and those that run once.
        per_sequence: by sequences of the step.
        decodes: attention of one layer by decoding sequences and their context.
        mixed: by prompt tokens, context before them, decoding sequences (0 too) and their context.
        skew: how far decodes of unlike contexts take what their mean takes (0), or what their longest does (1).
        overhead_s: of every step beside its operators.
    """

    num_layers: int
    dense: Grid
    per_sequence: Grid
    decodes: Grid
    mixed: Grid
    skew: float = 0.0
    overhead_s: float = 0.0

    def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
        """See :class:`~steelyard.cost.estimate.StepModel`; one clock was measured only.

        Raises:
            InputError: if the devices are not at their full clock.
        """
        if clock_share != 1.0:
            problem = f"{clock_share:g} of the clock was not measured"
            raise InputError(problem, field="clock_share", remedy="Use another cost source for capped devices")
        if not step.sequences:
            return StepEstimate(self.overhead_s)
        micro = self.dense.at(step.num_tokens) + self.per_sequence.at(len(step.sequences))
        return StepEstimate(self.overhead_s + _MICRO * (micro + self.num_layers * self._attention(step)))

    def errors(self) -> Mapping[str, InterpolationError]:
        """Return the leave-one-out error of every table."""
        tables = ("dense", "per_sequence", "decodes", "mixed")
        return {name: getattr(self, name).error() for name in tables}

    def _attention(self, step: StepShape) -> float:
        contexts = [one.context_after for one in step.sequences if one.num_new_tokens == 1]
        prompts = sorted((one for one in step.sequences if one.num_new_tokens > 1), key=_pairs)
        mean = sum(contexts) / len(contexts) if contexts else 0.0
        context = mean + self.skew * (max(contexts, default=0) - mean)
        if not prompts:
            return self.decodes.at(len(contexts), context)
        least = self.mixed.at(0, 0, 0, 0)
        others = sum(max(0.0, self._prompt(one) - least) for one in prompts[:-1])
        longest = prompts[-1]
        return others + self.mixed.at(longest.num_new_tokens, _history(longest), len(contexts), context)

    def _prompt(self, prompt: SequenceShape) -> float:
        return self.mixed.at(prompt.num_new_tokens, _history(prompt), 0, 0)


def shipped_steps(device: str) -> OperatorSteps:
    """Return the steps of Llama-3.1-8B in bfloat16 under vLLM on one device.

    Args:
        device: ``rtx-4090`` or ``rtx-pro-6000``.

    Raises:
        InputError: if it was not measured; it lists what was.
    """
    return _read_shipped(pick({name: name for name in SHIPPED}, device, field="device"))


@cache
def _read_shipped(device: str) -> OperatorSteps:
    folder = resources.files("steelyard.cost").joinpath("data", "llmservingsim", device)
    return read_steps(folder, LLAMA_3_8B_LAYERS, skew=_SKEW)


def read_steps(folder: Traversable, num_layers: int, *, skew: float = 0.0) -> OperatorSteps:
    """Return the steps of a profile: a folder with ``dense.csv``, ``per_sequence.csv`` and ``attention.csv``.

    Files may be compressed (``….csv.gz``).

    Args:
        folder: of one model on one device, for one degree of tensor parallelism.
        num_layers: of the model.
        skew: see :class:`OperatorSteps`.

    Raises:
        StorageError: if a file is missing.
        InputError: if a table has no rows, or holes.
    """
    attention = {_attention_point(row): float(row["time_us"]) for row in _rows(folder, "attention")}
    return OperatorSteps(
        num_layers=num_layers,
        dense=Grid(_summed(folder, "dense", "tokens", num_layers)),
        per_sequence=Grid(_summed(folder, "per_sequence", "sequences", 1)),
        decodes=Grid({(n, kv): time for (chunk, _, n, kv), time in attention.items() if chunk == 0}),
        mixed=Grid(_mixed(attention)),
        skew=skew,
    )


def _mixed(attention: Mapping[Point, float]) -> dict[Point, float]:
    """Return attention with prompts on a grid without holes.

    Without a decode their context does not matter, and without a prompt its context; without both, what the smallest
    call takes stands in. Some profiles hold a second, finer grid with holes; the first one is of powers of two. Numbers
    of decodes that were not measured with prompts are left out.
    """
    with_prompt = {point for point in attention if point[0] > 0 and all(map(_is_power_of_two, point))}
    chunks, histories, counts, contexts = (sorted({point[i] for point in with_prompt}) for i in range(4))
    least = min(attention.values())
    found = dict[Point, float]()
    for n in counts:
        for kv in contexts:
            asked = kv if n else 0.0
            if n and not kv:
                asked = contexts[1]
            for history in histories:
                for chunk in chunks:
                    key = (chunk, history, n, asked)
                    if key not in attention:
                        raise InputError(f"it has no value at {key}", field="attention", remedy="Complete the table")
                    found[chunk, history, n, kv] = attention[key]
                found[0.0, history, n, kv] = attention[0.0, 0.0, n, asked] if n else least
    return found


def _is_power_of_two(number: float) -> bool:
    return int(number) & (int(number) - 1) == 0


def _attention_point(row: Mapping[str, str]) -> Point:
    return tuple(float(row[key]) for key in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"))


def _summed(folder: Traversable, name: str, size: str, num_layers: int) -> dict[Point, float]:
    """Return the operators' times by size, summed over one step."""
    found: dict[Point, float] = defaultdict(float)
    for row in _rows(folder, name):
        calls = 1 if row["layer"] in _ONCE else num_layers * (2 if row["layer"] in _TWICE else 1)
        found[(float(row[size]),)] += calls * float(row["time_us"])
    return dict(found)


def _rows(folder: Traversable, name: str) -> Iterator[dict[str, str]]:
    plain, packed = folder.joinpath(f"{name}.csv"), folder.joinpath(f"{name}.csv.gz")
    if plain.is_file():
        text = plain.read_text(encoding="utf-8")
    elif packed.is_file():
        text = gzip.decompress(packed.read_bytes()).decode()
    else:
        raise StorageError("is not there", field=str(plain), remedy="Give a folder with the profile's tables")
    return csv.DictReader(text.splitlines())


def _history(prompt: SequenceShape) -> int:
    return prompt.context_after - prompt.num_new_tokens


def _pairs(prompt: SequenceShape) -> int:
    return prompt.num_new_tokens * (prompt.context_after + _history(prompt))
