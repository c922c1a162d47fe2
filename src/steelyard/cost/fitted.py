"""Steps whose time was fitted to measurements by polynomials: DistServe's profiles of OPT on A100 (S53).

A step of prompts takes a + b · Σn + c · Σn², one of decodes a + b · Σcontext + c · sequences, with other coefficients
for large batches. What the profiles do not say is filled in here: a chunk of a prompt counts the difference of the
squares at its end and its beginning, and a step that mixes both pays the larger fixed part once. Power is not known.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, final

from steelyard.core.errors import InputError
from steelyard.cost.estimate import StepEstimate
from steelyard.cost.roofline import StepShape

_MS = 1e-3
_FILE = "distserve_a100_80gb.toml"
_ROOMS = "kv_tokens"


@dataclass(frozen=True, slots=True)
class Polynomial:
    """``fixed + first · x + second · y``, milliseconds."""

    fixed: float
    first: float
    second: float

    def growth(self, x: float, y: float) -> float:
        """Return what depends on the step, never below zero: some fits leave their range downwards."""
        return max(0.0, self.first * x + self.second * y)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSteps:
    """A :class:`~steelyard.cost.estimate.StepModel` of fitted polynomials.

    Attributes:
        prefill: of the sums of prompt tokens and of their squares.
        decode_small: of the sum of contexts and the number of sequences, up to ``threshold`` sequences.
        decode_large: the same beyond it.
        overhead_s: of a step with nothing to compute.
    """

    prefill: Polynomial
    decode_small: Polynomial
    decode_large: Polynomial
    threshold: int
    overhead_s: float = 0.0

    def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
        """See :class:`~steelyard.cost.estimate.StepModel`; the fits know one clock only.

        Raises:
            InputError: if the devices are not at their full clock.
        """
        if clock_share != 1.0:
            problem = f"{clock_share:g} of the clock was not measured"
            raise InputError(problem, field="clock_share", remedy="Use another cost source for capped devices")
        fixed_ms = growth_ms = 0.0
        prompts = [(s.num_new_tokens, s.context_after) for s in step.sequences if s.num_new_tokens > 1]
        contexts = [s.context_after for s in step.sequences if s.num_new_tokens == 1]
        if prompts:
            squares = sum(float(end * end - (end - new) ** 2) for new, end in prompts)
            fixed_ms = self.prefill.fixed
            growth_ms += self.prefill.growth(sum(new for new, _ in prompts), squares)
        if contexts:
            decode = self.decode_small if len(contexts) <= self.threshold else self.decode_large
            fixed_ms = max(fixed_ms, decode.fixed)
            growth_ms += decode.growth(sum(contexts), len(contexts))
        return StepEstimate(self.overhead_s + _MS * (fixed_ms + growth_ms))


def distserve_steps(model: str, engine: str, tp: int) -> FittedSteps:
    """Return a published profile.

    Args:
        model: ``opt-13b`` or ``opt-66b``.
        engine: ``distserve`` or ``vllm``, whose kernels were measured.
        tp: tensor-parallel degree.

    Raises:
        InputError: if nobody measured that; it lists what was.
    """
    profiles = _profiles()
    key = (model, engine, tp)
    if key not in profiles:
        known = ", ".join(f"{name} {engine} tp{tp}" for name, engine, tp in sorted(profiles))
        raise InputError(f"there is no profile of {model} {engine} tp{tp}", field="profile", remedy=f"Use {known}")
    return profiles[key]


def distserve_kv_tokens(model: str, tp: int, pp: int) -> int:
    """Return the tokens that the published profile's KV cache has room for, in all stages together.

    Args:
        model: ``opt-13b`` or ``opt-66b``.
        tp: tensor-parallel degree.
        pp: pipeline-parallel degree.

    Raises:
        InputError: if it was not stated; it lists what was.
    """
    rooms: Mapping[str, int] = _table()[_ROOMS].get(model, {})
    degrees = f"tp{tp}pp{pp}"
    if degrees not in rooms:
        known = ", ".join(rooms) or ", ".join(_table()[_ROOMS])
        raise InputError(f"there is no KV room of {model} {degrees}", field="profile", remedy=f"Use {known}")
    return rooms[degrees]


def _profiles() -> dict[tuple[str, str, int], FittedSteps]:
    return {
        (model, engine, int(tp.removeprefix("tp"))): _steps(entry)
        for model, engines in _table().items()
        if model != _ROOMS
        for engine, degrees in engines.items()
        for tp, entry in degrees.items()
    }


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads(resources.files("steelyard.cost").joinpath("data", _FILE).read_text(encoding="utf-8"))


def _steps(entry: Mapping[str, Any]) -> FittedSteps:
    prefill, small, large = (Polynomial(*entry[name]) for name in ("prefill", "decode_small", "decode_large"))
    return FittedSteps(prefill=prefill, decode_small=small, decode_large=large, threshold=entry["threshold"])
