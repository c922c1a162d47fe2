"""A decoder's step whose matrix products are predicted by a learned :class:`GemmPredictor`, the rest by the roofline.

Every product is asked for by its own shape, so that a step of 129 tokens pays for the second row of tiles. What the
predictor does not know (attention, norms, sampling) follows after, at the roofline's limit: a prediction is therefore
too fast rather than too slow for long contexts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from steelyard.core.errors import InputError
from steelyard.cost.estimate import StepEstimate
from steelyard.cost.learned.gemm import GemmEstimate, GemmPredictor
from steelyard.cost.operators import LINEAR, LM_HEAD, operator_costs
from steelyard.cost.roofline import ModelShape, StepShape

_CACHED_ESTIMATES = 4096


@dataclass(frozen=True, slots=True)
class MatrixShape:
    """Weights of ``rows_in × columns_out`` that every token of a step is multiplied by, in so many places."""

    columns_out: int
    rows_in: int
    num_places: int


def layer_matrices(model: ModelShape) -> tuple[MatrixShape, ...]:
    """Return the matrices of all layers: queries, keys and values in one; output; the feed-forward network's.

    Raises:
        InputError: if they cannot be told from the shape: a mixture of experts, or an unknown feed-forward size.
    """
    size, hidden, layers = model.feed_forward_size, model.hidden_size, model.num_layers
    queries, keys = model.num_heads * model.head_dim, 2 * model.num_kv_heads * model.head_dim
    left_over = model.num_layer_params - layers * hidden * (2 * queries + keys)
    num_up = 0 if size is None else left_over // (layers * hidden * size) - 1
    if size is None or num_up not in (1, 2) or left_over != layers * hidden * size * (num_up + 1):
        problem = "its matrices do not follow from its sizes"
        raise InputError(problem, field="num_layer_params", remedy="Use the roofline for mixtures of experts")
    return (
        MatrixShape(queries + keys, hidden, layers),
        MatrixShape(hidden, queries, layers),
        MatrixShape(num_up * size, hidden, layers),
        MatrixShape(hidden, size, layers),
    )


class LearnedStepModel:
    """Steps of one decoder in 32-bit floats on the GPU that a predictor was trained on; a
    :class:`~steelyard.cost.estimate.StepModel`.

    Args:
        model: its ``dtype`` must be ``float32``.
        predictor: of matrix products.
        overhead_s: fixed time per step.

    Raises:
        InputError: if the model computes in another format, or its matrices cannot be told from its shape.
    """

    def __init__(self, model: ModelShape, predictor: GemmPredictor, *, overhead_s: float = 0.0) -> None:
        if model.dtype != "float32":
            problem = f"nothing was measured in {model.dtype}"
            raise InputError(problem, field="dtype", remedy="Use float32, or the roofline for other formats")
        self._model = model
        self._matrices = layer_matrices(model)
        self._device = predictor.gpu.device
        self._overhead_s = overhead_s
        self._product = lru_cache(maxsize=_CACHED_ESTIMATES)(predictor.predict)

    def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
        """See :class:`~steelyard.cost.estimate.StepModel`; the power is that of the products, and unknown without
        products or below the full clock, at which alone it was measured.
        """  # fmt: skip
        products = self._products(step, clock_share)
        seconds = sum(found.seconds for found in products)
        joules = sum(found.seconds * found.watts for found in products)
        watts = joules / seconds if products and clock_share == 1 else None
        return StepEstimate(seconds=seconds + self._other_s(step) + self._overhead_s, watts=watts)

    def _products(self, step: StepShape, clock_share: float) -> list[GemmEstimate]:
        """Return what each matrix takes in all its places together."""
        if not step.sequences:
            return []
        head = MatrixShape(self._model.vocab_size, self._model.hidden_size, 1)
        asked = [*((step.num_tokens, matrix) for matrix in self._matrices), (len(step.sequences), head)]
        found = []
        for num_rows, matrix in asked:
            one = self._product(num_rows, matrix.columns_out, matrix.rows_in, clock_share=clock_share)
            found.append(GemmEstimate(matrix.num_places * one.seconds, one.watts))
        return found

    def _other_s(self, step: StepShape) -> float:
        """Return the limits of what is no product of weights; as most of it waits for memory, no clock helps it."""
        costs = operator_costs(self._model, step, self._device)
        return sum(cost.limit_s for cost in costs if cost.name not in (LINEAR, LM_HEAD))
