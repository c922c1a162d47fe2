"""What was to be expected of a run, beside what was measured: predicted | measured | limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from steelyard.cli.loading import Loaded
from steelyard.cli.output import format_table
from steelyard.cli.probe_tables import format_fine_seconds
from steelyard.cli.profiles import KnownMachine, known_machine
from steelyard.core.errors import InputError
from steelyard.cost.operators import OperatorRow, operator_rows
from steelyard.cost.roofline import ModelShape
from steelyard.engine.build import Parts
from steelyard.engine.prediction import model_shape, num_weights, quantised_shape
from steelyard.models.quantised import QuantisedEmbedding
from steelyard.plan.speed import SpeedForecast, StepForecast, forecast


@dataclass(frozen=True, slots=True)
class Compared:
    """One rate, tokens per second; ``None`` where it is not known."""

    predicted: float | None
    measured: float | None
    limit: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the cost model says of a run.

    Attributes:
        origin: what it was predicted from, in words.
        speed: ``None`` if the device's rates are not known.
    """

    origin: str
    speed: SpeedForecast | None

    def prefill(self, measured: float | None) -> Compared:
        """Return prompt tokens per second, all prompts together."""
        if self.speed is None:
            return Compared(None, measured, None)
        return Compared(self.speed.prefill_tokens_per_s, measured, self.speed.prefill_limit_per_s)

    def decode(self, measured: float | None) -> Compared:
        """Return one sequence's tokens per second after its first."""
        if self.speed is None:
            return Compared(None, measured, None)
        return Compared(self.speed.decode_tokens_per_s, measured, self.speed.decode_limit_per_s)


def expectation(loaded: Loaded, *, prompt_tokens: int, output_tokens: int, batch: int = 1) -> Expectation:
    """Return what to expect of ``batch`` prompts at once; measures this machine quickly if nobody did."""
    return _expectation(loaded, known_machine(), prompt_tokens, output_tokens, batch)


def _expectation(
    loaded: Loaded, known: KnownMachine, prompt_tokens: int, output_tokens: int, batch: int
) -> Expectation:
    parts = loaded.llm.engine.parts
    device = str(next(parts.model.module.parameters()).device)
    try:
        speed = forecast(
            held_shape(parts),
            known.profile.machine.device(device),
            known.profile.calibration if device == "cpu" else None,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            batch=batch,
        )
    except InputError:
        speed = None
    return Expectation(origin=known.origin, speed=speed)


def held_shape(parts: Parts) -> ModelShape:
    """Return what decides a loaded model's cost, in the formats that its weights and its KV cache are held in."""
    config, kv_bytes = parts.model.config, parts.runner.kv_shape.dtype.itemsize
    if isinstance(parts.model.module.embed, QuantisedEmbedding):
        return quantised_shape(config, parts.model.weight_bytes / num_weights(config), kv_bytes)
    return replace(model_shape(config, parts.dtype), kv_bytes=kv_bytes)


def comparison_table(rates: Mapping[str, Compared]) -> str:
    """Return the table of rates."""
    rows = [(name, _shown(one.predicted), _shown(one.measured), _shown(one.limit)) for name, one in rates.items()]
    return format_table(("TOKENS/S", "PREDICTED", "MEASURED", "LIMIT"), rows)


def comparison_fields(expected: Expectation, rates: Mapping[str, Compared]) -> dict[str, Any]:
    """Return the rates and their origin for JSON."""
    return {"predicted_from": expected.origin, **{name: asdict(one) for name, one in rates.items()}}


def operator_table(step: StepForecast, measured: Mapping[str, float] | None = None) -> str:
    """Return a step taken apart; ``measured`` is seconds by operator, as far as somebody measured them."""
    headers = ("OPERATOR", "SHARE", "PREDICTED", "MEASURED", "LIMIT")
    return format_table(headers, [_operator_row(row) for row in operator_rows(step.operators, measured)])


def _operator_row(row: OperatorRow) -> tuple[str, ...]:
    measured = "–" if row.measured_s is None else format_fine_seconds(row.measured_s)
    return (
        row.name, f"{row.share:.0%}", format_fine_seconds(row.predicted_s), measured, format_fine_seconds(row.limit_s)
    )  # fmt: skip


def _shown(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1f}"
