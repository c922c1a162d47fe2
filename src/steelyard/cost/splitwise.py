"""Steps as Splitwise's authors measured them (S19): Llama-2-70B and BLOOM-176B on A100 and H100 machines.

Two tables: a step of prompts by its tokens, a step of decodes by its sequences (each with some 576 tokens of context),
with the growth by context that batches of one show. A step that mixes both counts as one of prompts with a token more
per decode. Of several measurements with equal tokens the quickest counts; one that undercuts a smaller one by a fifth
is taken for a slip and left out. Power, where it was measured, is a share of the devices' thermal design power: the
peak of the prompt phase, and for decodes the average of the whole run, which they fill.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import final

from steelyard.core.errors import InputError
from steelyard.cost.estimate import StepEstimate
from steelyard.cost.roofline import StepShape
from steelyard.cost.tables import Grid, InterpolationError, Point
from steelyard.hardware.catalogue.read import find_device

_PROMPT_TOKENS = 512  # of all batches larger than one
_MEAN_CONTEXT = _PROMPT_TOKENS + 64
_SLIP = 0.8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSteps:
    """A :class:`~steelyard.cost.estimate.StepModel` of two measured phases.

    Attributes:
        prompts: seconds by tokens of a step of prompts.
        decodes: seconds by sequences of a step of decodes.
        context_s: of each token of context beyond those that ``decodes`` was measured with.
        prompt_watts: of all devices by tokens; ``None`` if not measured.
        decode_watts: of all devices by sequences; ``None`` if not measured.
    """

    prompts: Grid
    decodes: Grid
    context_s: float
    prompt_watts: Grid | None = None
    decode_watts: Grid | None = None

    def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
        """See :class:`~steelyard.cost.estimate.StepModel`; one clock was measured only.

        Raises:
            InputError: if the devices are not at their full clock.
        """
        if clock_share != 1.0:
            problem = f"{clock_share:g} of the clock was not measured"
            raise InputError(problem, field="clock_share", remedy="Use another cost source for capped devices")
        count = len(step.sequences)
        if count == 0:
            return StepEstimate(0.0)
        if step.num_tokens > count:
            return StepEstimate(self.prompts.at(step.num_tokens), _within(self.prompt_watts, step.num_tokens))
        beyond = sum(one.context_after - _MEAN_CONTEXT for one in step.sequences)
        least = self.decodes.at(1)
        seconds = max(least, self.decodes.at(count) + self.context_s * beyond)
        return StepEstimate(seconds, _within(self.decode_watts, count))

    def errors(self) -> Mapping[str, InterpolationError]:
        """Return the leave-one-out error of both phases' times."""
        return {"prompts": self.prompts.error(), "decodes": self.decodes.error()}


def splitwise_steps(model: str, device: str, tp: int) -> PhaseSteps:
    """Return the steps of a measured model.

    Args:
        model: ``llama2-70b`` or ``bloom-176b``.
        device: ``a100-80gb`` or ``h100``.
        tp: tensor-parallel degree.

    Raises:
        InputError: if it was not measured; it lists what was.
    """
    key = (model, device, tp)
    if key not in _tables():
        known = ", ".join(f"{name} {of} tp{degree}" for name, of, degree in _tables())
        raise InputError(f"there is no profile of {model} {device} tp{tp}", field="profile", remedy=f"Use {known}")
    return _steps(_tables()[key], _peak_watts(device) * tp)


def _steps(rows: Sequence[_Row], watts: float) -> PhaseSteps:
    single = {row.prompt_tokens: row.token_s for row in rows if row.batch == 1}
    shortest, longest = min(single), max(single)
    growth = (single[longest] - single[shortest]) / (longest - shortest)
    batches = [row for row in rows if row.prompt_tokens == _PROMPT_TOKENS]
    return PhaseSteps(
        prompts=Grid(_rising((row.num_tokens, row.prompt_s) for row in rows)),
        decodes=Grid({(row.batch,): row.token_s for row in batches}),
        context_s=max(0.0, growth),
        prompt_watts=_grid({(row.num_tokens,): row.prompt_share * watts for row in rows if row.prompt_share}),
        decode_watts=_grid({(row.batch,): row.token_share * watts for row in batches if row.token_share}),
    )


def _peak_watts(device: str) -> float:
    watts = find_device(device).peak_watts
    assert watts is not None, "the catalogue knows the power of what was measured"
    return watts


def _rising(points: Iterable[tuple[int, float]]) -> dict[Point, float]:
    """Return the times by size, the quickest of each size, without those that undercut a smaller size by a fifth."""
    found = dict[Point, float]()
    longest = 0.0
    for size, seconds in sorted(points):
        if (float(size),) not in found and seconds >= _SLIP * longest:
            found[(float(size),)] = seconds
            longest = max(longest, seconds)
    return found


def _within(grid: Grid | None, size: float) -> float | None:
    """Return what the table says, not beyond its last point: power does not rise for ever."""
    return None if grid is None else grid.at(min(size, grid.axes[0][-1]))


def _grid(values: Mapping[Point, float]) -> Grid | None:
    return Grid(values) if values else None


@dataclass(frozen=True, slots=True)
class _Row:
    prompt_tokens: int
    batch: int
    prompt_s: float
    token_s: float
    prompt_share: float | None
    token_share: float | None

    @property
    def num_tokens(self) -> int:
        return self.prompt_tokens * self.batch


@cache
def _tables() -> Mapping[tuple[str, str, int], Sequence[_Row]]:
    text = resources.files("steelyard.cost").joinpath("data", "splitwise.csv").read_text(encoding="utf-8")
    found = dict[tuple[str, str, int], list[_Row]]()
    for row in csv.DictReader(text.splitlines()):
        shares = (float(row[key]) if row[key] else None for key in ("prompt_tdp_share", "token_tdp_share"))
        sizes, times = (int(row["prompt_tokens"]), int(row["batch"])), (float(row["prompt_s"]), float(row["token_s"]))
        found.setdefault((row["model"], row["device"], int(row["tp"])), []).append(_Row(*sizes, *times, *shares))
    return found
