"""What the steps of a running engine did and where their time went, for the comparison with what was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.cost.operators import OPERATORS, STEP
from steelyard.cost.roofline import SequenceShape, StepShape
from steelyard.engine.model_runner import ModelRunner
from steelyard.engine.view import StepRecord


@dataclass(frozen=True, slots=True)
class ProfiledStep:
    """One step.

    Attributes:
        shape: what it computed.
        seconds: by operator, as far as the model tells; together the whole step if it tells all.
    """

    shape: StepShape
    seconds: Mapping[str, float]

    @property
    def is_decode(self) -> bool:
        """Whether every sequence computed one token."""
        return all(sequence.num_new_tokens == 1 for sequence in self.shape.sequences)


class StepProfiler:
    """An :data:`~steelyard.engine.view.Observer` that keeps every step; it costs a step some microseconds.

    Args:
        runner: the engine's. Nobody else may take its profile meanwhile.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self.steps: list[ProfiledStep] = []
        self._runner = runner
        self.restart()

    def restart(self) -> None:
        """Forget all steps, and what the runner did while nobody observed it."""
        self.steps.clear()
        self._runner.take_profile()

    def __call__(self, record: StepRecord) -> None:
        """Keep the step that has just ended."""
        seconds = self._runner.take_profile()
        if not record.works:
            return
        if all(name in seconds for name in OPERATORS if name != STEP):
            seconds[STEP] = max(record.end_s - record.start_s - sum(seconds.values()), 0.0)
        shapes = tuple(SequenceShape(count, start + count) for _, start, count in record.works)
        self.steps.append(ProfiledStep(StepShape(shapes), seconds))
