"""How fast a model should run on a measured machine: time to first token, and tokens per second after it.

One prompt is prefilled in one step, then one sequence is decoded. Left out: batches, chunked prefills, and tokens
already in the prefix cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.core.errors import ParamsError
from steelyard.cost.calibration import IDEAL, Calibration
from steelyard.cost.operators import OperatorCost, operator_costs, total_s
from steelyard.cost.roofline import ModelShape, SequenceShape, StepShape
from steelyard.hardware.device import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class StepForecast:
    """What a step should take.

    Attributes:
        predicted_s: by the calibration; ``None`` if it does not cover the model's number format.
        limit_s: by the roofline of the measured machine.
        operators: both, taken apart.
    """

    predicted_s: float | None
    limit_s: float
    operators: tuple[OperatorCost, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedForecast:
    """What one user should see.

    Attributes:
        prompt_tokens: that the first token waits for, of each prompt.
        batch: prompts at once.
        context: tokens that a decode step in the middle of the answer sees.
        prefill: of the whole prompt; its time is the time to first token.
        decode: of one token.
    """

    prompt_tokens: int
    batch: int
    context: int
    prefill: StepForecast
    decode: StepForecast

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Prompt tokens of the whole batch per second, predicted."""
        return None if self.prefill.predicted_s is None else self.batch * self.prompt_tokens / self.prefill.predicted_s

    @property
    def prefill_limit_per_s(self) -> float:
        """The same by the roofline."""
        return self.batch * self.prompt_tokens / self.prefill.limit_s

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens of one sequence after its first per second, predicted."""
        return None if self.decode.predicted_s is None else 1 / self.decode.predicted_s

    @property
    def decode_limit_per_s(self) -> float:
        """The same by the roofline."""
        return 1 / self.decode.limit_s


def forecast(
    model: ModelShape,
    device: Device,
    calibration: Calibration | None,
    *,
    prompt_tokens: int,
    output_tokens: int = 1,
    batch: int = 1,
) -> SpeedForecast:
    """Return how fast ``model`` should answer ``batch`` prompts at once on ``device``.

    Args:
        calibration: of the engine; ``None`` if nobody measured it, which leaves the limits.
        prompt_tokens: of each prompt.
        output_tokens: of each answer; a decode step is taken from its middle.
        batch: prompts prefilled in one step, then decoded together.

    Raises:
        ParamsError: if a number is below 1.
        InputError: if the device's rate in the model's number format, or its bandwidth, is not known.
    """
    for name, number in (("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens), ("batch", batch)):
        if number < 1:
            raise ParamsError(f"{number} is below 1", field=name, remedy="Give a positive number")
    context = prompt_tokens + max(1, output_tokens // 2)
    prefill = StepShape((SequenceShape(prompt_tokens, prompt_tokens),) * batch)
    decode = StepShape((SequenceShape(1, context),) * batch)
    return SpeedForecast(
        prompt_tokens=prompt_tokens,
        batch=batch,
        context=context,
        prefill=_step(model, prefill, device, calibration),
        decode=_step(model, decode, device, calibration),
    )


def _step(model: ModelShape, step: StepShape, device: Device, calibration: Calibration | None) -> StepForecast:
    covered = calibration is not None and calibration.covers(model.dtype)
    costs = operator_costs(model, step, device, calibration if calibration is not None and covered else IDEAL)
    predicted_s, limit_s = total_s(costs)
    return StepForecast(predicted_s=predicted_s if covered else None, limit_s=limit_s, operators=costs)
